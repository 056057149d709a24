"""An arm64 Linux Image: whole by its own header, and what it says of itself."""

import re
import struct
import zlib
from typing import NamedTuple, Optional

from supermachine_kernel import InspectionError

# Documentation/arch/arm64/booting.rst, "Call the kernel image": the header of an Image is 64 bytes.
_HEADER = struct.Struct("<8s 8x QQ 24x 4s 4x")
_MAGIC = b"ARM\x64"
_BIG_ENDIAN = 1 << 0
_BANNER = re.compile(rb"Linux version (\d[\x21-\x7e]*) \([\x20-\x7e]+")
# What a kernel with AF_TSI has in its data: the name of its `struct proto`, a field of 32 bytes (include/net/sock.h),
# and that of its parameter. A mention of AF_TSI, in a message or in a table of names, is neither.
_AF_TSI = (b"\0AF_TSI".ljust(33, b"\0"), b"\0tsi_hijack\0")
_AF_TSI_CONFIG = b"CONFIG_TSI=y"

# kernel/configs.c: with CONFIG_IKCONFIG the gzipped .config stands in the Image after this.
_CONFIG_START = b"IKCFG_ST"
_LARGEST_CONFIG = 8 << 20

_EXPECTED = "an uncompressed arm64 Linux Image"
_CURE = "take arch/arm64/boot/Image of the kernel build"


class KernelFacts(NamedTuple):
    """What an Image says of itself: release ("6.12.1"), whether it has AF_TSI, and `image_size` in bytes."""

    release: str
    af_tsi: bool
    image_size: int


def verify_kernel(data: bytes, name: str = "kernel") -> KernelFacts:
    """Verify that `data` is a little-endian arm64 Image with a Linux banner, whole by its own `image_size`.

    The header does not say how long the file is, only what it takes up in memory: a loss of less than half of
    that shows in the digests alone.
    """
    other = _other_format(data)
    if other or len(data) < _HEADER.size:
        raise InspectionError(name, _EXPECTED, other or f"{len(data)} bytes", _CURE)
    code, image_size, flags, magic = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        found = f"{magic!r} where its magic {_MAGIC!r} should be (offset 56)"
        raise InspectionError(name, _EXPECTED, found, _CURE)
    if code == bytes(8):  # the first two instructions, at which a boot loader starts the kernel
        raise InspectionError(name, "an instruction to start at", "zeros (offset 0)", _CURE)
    if flags & _BIG_ENDIAN:
        cure = "build without CONFIG_CPU_BIG_ENDIAN"
        raise InspectionError(name, "a little-endian kernel", "a big-endian one", cure)
    if len(data) > image_size:
        cure = "something is appended, or the header is damaged: take the Image as the kernel build left it"
        raise InspectionError(name, f"at most its image_size, {image_size} bytes", f"{len(data)} bytes", cure)
    banner = _BANNER.search(data)
    if banner is None or len(data) < image_size // 2:
        found = f"{len(data)} of {image_size} bytes" + ("" if banner else " and no 'Linux version' banner")
        cure = "it is truncated or not Linux: copy or build it again"
        raise InspectionError(name, "a whole Linux Image", found, cure)
    return KernelFacts(banner.group(1).decode(), _has_af_tsi(data), image_size)


def embedded_config(image: bytes) -> Optional[bytes]:
    """The .config that an Image built with CONFIG_IKCONFIG carries; None where it carries none."""
    start = image.find(_CONFIG_START + b"\x1f\x8b")
    if start < 0:
        return None
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        config = unpacker.decompress(memoryview(image)[start + len(_CONFIG_START) :], _LARGEST_CONFIG)
    except zlib.error:
        return None
    return config if unpacker.eof else None


def _has_af_tsi(image: bytes) -> bool:
    config = embedded_config(image)
    named = all(name in image for name in _AF_TSI)
    return named and (config is None or _AF_TSI_CONFIG in config.splitlines())


def _other_format(data: bytes) -> str:
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
