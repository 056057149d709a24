"""A kernel module that the loader of its kernel takes."""

import re
import struct

from supermachine_kernel import InspectionError

from .elf import ELF_TYPES, ET_REL, Section, read_elf, read_sections

# include/linux/vermagic.h: the kernel release, then its options, in one line of text.
_VERMAGIC = re.compile(rb"[\x21-\x7e]+( [\x20-\x7e]*)?")
_THIS_MODULE = b".gnu.linkonce.this_module"
_SHT_SYMTAB, _SHT_STRTAB, _SHT_RELA, _SHT_REL = 2, 3, 4, 9
_SHN_UNDEF = 0
_SYMBOL = struct.Struct("<I BBH QQ")
_RELOCATION = struct.Struct("<Q II q")  # r_info is the type, then the symbol's index, in this byte order

_EXPECTED = "a kernel module"
_CURE = "take the .ko that was built with this kernel's own tree"
_STRIPPED = "it was stripped, as strip or a freezer's --strip does: take the .ko as the kernel's build left it"


def verify_module(data: bytes, elf_machine: str, name: str = "smpark.ko") -> str:
    """Verify that `data` is a module for that machine, whole enough to be loaded; return its vermagic.

    The vermagic's first word is the release of the kernel it loads into.
    """
    elf = read_elf(data, elf_machine, name, f"a kernel module for {elf_machine}", _CURE)
    if elf.type != ET_REL:
        raise InspectionError(name, _EXPECTED, ELF_TYPES.get(elf.type, "no relocatable file"), _CURE)
    sections = read_sections(data, elf, name, _CURE)
    by_name = {section.name: section for section in sections}
    for wanted in (b".modinfo", _THIS_MODULE):
        if wanted not in by_name:
            raise InspectionError(name, _EXPECTED, f"a relocatable file without {wanted.decode()}", _CURE)
    _verify_symbols(sections, len(data), name)
    for item in bytes(by_name[b".modinfo"].content).split(b"\0"):
        key, _, value = item.partition(b"=")
        if key == b"vermagic" and _VERMAGIC.fullmatch(value):
            return value.decode()
    raise InspectionError(name, "a vermagic in .modinfo", "none", _CURE)


def _verify_symbols(sections: list[Section], size: int, name: str) -> None:
    """What kernel/module/main.c asks of symbols and relocations, and what it takes on trust.

    A module without the relocations of its own `struct module` would be loaded and never called, and one without
    those of its code would jump to where nothing is.
    """
    tables = [number for number, section in enumerate(sections) if section.kind == _SHT_SYMTAB]
    if len(tables) != 1:
        raise InspectionError(name, "one symbol table", str(len(tables) or "none"), _STRIPPED)
    table = sections[tables[0]]
    strings = sections[table.link] if table.link < len(sections) else None
    if strings is None or strings.kind != _SHT_STRTAB:
        raise InspectionError(name, "a string table of its symbols", "none", _STRIPPED)
    names = bytes(strings.content)
    if not names or names[0] or names[-1]:
        raise InspectionError(name, "a string table that begins and ends with a zero byte", "another", _STRIPPED)
    content = table.content[: len(table.content) - len(table.content) % _SYMBOL.size]
    symbols = list(_SYMBOL.iter_unpack(content))
    if any(symbol[0] >= len(names) for symbol in symbols):
        raise InspectionError(name, "symbols with names in their string table", "one beyond its end", _STRIPPED)
    referenced, relocated = _relocations(sections, tables[0], len(symbols), size, name)
    if _THIS_MODULE not in relocated:
        raise InspectionError(name, f"relocations for {_THIS_MODULE.decode()}", "none", _STRIPPED)
    for number, (at, _info, _other, section, *_) in enumerate(symbols):
        if number and at and section == _SHN_UNDEF and number not in referenced:
            symbol = names[at : names.index(b"\0", at)].decode(errors="replace")
            raise InspectionError(name, f"a relocation that uses the kernel's {symbol}", "none", _STRIPPED)


def _relocations(
    sections: list[Section], symbol_table: int, count: int, size: int, name: str
) -> "tuple[set[int], set[bytes]]":
    """The symbols that relocations use, by index, and the names of the sections that have any.

    `count` is the number of symbols, `size` that of the file's bytes.
    """
    referenced: set[int] = set()
    relocated: set[bytes] = set()
    if sum(len(section.content) for section in sections if section.kind == _SHT_RELA) > size:
        raise InspectionError(name, "relocations that lie side by side", "some over others", _CURE)
    for section in sections:
        if section.kind == _SHT_REL:
            raise InspectionError(name, "relocations with addends (SHT_RELA)", "some without", _CURE)
        if section.kind != _SHT_RELA or not section.content:
            continue
        if section.link != symbol_table or section.info >= len(sections):
            raise InspectionError(name, "relocations of one of its sections by its symbols", "others", _STRIPPED)
        target = sections[section.info]
        content = section.content[: len(section.content) - len(section.content) % _RELOCATION.size]
        for offset, _type, symbol, _addend in _RELOCATION.iter_unpack(content):
            if symbol >= count or offset >= len(target.content):
                raise InspectionError(name, "relocations inside a section", f"one at {offset:#x}", _STRIPPED)
            referenced.add(symbol)
        relocated.add(target.name)
    return referenced, relocated
