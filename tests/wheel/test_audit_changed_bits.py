"""A changed bit anywhere in a wheel: the audit finds it, or it changed no member and nothing around the members."""

from __future__ import annotations

import random
import zlib
from pathlib import Path

import pytest

from scripts.asset_build.audit.chain import audit
from scripts.asset_build.audit.compare import compare
from scripts.asset_build.audit.errors import AuditError
from scripts.asset_build.audit.reader import read_members, read_wheel
from scripts.asset_build.paths import PROJECT
from tests.support.wheels import UNLOCKED

pytestmark = pytest.mark.slow  # each opens a whole wheel


def streams_of(data: bytes | bytearray) -> list[range]:
    """Where the compressed forms of an archive's members lie."""
    places = [range(0)]
    for member in read_members(bytes(data), "the archive").values():
        start = data.index(member.stream, places[-1].stop)
        places.append(range(start, start + len(member.stream)))
    return places[1:]


def test_one_changed_bit_is_found_unless_it_changes_no_member_and_nothing_around_them(
    custom_wheel: Path, tmp_path: Path
) -> None:
    data, path = custom_wheel.read_bytes(), tmp_path / custom_wheel.name
    streams, chance = streams_of(data), random.Random(4)
    offsets = {chance.randrange(len(data)) for _ in range(20)}
    offsets |= {len(data) - chance.randrange(1, 70_000) for _ in range(30)}  # licences, RECORD and the directory
    offsets |= {stream[-1] for stream in chance.sample(streams, 10)}
    ends = zip([0, *(stream.stop for stream in streams)], [*(stream.start for stream in streams), len(data)])
    offsets |= {*chance.sample([offset for end in ends for offset in range(*end)], 40)}  # headers and the directory
    for offset in offsets:
        path.write_bytes(data[:offset] + bytes([data[offset] ^ 1 << chance.randrange(8)]) + data[offset + 1 :])
        try:
            list(audit(path, PROJECT, UNLOCKED))
        except AuditError:
            continue
        assert any(offset in stream for stream in streams), offset
        assert read_wheel(path).contents == read_wheel(custom_wheel).contents, offset


def test_bits_that_fill_the_last_byte_of_a_compressed_form_change_no_member_and_are_named(
    custom_wheel: Path, tmp_path: Path
) -> None:
    """RFC 1951, 3.1.1: deflated data end at any bit of a byte."""
    data, path = bytearray(custom_wheel.read_bytes()), tmp_path / custom_wheel.name
    filled = [place for place in streams_of(data) if gives_the_same_without_its_last_bit(data, place)]
    for place in filled:
        data[place[-1]] ^= 1 << 7
    path.write_bytes(data)
    assert [link.name for link in audit(path, PROJECT, UNLOCKED)][-1] == "SBOM"
    (difference,) = compare(read_wheel(path), read_wheel(custom_wheel))
    assert difference.what.startswith(f"the compressed form of {len(filled)} members, and nothing of what is in them")


def gives_the_same_without_its_last_bit(data: bytearray, place: range) -> bool:
    stream = bytearray(data[place.start : place.stop])
    content = zlib.decompress(stream, -zlib.MAX_WBITS)
    stream[-1] ^= 1 << 7
    try:
        return zlib.decompress(stream, -zlib.MAX_WBITS) == content
    except zlib.error:
        return False
