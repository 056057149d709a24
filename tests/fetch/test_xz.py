"""Packing and unpacking: the same bytes every time, and never more than is wanted."""

from __future__ import annotations

import io
import lzma
import random
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.asset_build.errors import ContentMismatchError
from scripts.asset_build.fetch.xz import pack, unpack
from tests.support.small_release import measure

CONTENT = random.Random(1).randbytes(300_000) + bytes(3 << 20) + random.Random(2).randbytes(1000)
"""3.4 MB: several of the pieces in which it is unpacked."""


def unpacked(packed: bytes, limit: int = 1 << 30) -> bytes:
    out = io.BytesIO()
    assert unpack(io.BytesIO(packed), out, limit) == measure(out.getvalue())
    return out.getvalue()


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=5000))
def test_what_is_packed_is_unpacked(content: bytes) -> None:
    assert unpacked(pack(content)) == content


def test_many_pieces_are_unpacked_in_order() -> None:
    assert unpacked(pack(CONTENT)) == CONTENT


def test_packing_gives_the_same_bytes_every_time() -> None:
    assert pack(CONTENT) == pack(CONTENT)


def test_the_xz_command_reads_what_is_packed() -> None:
    done = subprocess.run(["xz", "--decompress", "--stdout"], input=pack(CONTENT), capture_output=True, check=True)
    assert done.stdout == CONTENT


def test_what_the_xz_command_packs_at_its_best_is_unpacked() -> None:
    done = subprocess.run(["xz", "-9e", "--stdout"], input=CONTENT, capture_output=True, check=True)
    assert unpacked(done.stdout) == CONTENT


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_bytes_that_are_no_xz_data_are_refused(data: bytes, magic: bool) -> None:
    with pytest.raises(ContentMismatchError):
        unpacked((b"\xfd7zXZ\0" if magic else b"") + data)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_changed_bit_is_refused(data: st.DataObject) -> None:
    packed = bytearray(pack(CONTENT[:2000]))
    place = data.draw(st.integers(0, len(packed) - 1))
    packed[place] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(ContentMismatchError):
        unpacked(bytes(packed))


def test_no_more_is_written_than_the_limit() -> None:
    out, bomb = io.BytesIO(), lzma.compress(bytes(32 << 20), preset=0)
    with pytest.raises(ContentMismatchError, match="more"):
        unpack(io.BytesIO(bomb), out, 3 << 20)
    assert len(out.getvalue()) <= 3 << 20


def test_a_second_stream_is_refused() -> None:
    with pytest.raises(ContentMismatchError, match="more bytes after it"):
        unpacked(pack(b"one") + pack(b"two"))


def test_an_error_of_writing_is_raised() -> None:
    class Full(io.BytesIO):
        def write(self, data: object) -> int:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        unpack(io.BytesIO(pack(CONTENT)), Full(), 1 << 30)
