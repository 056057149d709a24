"""What a kernel says of itself once it is unpacked, whatever its architecture."""

import re
import zlib
from dataclasses import dataclass, field
from typing import Optional

BANNER = re.compile(rb"Linux version (\d[\x21-\x7e]*) \([\x20-\x7e]+")
# What a kernel with AF_TSI has in its data: the name of its `struct proto`, a field of 32 bytes (include/net/sock.h),
# and that of its parameter. A mention of AF_TSI, in a message or in a table of names, is neither.
_AF_TSI = (b"\0AF_TSI".ljust(33, b"\0"), b"\0tsi_hijack\0")
_AF_TSI_CONFIG = b"CONFIG_TSI=y"

# kernel/configs.c: with CONFIG_IKCONFIG the gzipped .config stands in the kernel after this.
_CONFIG_START = b"IKCFG_ST"
_LARGEST_CONFIG = 8 << 20


@dataclass(frozen=True)
class KernelFacts:
    """What a kernel says of itself: release ("6.12.1"), whether it has AF_TSI, and how much memory it takes in bytes.

    `content` is the kernel itself: what the file is, or what is packed in it.
    """

    release: str
    af_tsi: bool
    image_size: int
    content: bytes = field(repr=False)


def has_af_tsi(content: bytes) -> bool:
    """Whether a kernel has AF_TSI, by its data, and by its config where it carries one."""
    config = embedded_config(content)
    named = all(name in content for name in _AF_TSI)
    return named and (config is None or _AF_TSI_CONFIG in config.splitlines())


def embedded_config(content: bytes) -> Optional[bytes]:
    """The .config that a kernel built with CONFIG_IKCONFIG carries; None where it carries none."""
    start = content.find(_CONFIG_START + b"\x1f\x8b")
    if start < 0:
        return None
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        config = unpacker.decompress(memoryview(content)[start + len(_CONFIG_START) :], _LARGEST_CONFIG)
    except zlib.error:
        return None
    return config if unpacker.eof else None


def describe_format(data: bytes) -> str:
    """What a file is by its first bytes, among those that people hand over for a kernel; "" for none of them."""
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
    if data[56:60] == b"ARM\x64":  # Documentation/arch/arm64/booting.rst
        return "an arm64 Image"
    if data[56:60] == b"RSC\x05":  # Documentation/arch/riscv/boot-image-header.rst
        return "a RISC-V Image"
    return ""
