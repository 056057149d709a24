"""A static program that Linux can start."""

import itertools
import struct

from supermachine_kernel import InspectionError

from .elf import ELF_TYPES, ET_DYN, ET_EXEC, Segment, read_elf, read_segments

_DYNAMIC_ENTRY = struct.Struct("<qQ")
_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_PF_X = 1
_DT_NULL, _DT_NEEDED = 0, 1
_DT_FLAGS_1 = 0x6FFFFFFB
_DF_1_PIE = 0x08000000
_PAGE = 4096  # of the guest's kernel, on every architecture

_EXPECTED = "a static executable"
_CURE = "link it for the guest's architecture with -static"
_COPY = "take the program as it was linked: a tool has left its code out or moved it"


def verify_program(data: bytes, elf_machine: str, name: str) -> None:
    """Verify that `data` is a static executable (position-independent or not) for that machine."""
    elf = read_elf(data, elf_machine, name, f"a static {elf_machine} executable", _CURE)
    if elf.type not in (ET_EXEC, ET_DYN):
        raise InspectionError(name, _EXPECTED, ELF_TYPES.get(elf.type, "no executable"), _CURE)
    segments = read_segments(data, elf, name)
    for segment in segments:
        if segment.kind == _PT_INTERP:
            content = data[segment.offset : segment.offset + segment.size]
            loader = bytes(content).rstrip(b"\0").decode(errors="replace")
            raise InspectionError(name, _EXPECTED, f"one that needs the loader {loader}", _CURE)
    needed, flags_1 = _dynamic_entries(data, segments, name)
    if elf.type == ET_DYN and not flags_1 & _DF_1_PIE:
        raise InspectionError(name, _EXPECTED, "a shared library", _CURE)
    if needed:
        raise InspectionError(name, _EXPECTED, "one that needs shared libraries", _CURE)
    _verify_loading(segments, elf.entry, name)


def _dynamic_entries(data: bytes, segments: list[Segment], name: str) -> "tuple[bool, int]":
    """Whether the program needs a shared library, and its DT_FLAGS_1."""
    dynamic = [segment for segment in segments if segment.kind == _PT_DYNAMIC]
    if len(dynamic) > 1:  # damaged headers may claim the whole file many times over
        raise InspectionError(name, "at most one dynamic segment", "another", _CURE)
    needed, flags_1 = False, 0
    for segment in dynamic:
        content = memoryview(data)[segment.offset : segment.offset + segment.size]
        every = _DYNAMIC_ENTRY.iter_unpack(content[: len(content) - len(content) % _DYNAMIC_ENTRY.size])
        for tag, value in itertools.takewhile(lambda entry: entry[0] != _DT_NULL, every):
            needed = needed or tag == _DT_NEEDED
            flags_1 = value if tag == _DT_FLAGS_1 else flags_1
    return needed, flags_1


def _verify_loading(segments: list[Segment], entry: int, name: str) -> None:
    """What fs/binfmt_elf.c of the kernel asks before it maps the segments and jumps to the entry point."""
    loaded = [segment for segment in segments if segment.kind == _PT_LOAD]
    executable = [part for part in loaded if part.flags & _PF_X and part.address <= entry]
    if not any(entry < part.address + part.memory_size for part in executable):
        raise InspectionError(name, "an entry point in an executable segment", f"{entry:#x} in none", _CURE)
    if not any(entry < part.address + part.size for part in executable):
        raise InspectionError(name, "code at the entry point", f"nothing in the file for {entry:#x}", _COPY)
    for part in loaded:
        if part.size > part.memory_size or (part.size and (part.address - part.offset) % _PAGE):
            found = f"one at offset {part.offset:#x} for address {part.address:#x}"
            raise InspectionError(name, f"segments that can be mapped in pages of {_PAGE} bytes", found, _COPY)
