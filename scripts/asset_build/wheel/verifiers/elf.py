"""The tables of a 64-bit little-endian ELF file, each inside the file.

ELF-64 Object File Format, figures 2, 3, 5, 6 and 7. The numbers of machines are those of include/uapi/linux/elf-em.h.
"""

import struct
from typing import NamedTuple

from supermachine_kernel import InspectionError

ET_REL, ET_EXEC, ET_DYN = 1, 2, 3
ELF_TYPES = {ET_REL: "a relocatable file", ET_EXEC: "an executable", ET_DYN: "a shared library", 4: "a core file"}
TRUNCATED = "it is truncated: copy it again"

_HEADER = struct.Struct("<16s HHI QQQ I HHHHHH")
_SEGMENT = struct.Struct("<II QQQ QQQ")
_SECTION = struct.Struct("<II QQQQ II QQ")
_MACHINES = {3: "i386", 40: "32-bit ARM", 62: "x86-64", 183: "AArch64", 243: "RISC-V"}
_SHT_NOBITS = 8
_LONGEST_NAME = 64
"""Enough for every section name that is looked for."""


class Elf(NamedTuple):
    """The header: type, entry point, where the entries of both tables are, the section with the sections' names."""

    type: int
    entry: int
    segments: range
    sections: range
    names_index: int


class Segment(NamedTuple):
    """A program header."""

    kind: int
    flags: int
    offset: int
    address: int
    physical_address: int
    size: int
    memory_size: int
    alignment: int


class Section(NamedTuple):
    """A section header, and the section's name and content (none where it takes up memory alone)."""

    name: bytes
    kind: int
    flags: int
    link: int
    info: int
    content: memoryview


def read_elf(data: bytes, elf_machine: str, name: str, expected: str, cure: str) -> Elf:
    """Read the header. Raises InspectionError for another machine's, or when a table is not inside the file.

    `elf_machine` is the name of the machine as a guest set has it.
    """
    if len(data) < _HEADER.size or data[:4] != b"\x7fELF":
        found = "an empty file" if not data else "a script" if data[:2] == b"#!" else "no ELF file"
        raise InspectionError(name, expected, found, cure)
    if data[4:6] != b"\2\1":
        machine = int.from_bytes(data[18:20], "little" if data[5] == 1 else "big")
        bits = {1: "32-bit", 2: "64-bit"}.get(data[4], "unknown")
        found = f"a {bits} {'little' if data[5] == 1 else 'big'}-endian ELF for {_MACHINES.get(machine, machine)}"
        raise InspectionError(name, expected, found, cure)
    (_, kind, machine, _, entry, phoff, shoff, _, _, phentsize, phnum, shentsize, shnum, shstrndx) = (
        _HEADER.unpack_from(data)
    )
    if _MACHINES.get(machine) != elf_machine:
        raise InspectionError(name, expected, f"an ELF for {_MACHINES.get(machine, f'machine {machine}')}", cure)
    tables = []
    for offset, entry_size, count, shape in (
        (phoff, phentsize, phnum, _SEGMENT),
        (shoff, shentsize, shnum, _SECTION),
    ):
        end = offset + entry_size * count
        if count and entry_size != shape.size:  # Linux loads no other (fs/binfmt_elf.c, kernel/module/main.c)
            expected = f"header tables of {shape.size} bytes an entry"
            raise InspectionError(name, expected, f"{entry_size} bytes", "it is damaged: copy it again")
        if count and end > len(data):
            raise InspectionError(name, f"header tables up to byte {end}", f"{len(data)} bytes", TRUNCATED)
        tables.append(range(offset, end, entry_size) if count else range(0))
    return Elf(kind, entry, tables[0], tables[1], shstrndx)


def read_segments(data: bytes, elf: Elf, name: str) -> list[Segment]:
    """The program headers. Raises InspectionError when a segment is not inside the file."""
    segments = [Segment(*_SEGMENT.unpack_from(data, offset)) for offset in elf.segments]
    for segment in segments:
        if segment.offset + segment.size > len(data):
            expected = f"at least {segment.offset + segment.size} bytes"
            raise InspectionError(name, expected, f"{len(data)} bytes", TRUNCATED)
    return segments


def read_sections(data: bytes, elf: Elf, name: str, cure: str) -> list[Section]:
    """The sections, without a copy: damaged headers may claim the whole file many times over.

    Raises InspectionError when a section is not inside the file, or when the sections have no names.
    """
    whole = memoryview(data)
    headers = [_SECTION.unpack_from(data, offset) for offset in elf.sections]
    contents = []
    for _, kind, _, _, offset, size, *_ in headers:
        if kind != _SHT_NOBITS and offset + size > len(data):
            raise InspectionError(name, f"at least {offset + size} bytes", f"{len(data)} bytes", TRUNCATED)
        contents.append(whole[:0] if kind == _SHT_NOBITS else whole[offset : offset + size])
    if elf.names_index >= len(contents):
        raise InspectionError(name, "a table of section names", "none", cure)
    names = contents[elf.names_index]
    return [
        Section(bytes(names[at : at + _LONGEST_NAME]).partition(b"\0")[0], kind, flags, link, info, contents[number])
        for number, (at, kind, flags, _, _, _, link, info, _, _) in enumerate(headers)
    ]
