"""Packing and unpacking: the same bytes every time, and never more than is wanted."""

from __future__ import annotations

import hashlib
import io
import lzma
import random
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.asset_build.errors import WrongContent
from scripts.asset_build.fetch.xz import Unpacker, pack
from scripts.asset_build.lock import LockedAsset, LockedFile

CONTENT = random.Random(1).randbytes(300_000) + bytes(3 << 20) + random.Random(2).randbytes(1000)
"""3.4 MB: several of the unpacker's pieces."""


def unpack(packed: bytes, step: int, unpacked_limit: int = 1 << 30) -> tuple[bytes, LockedAsset]:
    out, measures = io.BytesIO(), list[LockedAsset]()
    with Unpacker(out, len(packed), unpacked_limit, measures.append) as unpacker:
        for start in range(0, len(packed), step):
            unpacker.write(packed[start : start + step])
        unpacker.finish()
    return out.getvalue(), measures[0]


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=5000), st.integers(1, 6000))
def test_what_is_packed_is_unpacked(content: bytes, step: int) -> None:
    packed = pack(content)
    unpacked, measured = unpack(packed, step)
    assert unpacked == content
    assert measured.unpacked == LockedFile(len(content), hashlib.sha256(content).hexdigest())
    assert measured.packed == LockedFile(len(packed), hashlib.sha256(packed).hexdigest())


@pytest.mark.parametrize("step", [1000, 1 << 20])
def test_many_pieces(step: int) -> None:
    assert unpack(pack(CONTENT), step)[0] == CONTENT


def test_the_same_bytes_every_time() -> None:
    assert pack(CONTENT) == pack(CONTENT)


def test_the_xz_command_reads_it() -> None:
    done = subprocess.run(["xz", "--decompress", "--stdout"], input=pack(CONTENT), capture_output=True, check=True)
    assert done.stdout == CONTENT


def test_it_reads_what_the_xz_command_writes_at_its_best() -> None:
    done = subprocess.run(["xz", "-9e", "--stdout"], input=CONTENT, capture_output=True, check=True)
    assert unpack(done.stdout, 4096)[0] == CONTENT


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_unpacked_or_refused(data: bytes, magic: bool) -> None:
    with pytest.raises(WrongContent):
        unpack((b"\xfd7zXZ\0" if magic else b"") + data, 7)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_changed_bit_is_noticed(data: st.DataObject) -> None:
    packed = bytearray(pack(CONTENT[:2000]))
    place = data.draw(st.integers(0, len(packed) - 1))
    packed[place] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(WrongContent):
        unpack(bytes(packed), 64)


def test_a_restart_forgets() -> None:
    out, measures = io.BytesIO(), list[LockedAsset]()
    packed, other = pack(CONTENT), pack(CONTENT[::-1])
    with Unpacker(out, len(packed), len(CONTENT), measures.append) as unpacker:
        unpacker.write(other[: len(other) // 2])
        unpacker.restart()
        unpacker.write(packed)
        unpacker.finish()
    assert out.getvalue() == CONTENT
    assert measures[0].unpacked.sha256 == hashlib.sha256(CONTENT).hexdigest()


def test_no_more_is_written_than_the_limit() -> None:
    out = io.BytesIO()
    bomb = lzma.compress(bytes(32 << 20), preset=0)
    with Unpacker(out, len(bomb), 3 << 20, lambda _: None) as unpacker, pytest.raises(WrongContent, match="more"):
        unpacker.write(bomb)
    assert len(out.getvalue()) <= 3 << 20


def test_a_second_stream_is_more_than_the_file() -> None:
    with pytest.raises(WrongContent, match="more bytes after it"):
        unpack(pack(b"one") + pack(b"two"), 1 << 20)


def test_what_cannot_be_written_is_said() -> None:
    class Full(io.BytesIO):
        def write(self, data: object) -> int:
            raise OSError(28, "No space left on device")

    with Unpacker(Full(), 1 << 20, 1 << 30, lambda _: None) as unpacker, pytest.raises(OSError, match="No space left"):
        unpacker.write(pack(CONTENT))
        unpacker.finish()
