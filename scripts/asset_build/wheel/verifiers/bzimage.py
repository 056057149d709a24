"""An x86 bzImage: whole by its own header, and the kernel that is packed in it."""

import struct
import zlib
from typing import Any

from supermachine_kernel import InspectionError

from .kernel_facts import BANNER, KernelFacts, describe_format, has_af_tsi

# Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header": name, offset and type of the fields that are read.
_FIELDS = {
    "setup_sects": ("<B", 0x1F1),
    "syssize": ("<I", 0x1F4),
    "boot_flag": ("<H", 0x1FE),
    "header": ("4s", 0x202),
    "version": ("<H", 0x206),
    "kernel_version": ("<H", 0x20E),
    "loadflags": ("<B", 0x211),
    "xloadflags": ("<H", 0x236),
    "payload_offset": ("<I", 0x248),
    "payload_length": ("<I", 0x24C),
    "init_size": ("<I", 0x260),
}
_HEADER_END = 0x264
_SECTOR, _PARAGRAPH = 512, 16
_BOOT_FLAG, _MAGIC = 0xAA55, b"HdrS"
_OLDEST = 0x020C
"""Protocol 2.12, the first with `xloadflags`."""
_LOADED_HIGH = 1 << 0
_KERNEL_64 = 1 << 0

_LARGEST = 256 << 20
"""The most bytes that a kernel may have once it is unpacked."""
_OTHER_PACKINGS = {
    b"\xfd7zXZ": "xz",
    b"BZh": "bzip2",
    b"\x5d\x00\x00": "lzma",
    b"\x89LZO": "lzo",
    b"\x02\x21\x4c\x18": "lz4",
    b"\x28\xb5\x2f\xfd": "zstd",
}

_EXPECTED = "an x86 bzImage"
_CURE = "take arch/x86/boot/bzImage of the kernel build"
_DAMAGED = "it is damaged: copy or build it again"


def verify_bzimage(data: bytes, name: str) -> KernelFacts:
    """Verify that `data` is a bzImage that is entered in 64-bit mode, whole, with a Linux kernel packed by gzip.

    gzip's own digest proves the kernel inside. Its banner and the header must name the same release.
    """
    if len(data) < _HEADER_END or data[0x202:0x206] != _MAGIC:
        found = describe_format(data) or ("no 'HdrS' at offset 0x202" if len(data) >= _HEADER_END else "")
        raise InspectionError(name, _EXPECTED, found or f"{len(data)} bytes", _CURE)
    header: dict[str, Any] = {field: struct.unpack_from(kind, data, at)[0] for field, (kind, at) in _FIELDS.items()}
    _verify_header(header, name)
    code = ((header["setup_sects"] or 4) + 1) * _SECTOR
    size = code + header["syssize"] * _PARAGRAPH
    if len(data) != size:
        cure = "it is truncated, or something is appended: take the bzImage as the kernel build left it"
        raise InspectionError(name, f"{size} bytes, as its header says", f"{len(data)}", cure)
    start = code + header["payload_offset"]
    if start + header["payload_length"] > size:
        raise InspectionError(name, "a kernel inside the file", f"one up to byte {start}", _DAMAGED)
    content = _unpack(data[start : start + header["payload_length"]], name)
    banner = BANNER.search(content)
    if banner is None:
        raise InspectionError(name, "a Linux kernel inside", "no 'Linux version' banner", _DAMAGED)
    named = _kernel_version(data, header["kernel_version"])
    if named != banner.group(1):
        expected = f"a header that names its kernel, {banner.group(1).decode()}"
        raise InspectionError(name, expected, ascii(named.decode("latin-1"))[:100], _DAMAGED)
    return KernelFacts(banner.group(1).decode(), has_af_tsi(content), header["init_size"], content)


def _verify_header(header: "dict[str, Any]", name: str) -> None:
    version = header["version"]
    if header["boot_flag"] != _BOOT_FLAG:
        raise InspectionError(name, _EXPECTED, f"{header['boot_flag']:#06x} as its boot flag (offset 0x1fe)", _CURE)
    if version < _OLDEST:
        found = f"{version >> 8}.{version & 0xFF:02}"
        raise InspectionError(name, "boot protocol 2.12 or later", found, "build a kernel of today")
    if not header["loadflags"] & _LOADED_HIGH:
        raise InspectionError(name, _EXPECTED, "a zImage, which is loaded low", _CURE)
    if not header["xloadflags"] & _KERNEL_64:
        cure = "build with CONFIG_64BIT"
        raise InspectionError(name, "a kernel that is entered in 64-bit mode", "a 32-bit one", cure)


def _unpack(payload: bytes, name: str) -> bytes:
    """The kernel that is packed in a bzImage."""
    cure = "build with CONFIG_KERNEL_GZIP"
    for magic, packing in _OTHER_PACKINGS.items():
        if payload.startswith(magic):
            raise InspectionError(name, "a kernel packed by gzip", f"one packed by {packing}", cure)
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        content = unpacker.decompress(payload, _LARGEST)
    except zlib.error:
        raise InspectionError(name, "a kernel packed by gzip", "other data, or damaged ones", _DAMAGED) from None
    if not unpacker.eof:
        raise InspectionError(name, f"a whole kernel of at most {_LARGEST} bytes", "a part, or more", _DAMAGED)
    return content


def _kernel_version(data: bytes, offset: int) -> bytes:
    """The first word of the version in the setup code: the release."""
    start = offset + 0x200
    return data[start : start + 256].partition(b"\0")[0].partition(b" ")[0]
