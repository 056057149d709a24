"""A small bzImage with the structure of a real one."""

from __future__ import annotations

import gzip
import struct

RELEASE = "6.12.1"
BANNER = f"Linux version {RELEASE} (a@b) (gcc) #1 SMP Thu Jan  1 00:00:00 UTC 2026\n".encode()
TSI_NAMES = b"\0AF_TSI" + bytes(26) + b"\0tsi_hijack\0"
_SETUP_SECTORS = 3


def bzimage(content: bytes = b"", *, packed: bytes | None = None, **fields: tuple[str, int, int]) -> bytes:
    """A bzImage of that kernel, as Documentation/arch/x86/boot.rst has it; `fields` are format, offset, value."""
    payload = gzip.compress(content or BANNER + TSI_NAMES + bytes(2 << 20), 1) if packed is None else packed
    body = bytes(64) + payload
    body += bytes(-len(body) % 16)
    setup = bytearray((_SETUP_SECTORS + 1) * 512)
    version = b"6.12.1 (a@b) #1 SMP\0"
    setup[0x300 : 0x300 + len(version)] = version
    header = {
        "setup_sects": ("<B", 0x1F1, _SETUP_SECTORS),
        "syssize": ("<I", 0x1F4, len(body) // 16),
        "boot_flag": ("<H", 0x1FE, 0xAA55),
        "magic": ("<I", 0x202, int.from_bytes(b"HdrS", "little")),
        "version": ("<H", 0x206, 0x020F),
        "kernel_version": ("<H", 0x20E, 0x100),
        "loadflags": ("<B", 0x211, 1),
        "xloadflags": ("<H", 0x236, 1),
        "payload_offset": ("<I", 0x248, 64),
        "payload_length": ("<I", 0x24C, len(payload)),
        "init_size": ("<I", 0x260, 1 << 20),
    }
    for kind, offset, value in {**header, **fields}.values():
        struct.pack_into(kind, setup, offset, value)
    return bytes(setup) + body
