"""The bzImage that the x86_64 set has: what its header must say, and that the kernel in it is whole."""

from __future__ import annotations

import gzip
import lzma
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.asset_build.wheel.verifiers import KernelFacts, verify_kernel
from supermachine_kernel import KERNEL, InspectionError
from tests.support.bzimage import BANNER, RELEASE, TSI_NAMES, bzimage


def refused(data: bytes, kernel_format: str = "bzimage") -> str:
    with pytest.raises(InspectionError) as caught:
        verify_kernel(data, kernel_format)
    return str(caught.value)


def test_a_whole_one_says_release_memory_and_af_tsi() -> None:
    content = BANNER + TSI_NAMES
    assert verify_kernel(bzimage(content), "bzimage") == KernelFacts(RELEASE, True, 1 << 20, content)
    assert verify_kernel(bzimage(BANNER), "bzimage").af_tsi is False


@pytest.mark.parametrize(
    ("field", "found"),
    [
        (("<H", 0x1FE, 0xAA54), "found 0xaa54 as its boot flag"),
        (("<H", 0x206, 0x020B), "expected boot protocol 2.12 or later, found 2.11"),
        (("<B", 0x211, 0), "found a zImage, which is loaded low"),
        (("<H", 0x236, 0), "expected a kernel that is entered in 64-bit mode, found a 32-bit one"),
        (("<I", 0x24C, 1 << 30), "expected a kernel inside the file"),
        (("<I", 0x1F4, 1 << 20), "bytes, as its header says, found"),
        (("<H", 0x20E, 0x200), "expected a header that names its kernel, 6.12.1, found ''"),
        (("<I", 0x202, 0), "expected an x86 bzImage, found no 'HdrS' at offset 0x202"),
    ],
)
def test_each_field_of_the_header_counts(field: tuple[str, int, int], found: str) -> None:
    assert found in refused(bzimage(x=field))


def test_what_is_cut_off_or_appended_is_seen() -> None:
    assert "it is truncated, or something is appended" in refused(bzimage()[:-1])
    assert "it is truncated, or something is appended" in refused(bzimage() + b"\0")


def test_the_kernel_inside_is_proven_by_the_digest_of_gzip() -> None:
    packed = bytearray(gzip.compress(BANNER + TSI_NAMES + bytes(1000), 0))
    packed[200] ^= 1
    assert "found other data, or damaged ones" in refused(bzimage(packed=bytes(packed)))
    assert "found a part, or more" in refused(bzimage(packed=gzip.compress(BANNER)[:-9]))
    assert "found one packed by xz; build with CONFIG_KERNEL_GZIP" in refused(bzimage(packed=lzma.compress(BANNER)))
    assert "found no 'Linux version' banner" in refused(bzimage(b"no kernel"))


def test_an_image_or_a_vmlinux_in_its_place_is_called_by_its_name() -> None:
    image = KERNEL.read_bytes()
    assert refused(image) == (
        "kernel: expected an x86 bzImage, found an arm64 Image; take arch/x86/boot/bzImage of the kernel build"
    )
    assert "found an ELF file (vmlinux?); take arch/x86/boot/bzImage" in refused(b"\x7fELF\2\1\1" + bytes(1000))
    assert "found an x86 bzImage; take arch/arm64/boot/Image" in refused(bzimage(), "arm64-image")
    assert refused(b"").startswith("kernel: expected an x86 bzImage, found an empty file")


@settings(deadline=None, max_examples=200)
@given(offset=st.integers(0x1F0, 0x270), value=st.integers(0, 2**32 - 1), cut=st.integers(0, 3000))
def test_any_header_gives_facts_or_one_line(offset: int, value: int, cut: int) -> None:
    data = bytearray(bzimage(BANNER))
    struct.pack_into("<I", data, offset, value)
    try:
        verify_kernel(bytes(data)[: len(data) - cut], "bzimage")
    except InspectionError as error:
        assert str(error).isprintable()
