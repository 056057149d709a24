"""Structural proof: an arm64 Linux Image, a static AArch64 program, a module of that very kernel."""

import itertools
import re
import struct
from typing import NamedTuple, Union

from ._errors import InspectionError

Buffer = Union[bytes, memoryview]

# Documentation/arch/arm64/booting.rst, "Call the kernel image": the header of an Image is 64 bytes.
_IMAGE_HEADER = struct.Struct("<8x 8x QQ 24x 4s 4x")
_IMAGE_MAGIC = b"ARM\x64"
_IMAGE_BIG_ENDIAN = 1 << 0
_BANNER = re.compile(rb"Linux version (\d[\x21-\x7e]*) \([\x20-\x7e]+")
# `.name` of AF_TSI's `struct proto`. A name like "sk_lock-AF_TSI" alone would be a table, not the family.
# (The look-behind stands after the literal, which makes the search a fast one.)
_AF_TSI = re.compile(rb"AF_TSI(?<![\w-]AF_TSI)\0")

# ELF-64 Object File Format, figures 2, 3 and 6; the ELF for the Arm 64-bit Architecture for EM_AARCH64.
_ELF_HEADER = struct.Struct("<16s HHI QQQ I HHHHHH")
_PROGRAM_HEADER = struct.Struct("<II QQQ QQQ")
_SECTION_HEADER = struct.Struct("<II QQQQ II QQ")
_DYNAMIC_ENTRY = struct.Struct("<qQ")
_ELF_TYPES = {1: "a relocatable file", 2: "an executable", 3: "a shared library", 4: "a core file"}
_ET_REL, _ET_EXEC, _ET_DYN = 1, 2, 3
_EM_AARCH64 = 183
_MACHINES = {3: "i386", 40: "32-bit ARM", 62: "x86-64", _EM_AARCH64: "AArch64", 243: "RISC-V"}
_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_PF_X = 1
_SHT_NOBITS = 8
_DT_NULL, _DT_NEEDED = 0, 1
_DT_FLAGS_1 = 0x6FFFFFFB
_DF_1_PIE = 0x08000000
# Enough for every section name that is looked for.
_LONGEST_NAME = 64
# include/linux/vermagic.h: the kernel release, then its options, in one line of text.
_VERMAGIC = re.compile(rb"[\x21-\x7e]+( [\x20-\x7e]*)?")


class KernelFacts(NamedTuple):
    """What an Image says of itself: release ("6.12.1"), whether it has AF_TSI, and `image_size` in bytes."""

    release: str
    af_tsi: bool
    image_size: int


def inspect_kernel(data: Buffer, name: str = "kernel") -> KernelFacts:
    """Prove that `data` is a little-endian arm64 Image with a Linux banner, whole by its own `image_size`.

    The header does not say how long the file is, only what it takes up in memory: a loss of less than half of
    that shows in the digests alone. `name` stands in the error's text. Raises InspectionError.
    """
    other = _other_kernel(data)
    if other or len(data) < _IMAGE_HEADER.size:
        raise _wrong(name, "an uncompressed arm64 Linux Image", other or f"{len(data)} bytes", _KERNEL_CURE)
    image_size, flags, magic = _IMAGE_HEADER.unpack_from(data)
    if magic != _IMAGE_MAGIC:
        found = f"{magic!r} where its magic {_IMAGE_MAGIC!r} should be (offset 56)"
        raise _wrong(name, "an uncompressed arm64 Linux Image", found, _KERNEL_CURE)
    if flags & _IMAGE_BIG_ENDIAN:
        raise _wrong(name, "a little-endian kernel", "a big-endian one", "build without CONFIG_CPU_BIG_ENDIAN")
    if len(data) > image_size:
        cure = "something is appended, or the header is damaged: take the Image as the kernel build left it"
        raise _wrong(name, f"at most its image_size, {image_size} bytes", f"{len(data)} bytes", cure)
    banner = _BANNER.search(data)
    if banner is None or len(data) < image_size // 2:
        found = f"{len(data)} of {image_size} bytes" + ("" if banner else " and no 'Linux version' banner")
        raise _wrong(name, "a whole Linux Image", found, "it is truncated or not Linux: copy or build it again")
    return KernelFacts(banner.group(1).decode(), _AF_TSI.search(data) is not None, image_size)


def inspect_program(data: Buffer, name: str) -> None:
    """Prove that `data` is a static executable (position-independent or not) for little-endian AArch64.

    `name` stands in the error's text. Raises InspectionError.
    """
    elf = _read_elf(data, name, "a static AArch64 executable", _PROGRAM_CURE)
    if elf.type not in (_ET_EXEC, _ET_DYN):
        raise _wrong(name, "a static executable", _ELF_TYPES.get(elf.type, "no executable"), _PROGRAM_CURE)
    whole = memoryview(data)
    segments = [_PROGRAM_HEADER.unpack_from(data, offset) for offset in elf.program_headers]
    needed, flags_1, dynamic = False, 0, False
    for kind, _flags, offset, _vaddr, _paddr, size, _memory, _align in segments:
        if offset + size > len(data):
            raise _wrong(
                name, f"at least {offset + size} bytes", f"{len(data)} bytes", "it is truncated: copy it again"
            )
        if kind == _PT_INTERP:
            loader = bytes(data[offset : offset + size]).rstrip(b"\0").decode(errors="replace")
            raise _wrong(name, "a static executable", f"one that needs the loader {loader}", _PROGRAM_CURE)
        if kind == _PT_DYNAMIC:
            if dynamic:  # damaged headers may claim the whole file many times over
                raise _wrong(name, "at most one dynamic segment", "another", _PROGRAM_CURE)
            dynamic = True
            every = _DYNAMIC_ENTRY.iter_unpack(whole[offset : offset + size - size % _DYNAMIC_ENTRY.size])
            for tag, value in itertools.takewhile(lambda entry: entry[0] != _DT_NULL, every):
                needed = needed or tag == _DT_NEEDED
                flags_1 = value if tag == _DT_FLAGS_1 else flags_1
    if elf.type == _ET_DYN and not flags_1 & _DF_1_PIE:
        raise _wrong(name, "a static executable", "a shared library", _PROGRAM_CURE)
    if needed:
        raise _wrong(name, "a static executable", "one that needs shared libraries", _PROGRAM_CURE)
    if not any(
        kind == _PT_LOAD and flags & _PF_X and vaddr <= elf.entry < vaddr + memory
        for kind, flags, _offset, vaddr, _paddr, _size, memory, _align in segments
    ):
        raise _wrong(name, "an entry point in an executable segment", f"{elf.entry:#x} in none", _PROGRAM_CURE)


def inspect_module(data: Buffer, name: str = "smpark.ko") -> str:
    """Prove that `data` is a kernel module for little-endian AArch64; return its vermagic.

    The vermagic's first word is the release of the kernel it loads into. `name` stands in the error's text.
    Raises InspectionError.
    """
    elf = _read_elf(data, name, "an AArch64 kernel module", _MODULE_CURE)
    if elf.type != _ET_REL:
        raise _wrong(name, "a kernel module", _ELF_TYPES.get(elf.type, "no relocatable file"), _MODULE_CURE)
    sections = _read_sections(data, elf, name)
    for section in (b".modinfo", b".gnu.linkonce.this_module"):
        if section not in sections:
            raise _wrong(name, "a kernel module", f"a relocatable file without {section.decode()}", _MODULE_CURE)
    for item in bytes(sections[b".modinfo"]).split(b"\0"):
        key, _, value = item.partition(b"=")
        if key == b"vermagic" and _VERMAGIC.fullmatch(value):
            return value.decode()
    raise _wrong(name, "a vermagic in .modinfo", "none", _MODULE_CURE)


_KERNEL_CURE = "take arch/arm64/boot/Image of the kernel build"
_PROGRAM_CURE = "link it for aarch64 with -static"
_MODULE_CURE = "take the .ko that was built with this kernel's own tree"


class _Elf(NamedTuple):
    type: int
    entry: int
    program_headers: "range"
    section_headers: "range"
    section_names: int


def _read_elf(data: Buffer, name: str, expected: str, cure: str) -> _Elf:
    """The header of a 64-bit little-endian AArch64 ELF, its header tables inside the file."""
    if len(data) < _ELF_HEADER.size or data[:4] != b"\x7fELF":
        found = "an empty file" if not data else "a script" if data[:2] == b"#!" else "no ELF file"
        raise _wrong(name, expected, found, cure)
    if data[4:6] != b"\2\1":
        machine = int.from_bytes(data[18:20], "little" if data[5] == 1 else "big")
        bits = {1: "32-bit", 2: "64-bit"}.get(data[4], "unknown")
        found = f"a {bits} {'little' if data[5] == 1 else 'big'}-endian ELF for {_MACHINES.get(machine, machine)}"
        raise _wrong(name, expected, found, cure)
    (_, kind, machine, _, entry, phoff, shoff, _, _, phentsize, phnum, shentsize, shnum, shstrndx) = (
        _ELF_HEADER.unpack_from(data)
    )
    if machine != _EM_AARCH64:
        raise _wrong(name, expected, f"an ELF for {_MACHINES.get(machine, f'machine {machine}')}", cure)
    tables = []
    for offset, entry_size, count, shape in (
        (phoff, phentsize, phnum, _PROGRAM_HEADER),
        (shoff, shentsize, shnum, _SECTION_HEADER),
    ):
        end = offset + entry_size * count
        if count and entry_size != shape.size:  # Linux loads no other (fs/binfmt_elf.c, kernel/module/main.c)
            found = f"{entry_size} bytes"
            raise _wrong(name, f"header tables of {shape.size} bytes an entry", found, "it is damaged: copy it again")
        if count and end > len(data):
            raise _wrong(
                name, f"header tables up to byte {end}", f"{len(data)} bytes", "it is truncated: copy it again"
            )
        tables.append(range(offset, end, entry_size) if count else range(0))
    return _Elf(kind, entry, tables[0], tables[1], shstrndx)


def _read_sections(data: Buffer, elf: _Elf, name: str) -> "dict[bytes, memoryview]":
    """The sections by name, without a copy: damaged headers may claim the whole file many times over."""
    whole = memoryview(data)
    headers = [_SECTION_HEADER.unpack_from(data, offset) for offset in elf.section_headers]
    contents = []
    for _name, kind, _flags, _address, offset, size, *_ in headers:
        if kind != _SHT_NOBITS and offset + size > len(data):
            raise _wrong(
                name, f"at least {offset + size} bytes", f"{len(data)} bytes", "it is truncated: copy it again"
            )
        contents.append(whole[:0] if kind == _SHT_NOBITS else whole[offset : offset + size])
    if elf.section_names >= len(contents):
        raise _wrong(name, "a table of section names", "none", _MODULE_CURE)
    names = contents[elf.section_names]
    return {
        bytes(names[header[0] : header[0] + _LONGEST_NAME]).partition(b"\0")[0]: content
        for header, content in zip(headers, contents)
    }


def _other_kernel(data: Buffer) -> str:
    """What people hand over for an Image, by its first bytes."""
    if not data:
        return "an empty file"
    if data[:2] == b"\x1f\x8b":
        return "gzip data (an Image.gz): gunzip it"
    if data[0x202:0x206] == b"HdrS":  # Documentation/arch/x86/boot.rst
        return "an x86 bzImage"
    if data[:2] == b"MZ" and data[4:8] == b"zimg":  # drivers/firmware/efi/libstub/zboot-header.S
        return "an EFI zboot image (compressed): build without CONFIG_EFI_ZBOOT"
    if data[:4] == b"\x7fELF":
        return "an ELF file (vmlinux?)"
    return ""


def _wrong(name: str, expected: str, found: str, cure: str) -> InspectionError:
    return InspectionError(name, expected, found, cure)
