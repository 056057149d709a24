"""Any bytes give facts or an InspectionError; the real assets give facts, and what is almost one does not."""

from __future__ import annotations

import dataclasses
import gzip
import struct
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scripts.asset_build.wheel.verifiers import KernelFacts
from supermachine_kernel import INIT_OCI, KERNEL, MANIFEST, SMPARK_KO, SUPERMACHINE_AGENT, InspectionError
from tests.support.verifiers import (
    BANNER,
    KERNEL_HEADER,
    MODULE,
    PROGRAM,
    SMALL_KERNEL,
    VERIFIERS,
    Verifier,
    patched,
    refused,
    verify_kernel,
    verify_module,
    verify_program,
)

each_verifier = pytest.mark.parametrize("verify", VERIFIERS.values(), ids=VERIFIERS)

quickly = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])

# The first bytes decide most of an verification, so begin with what each format begins with.
TSI_NAMES = b"\0AF_TSI" + bytes(26) + b"\0tsi_hijack\0"
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
    def test_the_real_kernel_is_verified(self) -> None:
        facts = verify_kernel(KERNEL.read_bytes())
        assert facts.release == MANIFEST["kernel_release"]
        assert facts.af_tsi == MANIFEST["af_tsi"]
        assert facts.image_size >= KERNEL.size

    def test_the_real_programs_are_verified(self) -> None:
        verify_program(INIT_OCI.read_bytes(), "init-oci")
        verify_program(SUPERMACHINE_AGENT.read_bytes(), "supermachine-agent")

    def test_the_real_module_is_verified(self) -> None:
        assert verify_module(SMPARK_KO.read_bytes()).split()[0] == MANIFEST["kernel_release"]

    @pytest.mark.parametrize(
        ("kept", "instead"),
        [
            (b"\0AF_TSI" + bytes(26), b"\0AF_XXX" + bytes(26)),
            (b"\0AF_TSI" + bytes(26), b"\0AF_TSI is not in this kernel" + bytes(4)),
            (b"\0AF_TSI" + bytes(26), b"\0without AF_TSI" + bytes(18)),
            (b"\0tsi_hijack\0", b"\0tsi_hijack_"),
        ],
    )
    def test_af_tsi_is_the_family_not_a_mention(self, kept: bytes, instead: bytes) -> None:
        image = SMALL_KERNEL + bytes(64) + TSI_NAMES + bytes(4096)
        assert verify_kernel(sized(image)).af_tsi is True
        assert kept in image and len(kept) == len(instead)
        assert verify_kernel(sized(image.replace(kept, instead))).af_tsi is False

    @pytest.mark.parametrize(
        ("config", "af_tsi"),
        [
            (b"CONFIG_NET=y\nCONFIG_TSI=y\n", True),
            (b"CONFIG_NET=y\n# CONFIG_TSI is not set\n", False),
            (b"CONFIG_XTSI=y\nNO_CONFIG_TSI=y\n", False),
        ],
    )
    def test_af_tsi_is_not_what_the_config_in_the_image_denies(self, config: bytes, af_tsi: bool) -> None:
        image = SMALL_KERNEL + TSI_NAMES + b"IKCFG_ST" + gzip.compress(config) + b"IKCFG_ED"
        assert verify_kernel(sized(image)).af_tsi is af_tsi


class TestAnyBytes:
    @each_verifier
    @given(start=st.sampled_from(STARTS), rest=st.binary(max_size=2048))
    @quickly
    def test_any_bytes_are_verified_or_refused(self, verify: Verifier, start: bytes, rest: bytes) -> None:
        facts_or_inspection_error(verify, start + rest)

    @pytest.mark.slow
    @each_verifier
    @given(data=st.data())
    @quickly
    def test_changed_headers_are_verified_or_refused(self, verify: Verifier, data: st.DataObject) -> None:
        """Real programs and modules with some bytes of their header, or of what it leads to, changed."""
        content = bytearray(data.draw(st.sampled_from([PROGRAM[:20000], MODULE])))
        table = struct.unpack_from("<QQ", content, 32)  # e_phoff, e_shoff
        for _ in range(data.draw(st.integers(1, 6))):
            near = data.draw(st.sampled_from([0, *(offset for offset in table if offset < len(content))]))
            offset = min(near + data.draw(st.integers(0, 256)), len(content) - 8)
            value = data.draw(st.one_of(st.binary(min_size=1, max_size=8), st.just(b"\xff" * 8), st.just(b"\0" * 8)))
            content[offset : offset + len(value)] = value
        facts_or_inspection_error(verify, bytes(content))

    @each_verifier
    @given(data=st.data())
    @quickly
    def test_header_fields_of_any_value(self, verify: Verifier, data: st.DataObject) -> None:
        """What the header says of its tables: where they are, of how many entries and of what size."""
        content = bytearray(data.draw(st.sampled_from([dynamic((0x6FFFFFFB, 0x08000000)), MODULE])))
        edges = [0, 1, len(content) - 1, len(content), 0xFFFF, 2**63, 2**64 - 1]
        value = st.sampled_from([0, 1, 2, 55, 56, 57, 63, 64, 65, 0xFFFE, 0xFFFF]) | st.integers(0, 2**16 - 1)
        for shape, offset in data.draw(st.lists(st.sampled_from(FIELDS), min_size=1, max_size=3, unique=True)):
            drawn = data.draw(value if shape == "<H" else st.sampled_from(edges) | st.integers(0, 2**64 - 1))
            struct.pack_into(shape, content, offset, drawn)
        facts_or_inspection_error(verify, bytes(content))

    @each_verifier
    @given(data=st.data())
    @quickly
    def test_a_cut_at_any_place_is_verified_or_refused(self, verify: Verifier, data: st.DataObject) -> None:
        content = data.draw(st.sampled_from([PROGRAM, MODULE, KERNEL_HEADER]))
        facts_or_inspection_error(verify, content[: data.draw(st.integers(0, len(content) - 1))])

    @given(offset=st.integers(0, 63), value=st.binary(min_size=1, max_size=8))
    @quickly
    def test_any_image_header_is_verified_or_refused(self, offset: int, value: bytes) -> None:
        """The real header before a banner; searching ten megabytes each time would take a minute."""
        assert verify_kernel(SMALL_KERNEL) == KernelFacts("6.12.1", False, 4096, SMALL_KERNEL)
        facts_or_inspection_error(verify_kernel, patched(SMALL_KERNEL, offset, value))

    @given(banner=st.binary(max_size=60))
    @quickly
    def test_any_banner_is_verified_or_refused(self, banner: bytes) -> None:
        data = patched(SMALL_KERNEL, SMALL_KERNEL.index(BANNER) + len(b"Linux version "), banner)
        facts_or_inspection_error(verify_kernel, data[:4096])

    @given(value=st.binary(min_size=1, max_size=24))
    @quickly
    def test_what_passes_as_a_vermagic_has_a_release(self, value: bytes) -> None:
        at = MODULE.index(b"vermagic=") + len(b"vermagic=")
        try:
            vermagic = verify_module(patched(MODULE, at, value + b"\0"))
        except InspectionError:
            return
        assert vermagic.isprintable()
        assert vermagic.split()[0]


class TestNotAKernel:
    def test_an_empty_file_is_refused(self) -> None:
        assert refused(verify_kernel, b"") == (
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
        assert found in refused(verify_kernel, data)

    def test_a_big_endian_kernel_is_refused(self) -> None:
        flags = struct.unpack_from("<Q", KERNEL_HEADER, 24)[0] | 1
        message = refused(verify_kernel, patched(KERNEL.read_bytes(), 24, struct.pack("<Q", flags)))
        assert "expected a little-endian kernel, found a big-endian one" in message

    def test_a_truncated_file_is_refused(self) -> None:
        facts = verify_kernel(KERNEL.read_bytes())
        message = refused(verify_kernel, KERNEL.read_bytes()[: facts.image_size // 2 - 1])
        assert f"found {facts.image_size // 2 - 1} of {facts.image_size} bytes" in message

    def test_half_of_its_image_size_is_the_least(self) -> None:
        """In memory a kernel takes up more than its file; less than half of that is a truncated one, banner or not."""
        early = SMALL_KERNEL[:64] + BANNER + SMALL_KERNEL[64:]
        assert verify_kernel(early[:2048]).image_size == 4096
        assert "found 2047 of 4096 bytes; it is truncated" in refused(verify_kernel, early[:2047])

    def test_longer_than_its_image_size(self) -> None:
        facts = verify_kernel(KERNEL.read_bytes())
        data = KERNEL.read_bytes().ljust(facts.image_size, b"\0")
        assert verify_kernel(data) == dataclasses.replace(facts, content=data)
        assert f"found {facts.image_size + 1} bytes; something is appended" in refused(verify_kernel, data + b"\0")

    def test_a_kernel_without_a_banner_is_refused(self) -> None:
        data = KERNEL.read_bytes().replace(b"Linux version ", b"Linux_version ")
        assert "no 'Linux version' banner" in refused(verify_kernel, data)


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
    def test_a_header_field_that_is_wrong_is_named(self, offset: int, value: bytes, found: str) -> None:
        assert found in refused(VERIFIERS["program"], patched(PROGRAM, offset, value))

    def test_empty_script_and_other(self) -> None:
        assert "found an empty file" in refused(VERIFIERS["program"], b"")
        assert "found a script" in refused(VERIFIERS["program"], b"#!/bin/sh\n" + bytes(64))
        assert "found no ELF file" in refused(VERIFIERS["program"], bytes(64))

    def test_a_program_of_the_host_is_refused(self) -> None:
        """A program of the host: another machine's, another system's, or dynamically linked."""
        refused(VERIFIERS["program"], Path(sys.executable).read_bytes())

    def test_more_than_one_dynamic_segment(self) -> None:
        """65,535 segments, each of them the whole file, of entries that are all different and of no meaning."""
        count = 0xFFFF
        size = 64 + count * 56
        header = bytearray(PROGRAM[:64])
        struct.pack_into("<Q", header, 32, 64)  # e_phoff
        struct.pack_into("<HH", header, 54, 56, count)  # e_phentsize, e_phnum
        segment = struct.pack("<IIQQQQQQ", 2, 0, 0, 0, 0, size, size, 8)
        message = refused(VERIFIERS["program"], bytes(header) + segment * count)
        assert "expected at most one dynamic segment, found another" in message

    def test_what_a_dynamic_segment_says(self) -> None:
        """DT_NEEDED is a need; in a shared object, DF_1_PIE in DT_FLAGS_1 makes the program."""
        pie, needed, end = (0x6FFFFFFB, 0x08000000), (1, 0), (0, 0)
        assert "a shared library" in refused(VERIFIERS["program"], dynamic(end, pie))
        assert "needs shared libraries" in refused(VERIFIERS["program"], dynamic(needed, pie, end))
        VERIFIERS["program"](dynamic(pie, end, needed))

    def test_an_entry_point_where_nothing_is_executed(self) -> None:
        program = dynamic((0x6FFFFFFB, 0x08000000))
        VERIFIERS["program"](program)
        readable = patched(program, 64 + 4, struct.pack("<I", 4))  # p_flags of the first segment: PF_R
        message = refused(VERIFIERS["program"], readable)
        assert "expected an entry point in an executable segment, found 0x40 in none" in message

    def test_truncated_in_a_segment(self) -> None:
        assert "it is truncated: copy it again" in refused(VERIFIERS["program"], PROGRAM[: len(PROGRAM) // 4])


class TestNotAModule:
    def test_a_program_is_refused_as_a_module(self) -> None:
        assert "expected a kernel module, found an executable" in refused(verify_module, PROGRAM)

    def test_a_truncated_file_is_refused(self) -> None:
        assert "it is truncated: copy it again" in refused(verify_module, MODULE[:-1])

    @pytest.mark.parametrize("section", [".modinfo", ".gnu.linkonce.this_module"])
    def test_without_what_makes_a_module(self, section: str) -> None:
        at = MODULE.index(section.encode() + b"\0")
        data = patched(MODULE, at + 1, b"x")
        assert f"a relocatable file without {section}; " in refused(verify_module, data)

    def test_without_the_names_of_its_sections(self) -> None:
        count = MODULE[60:62]
        assert "expected a table of section names, found none" in refused(verify_module, patched(MODULE, 62, count))

    @pytest.mark.parametrize("size", [0, 63, 65])
    def test_headers_of_another_size(self, size: int) -> None:
        message = refused(verify_module, patched(MODULE, 58, struct.pack("<H", size)))
        assert f"expected header tables of 64 bytes an entry, found {size} bytes; it is damaged" in message

    def test_what_a_section_takes_up_in_memory_alone_is_not_in_the_file(self) -> None:
        """A .bss of a terabyte (SHT_NOBITS), beside the same of a section with content (SHT_PROGBITS)."""
        start, count = struct.unpack_from("<Q", MODULE, 40)[0], struct.unpack_from("<H", MODULE, 60)[0]
        headers = range(start, start + 64 * count, 64)
        bss = next(at for at in headers if MODULE[at + 4] == 8)
        in_memory = patched(MODULE, bss + 32, struct.pack("<Q", 1 << 40))
        assert verify_module(in_memory) == verify_module(MODULE)
        assert "it is truncated" in refused(verify_module, patched(in_memory, bss + 4, struct.pack("<I", 1)))

    @pytest.mark.parametrize("value", [b"\0", b" \0", b"\x1c\0", b"\xff6.12\0", b"6.12\n\0"])
    def test_without_a_sensible_vermagic(self, value: bytes) -> None:
        at = MODULE.index(b"vermagic=") + len(b"vermagic=")
        assert "expected a vermagic in .modinfo, found none" in refused(verify_module, patched(MODULE, at, value))

    @pytest.mark.slow
    def test_many_sections_that_claim_the_whole_file_take_no_memory(self) -> None:
        """65,535 sections of 60 kB each would be 4 GB of copies."""
        header = bytearray(MODULE[:64])
        count, size = 0xFFFF, 64 + 0xFFFF * 64
        struct.pack_into("<Q", header, 40, 64)  # e_shoff
        struct.pack_into("<HHH", header, 58, 64, count, 0)  # e_shentsize, e_shnum, e_shstrndx
        section = struct.pack("<IIQQQQIIQQ", 0, 1, 0, 0, 0, size, 0, 0, 0, 0)
        assert "without .modinfo" in refused(verify_module, bytes(header) + section * count)


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


def facts_or_inspection_error(verify: Verifier, data: bytes) -> None:
    try:
        verify(data)
    except InspectionError as error:
        assert len(str(error).splitlines()) == 1
        assert all(part in str(error) for part in (": expected ", ", found ", "; "))


def sized(image: bytes) -> bytes:
    """The image with a header that says how long it is."""
    return patched(image, 16, struct.pack("<Q", len(image)))
