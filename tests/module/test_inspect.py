"""Any bytes give facts or an InspectionError; the real assets give facts, and what is almost one does not."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import Callable, Union

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supermachine_kernel import INIT_OCI, KERNEL, MANIFEST, SMPARK_KO, SUPERMACHINE_AGENT, InspectionError
from supermachine_kernel._inspect import KernelFacts, inspect_kernel, inspect_module, inspect_program

Inspector = Callable[[bytes], Union[KernelFacts, str, None]]

INSPECTORS: dict[str, Inspector] = {
    "kernel": inspect_kernel,
    "program": lambda data: inspect_program(data, "program"),
    "module": inspect_module,
}
each_inspector = pytest.mark.parametrize("inspect", INSPECTORS.values(), ids=INSPECTORS)

quickly = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])

# The first bytes decide most of an inspection, so begin with what each format begins with.
PROGRAM = INIT_OCI.read_bytes()
MODULE = SMPARK_KO.read_bytes()
KERNEL_HEADER = KERNEL.read_bytes()[:4096]
BANNER = b"Linux version 6.12.1 (a@b) (gcc) #1 SMP\n"
SMALL_KERNEL = KERNEL_HEADER[:16] + struct.pack("<Q", 4096) + KERNEL_HEADER[24:4000] + BANNER
STARTS = [
    b"",
    b"\x7fELF",
    b"\x7fELF\2\1\1",
    b"MZ\0\0zimg",
    b"#!",
    b"\x1f\x8b",
    PROGRAM[:64],
    MODULE[:64],
    KERNEL_HEADER[:64],
]


# e_phoff, e_shoff; e_phentsize, e_phnum, e_shentsize, e_shnum, e_shstrndx.
FIELDS = [("<Q", 32), ("<Q", 40), ("<H", 54), ("<H", 56), ("<H", 58), ("<H", 60), ("<H", 62)]


class TestReal:
    def test_kernel(self) -> None:
        facts = inspect_kernel(KERNEL.read_bytes())
        assert facts.release == MANIFEST["kernel_release"]
        assert facts.af_tsi == MANIFEST["af_tsi"]
        assert facts.image_size >= KERNEL.size

    def test_programs(self) -> None:
        inspect_program(INIT_OCI.read_bytes(), "init-oci")
        inspect_program(SUPERMACHINE_AGENT.read_bytes(), "supermachine-agent")

    def test_module(self) -> None:
        assert inspect_module(SMPARK_KO.read_bytes()).split()[0] == MANIFEST["kernel_release"]

    def test_views_do_as_well_as_bytes(self) -> None:
        with KERNEL.view() as kernel, INIT_OCI.view() as program, SMPARK_KO.view() as module:
            assert inspect_kernel(kernel) == inspect_kernel(bytes(kernel))
            inspect_program(program, "init-oci")
            assert inspect_module(module) == inspect_module(bytes(module))

    def test_af_tsi_is_the_family_not_a_mention(self) -> None:
        data = KERNEL.read_bytes()
        if MANIFEST["af_tsi"]:
            data = data.replace(b"\0AF_TSI\0", b"\0AF_XXX\0")
        assert not inspect_kernel(data).af_tsi
        assert not inspect_kernel(patched(data, len(data) - 64, b"\0sk_lock-AF_TSI\0")).af_tsi
        assert inspect_kernel(patched(data, len(data) - 64, b"\0AF_TSI\0")).af_tsi


class TestAnyBytes:
    @each_inspector
    @given(start=st.sampled_from(STARTS), rest=st.binary(max_size=2048))
    @quickly
    def test_arbitrary(self, inspect: Inspector, start: bytes, rest: bytes) -> None:
        facts_or_inspection_error(inspect, start + rest)

    @each_inspector
    @given(data=st.data())
    @quickly
    def test_mutated_headers(self, inspect: Inspector, data: st.DataObject) -> None:
        """Real programs and modules with some bytes of their header, or of what it leads to, changed."""
        content = bytearray(data.draw(st.sampled_from([PROGRAM[:20000], MODULE])))
        table = struct.unpack_from("<QQ", content, 32)  # e_phoff, e_shoff
        for _ in range(data.draw(st.integers(1, 6))):
            near = data.draw(st.sampled_from([0, *(offset for offset in table if offset < len(content))]))
            offset = min(near + data.draw(st.integers(0, 256)), len(content) - 8)
            value = data.draw(st.one_of(st.binary(min_size=1, max_size=8), st.just(b"\xff" * 8), st.just(b"\0" * 8)))
            content[offset : offset + len(value)] = value
        facts_or_inspection_error(inspect, bytes(content))

    @each_inspector
    @given(data=st.data())
    @quickly
    def test_header_fields_of_any_value(self, inspect: Inspector, data: st.DataObject) -> None:
        """What the header says of its tables: where they are, of how many entries and of what size."""
        content = bytearray(data.draw(st.sampled_from([dynamic((0x6FFFFFFB, 0x08000000)), MODULE])))
        edges = [0, 1, len(content) - 1, len(content), 0xFFFF, 2**63, 2**64 - 1]
        value = st.sampled_from([0, 1, 2, 55, 56, 57, 63, 64, 65, 0xFFFE, 0xFFFF]) | st.integers(0, 2**16 - 1)
        for shape, offset in data.draw(st.lists(st.sampled_from(FIELDS), min_size=1, max_size=3, unique=True)):
            drawn = data.draw(value if shape == "<H" else st.sampled_from(edges) | st.integers(0, 2**64 - 1))
            struct.pack_into(shape, content, offset, drawn)
        facts_or_inspection_error(inspect, bytes(content))

    @each_inspector
    @given(data=st.data())
    @quickly
    def test_truncated_anywhere(self, inspect: Inspector, data: st.DataObject) -> None:
        content = data.draw(st.sampled_from([PROGRAM, MODULE, KERNEL_HEADER]))
        facts_or_inspection_error(inspect, content[: data.draw(st.integers(0, len(content) - 1))])

    @given(offset=st.integers(0, 63), value=st.binary(min_size=1, max_size=8))
    @quickly
    def test_mutated_image_header(self, offset: int, value: bytes) -> None:
        """The real header before a banner; searching ten megabytes each time would take a minute."""
        assert inspect_kernel(SMALL_KERNEL) == KernelFacts("6.12.1", False, 4096)
        facts_or_inspection_error(inspect_kernel, patched(SMALL_KERNEL, offset, value))

    @given(banner=st.binary(max_size=60))
    @quickly
    def test_mutated_banner(self, banner: bytes) -> None:
        data = patched(SMALL_KERNEL, SMALL_KERNEL.index(BANNER) + len(b"Linux version "), banner)
        facts_or_inspection_error(inspect_kernel, data[:4096])

    @given(value=st.binary(min_size=1, max_size=24))
    @quickly
    def test_what_passes_as_a_vermagic_has_a_release(self, value: bytes) -> None:
        at = MODULE.index(b"vermagic=") + len(b"vermagic=")
        try:
            vermagic = inspect_module(patched(MODULE, at, value + b"\0"))
        except InspectionError:
            return
        assert vermagic.isprintable()
        assert vermagic.split()[0]


class TestNotAKernel:
    def test_empty(self) -> None:
        assert refused(inspect_kernel, b"") == (
            "kernel: expected an uncompressed arm64 Linux Image, found an empty file; "
            "take arch/arm64/boot/Image of the kernel build"
        )

    @pytest.mark.parametrize(
        ("data", "found"),
        [
            (b"MZ\0\0", "found 4 bytes"),
            (b"\x1f\x8b" + bytes(100), "gzip data (an Image.gz): gunzip it"),
            (bytes(0x202) + b"HdrS" + bytes(100), "an x86 bzImage"),
            (b"MZ\0\0zimg" + bytes(100), "an EFI zboot image (compressed): build without CONFIG_EFI_ZBOOT"),
            (b"\x7fELF" + bytes(100), "an ELF file (vmlinux?)"),
            (bytes(range(128)), "where its magic b'ARM\\x64' should be (offset 56)".replace("\\x64", "d")),
        ],
    )
    def test_what_people_hand_over_instead(self, data: bytes, found: str) -> None:
        assert found in refused(inspect_kernel, data)

    def test_big_endian(self) -> None:
        flags = struct.unpack_from("<Q", KERNEL_HEADER, 24)[0] | 1
        message = refused(inspect_kernel, patched(KERNEL.read_bytes(), 24, struct.pack("<Q", flags)))
        assert "expected a little-endian kernel, found a big-endian one" in message

    def test_truncated(self) -> None:
        facts = inspect_kernel(KERNEL.read_bytes())
        message = refused(inspect_kernel, KERNEL.read_bytes()[: facts.image_size // 2 - 1])
        assert f"found {facts.image_size // 2 - 1} of {facts.image_size} bytes" in message

    def test_half_of_its_image_size_is_the_least(self) -> None:
        """In memory a kernel takes up more than its file; less than half of that is a truncated one, banner or not."""
        early = SMALL_KERNEL[:64] + BANNER + SMALL_KERNEL[64:]
        assert inspect_kernel(early[:2048]).image_size == 4096
        assert "found 2047 of 4096 bytes; it is truncated" in refused(inspect_kernel, early[:2047])

    def test_longer_than_its_image_size(self) -> None:
        facts = inspect_kernel(KERNEL.read_bytes())
        data = KERNEL.read_bytes().ljust(facts.image_size, b"\0")
        assert inspect_kernel(data) == facts
        assert f"found {facts.image_size + 1} bytes; something is appended" in refused(inspect_kernel, data + b"\0")

    def test_no_banner(self) -> None:
        data = KERNEL.read_bytes().replace(b"Linux version ", b"Linux_version ")
        assert "no 'Linux version' banner" in refused(inspect_kernel, data)


class TestNotAProgram:
    @pytest.mark.parametrize(
        ("offset", "value", "found"),
        [
            (4, b"\1", "found a 32-bit little-endian ELF for AArch64"),
            (5, b"\2", "found a 64-bit big-endian ELF"),
            (16, b"\1\0", "found a relocatable file"),
            (16, b"\3\0", "found a shared library"),
            (16, b"\4\0", "found a core file"),
            (18, b"\x3e\0", "found an ELF for x86-64"),
            (18, b"\xf3\0", "found an ELF for RISC-V"),
            (24, b"\0" * 8, "expected an entry point in an executable segment, found 0x0 in none"),
            (32, b"\xff" * 8, "it is truncated: copy it again"),
            (54, b"\0\0", "expected header tables of 56 bytes an entry, found 0 bytes; it is damaged: copy it again"),
            (54, b"\x37\0", "expected header tables of 56 bytes an entry, found 55 bytes"),
            (54, b"\x39\0", "expected header tables of 56 bytes an entry, found 57 bytes"),
        ],
    )
    def test_header(self, offset: int, value: bytes, found: str) -> None:
        assert found in refused(INSPECTORS["program"], patched(PROGRAM, offset, value))

    def test_empty_script_and_other(self) -> None:
        assert "found an empty file" in refused(INSPECTORS["program"], b"")
        assert "found a script" in refused(INSPECTORS["program"], b"#!/bin/sh\n" + bytes(64))
        assert "found no ELF file" in refused(INSPECTORS["program"], bytes(64))

    def test_this_very_python(self) -> None:
        """A program of the host: another machine's, another system's, or dynamically linked."""
        refused(INSPECTORS["program"], Path(sys.executable).read_bytes())

    def test_more_than_one_dynamic_segment(self) -> None:
        """65,535 segments, each of them the whole file, of entries that are all different and of no meaning."""
        count = 0xFFFF
        size = 64 + count * 56
        header = bytearray(PROGRAM[:64])
        struct.pack_into("<Q", header, 32, 64)  # e_phoff
        struct.pack_into("<HH", header, 54, 56, count)  # e_phentsize, e_phnum
        segment = struct.pack("<IIQQQQQQ", 2, 0, 0, 0, 0, size, size, 8)
        message = refused(INSPECTORS["program"], bytes(header) + segment * count)
        assert "expected at most one dynamic segment, found another" in message

    def test_what_a_dynamic_segment_says(self) -> None:
        """DT_NEEDED is a need; in a shared object, DF_1_PIE in DT_FLAGS_1 makes the program."""
        pie, needed, end = (0x6FFFFFFB, 0x08000000), (1, 0), (0, 0)
        assert "a shared library" in refused(INSPECTORS["program"], dynamic(end, pie))
        assert "needs shared libraries" in refused(INSPECTORS["program"], dynamic(needed, pie, end))
        INSPECTORS["program"](dynamic(pie, end, needed))

    def test_an_entry_point_where_nothing_is_executed(self) -> None:
        program = dynamic((0x6FFFFFFB, 0x08000000))
        INSPECTORS["program"](program)
        readable = patched(program, 64 + 4, struct.pack("<I", 4))  # p_flags of the first segment: PF_R
        message = refused(INSPECTORS["program"], readable)
        assert "expected an entry point in an executable segment, found 0x40 in none" in message

    def test_truncated_in_a_segment(self) -> None:
        assert "it is truncated: copy it again" in refused(INSPECTORS["program"], PROGRAM[: len(PROGRAM) // 4])


class TestNotAModule:
    def test_a_program(self) -> None:
        assert "expected a kernel module, found an executable" in refused(inspect_module, PROGRAM)

    def test_truncated(self) -> None:
        assert "it is truncated: copy it again" in refused(inspect_module, MODULE[:-1])

    @pytest.mark.parametrize("section", [".modinfo", ".gnu.linkonce.this_module"])
    def test_without_what_makes_a_module(self, section: str) -> None:
        at = MODULE.index(section.encode() + b"\0")
        data = patched(MODULE, at + 1, b"x")
        assert f"a relocatable file without {section}; " in refused(inspect_module, data)

    def test_without_the_names_of_its_sections(self) -> None:
        count = MODULE[60:62]
        assert "expected a table of section names, found none" in refused(inspect_module, patched(MODULE, 62, count))

    @pytest.mark.parametrize("size", [0, 63, 65])
    def test_headers_of_another_size(self, size: int) -> None:
        message = refused(inspect_module, patched(MODULE, 58, struct.pack("<H", size)))
        assert f"expected header tables of 64 bytes an entry, found {size} bytes; it is damaged" in message

    def test_what_a_section_takes_up_in_memory_alone_is_not_in_the_file(self) -> None:
        """A .bss of a terabyte (SHT_NOBITS), beside the same of a section with content (SHT_PROGBITS)."""
        start, count = struct.unpack_from("<Q", MODULE, 40)[0], struct.unpack_from("<H", MODULE, 60)[0]
        headers = range(start, start + 64 * count, 64)
        bss = next(at for at in headers if MODULE[at + 4] == 8)
        in_memory = patched(MODULE, bss + 32, struct.pack("<Q", 1 << 40))
        assert inspect_module(in_memory) == inspect_module(MODULE)
        assert "it is truncated" in refused(inspect_module, patched(in_memory, bss + 4, struct.pack("<I", 1)))

    @pytest.mark.parametrize("value", [b"\0", b" \0", b"\x1c\0", b"\xff6.12\0", b"6.12\n\0"])
    def test_without_a_sensible_vermagic(self, value: bytes) -> None:
        at = MODULE.index(b"vermagic=") + len(b"vermagic=")
        assert "expected a vermagic in .modinfo, found none" in refused(inspect_module, patched(MODULE, at, value))

    def test_many_sections_that_claim_the_whole_file_take_no_memory(self) -> None:
        """65,535 sections of 60 kB each would be 4 GB of copies."""
        header = bytearray(MODULE[:64])
        count, size = 0xFFFF, 64 + 0xFFFF * 64
        struct.pack_into("<Q", header, 40, 64)  # e_shoff
        struct.pack_into("<HHH", header, 58, 64, count, 0)  # e_shentsize, e_shnum, e_shstrndx
        section = struct.pack("<IIQQQQIIQQ", 0, 1, 0, 0, 0, size, 0, 0, 0, 0)
        assert "without .modinfo" in refused(inspect_module, bytes(header) + section * count)


def dynamic(*entries: tuple[int, int]) -> bytes:
    """A position-independent program of nothing but headers, an entry point and these dynamic entries."""
    content = b"".join(struct.pack("<qQ", *entry) for entry in entries)
    header = bytearray(PROGRAM[:64])
    struct.pack_into("<H", header, 16, 3)  # e_type
    struct.pack_into("<QQQ", header, 24, 64, 64, 0)  # e_entry, e_phoff, e_shoff
    struct.pack_into("<HHHHH", header, 54, 56, 2, 0, 0, 0)  # e_phentsize, e_phnum, and no sections
    code = struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, 64 + 2 * 56, 64 + 2 * 56, 8)
    segment = struct.pack("<IIQQQQQQ", 2, 4, 64 + 2 * 56, 0, 0, len(content), len(content), 8)
    return bytes(header) + code + segment + content


def facts_or_inspection_error(inspect: Inspector, data: bytes) -> None:
    try:
        inspect(data)
    except InspectionError as error:
        assert len(str(error).splitlines()) == 1
        assert all(part in str(error) for part in (": expected ", ", found ", "; "))


def refused(inspect: Inspector, data: bytes) -> str:
    with pytest.raises(InspectionError) as caught:
        inspect(data)
    return str(caught.value)


def patched(data: bytes, offset: int, value: bytes) -> bytes:
    return data[:offset] + value + data[offset + len(value) :]
