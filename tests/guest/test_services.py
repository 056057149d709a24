"""The name server of scripts/boot.py, by the bytes of RFC 1035."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.guest.services import answer

A, AAAA = 1, 28


def query(name: bytes, kind: int = A) -> bytes:
    labels = b"".join(bytes([len(label)]) + label for label in name.split(b"."))
    return b"\x12\x34\x01\x00" + struct.pack(">HHHH", 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", kind, 1)


@pytest.mark.parametrize("name", [b"host.test", b"HOST.Test"])
def test_the_name_has_the_loopback_address(name: bytes) -> None:
    asked = query(name)
    begin = b"\x12\x34\x81\x80" + struct.pack(">HHHH", 1, 1, 0, 0) + asked[12:]
    assert answer(asked.replace(name.split(b".")[0], b"host")) is not None
    reply = answer(asked)
    assert reply is not None
    assert reply[:12] == begin[:12]
    assert reply.endswith(b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\x7f\0\0\1")


def test_the_name_has_no_other_address() -> None:
    reply = answer(query(b"host.test", AAAA))
    assert reply is not None
    assert struct.unpack_from(">HHHHH", reply, 2) == (0x8180, 1, 0, 0, 0)


def test_another_name_is_unknown() -> None:
    reply = answer(query(b"other.test"))
    assert reply is not None
    assert struct.unpack_from(">HHHHH", reply, 2) == (0x8183, 1, 0, 0, 0)


@given(st.binary(max_size=100) | st.binary(max_size=60).map(lambda tail: query(b"host.test")[:12] + tail))
def test_any_bytes_get_a_reply_or_none(data: bytes) -> None:
    reply = answer(data)
    assert reply is None or reply[:2] == data[:2]
