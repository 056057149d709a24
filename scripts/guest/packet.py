"""The packets of a virtio socket device (virtio 1.2, section 5.10)."""

from __future__ import annotations

import struct
from typing import NamedTuple

HOST_CID = 2
STREAM, DATAGRAM = 1, 3
"""Types of packets. The standard has no datagrams: they are what AF_TSI adds."""

REQUEST, RESPONSE, RST, SHUTDOWN, RW, CREDIT_UPDATE, CREDIT_REQUEST = range(1, 8)
NO_RECEIVE, NO_SEND, NO_MORE = 1, 2, 3
"""Flags of SHUTDOWN: its sender will receive no more, send no more, or neither."""

MAX_PAYLOAD = 64 << 10
_HEADER = struct.Struct("<QQIIIHHIII")
SIZE = _HEADER.size


class Header(NamedTuple):
    """The 44 bytes before the payload. `buffer` and `consumed` are the sender's: its credit, modulo 2 ** 32."""

    source_cid: int
    cid: int
    source_port: int
    port: int
    length: int
    type: int
    op: int
    flags: int
    buffer: int
    consumed: int

    def pack(self) -> bytes:
        """The bytes on the wire."""
        return _HEADER.pack(*self)

    @classmethod
    def unpack(cls, data: bytes | memoryview) -> Header:
        """The header at the beginning of `data`, which has at least SIZE bytes."""
        return cls(*_HEADER.unpack_from(data))
