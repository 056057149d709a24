"""Compare two wheels, member by member and then byte by byte."""

from __future__ import annotations

import difflib
import hashlib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .reader import Member, Wheel

DIFF_LINES = 40
"""How much of a text's difference is shown."""
LARGEST_TEXT = 1 << 20
"""The most bytes of a text whose difference is looked for line by line: a line takes many times its bytes."""
CRLF = "this checkout has CRLF line ends: run `git config core.autocrlf input` and check it out again"


@dataclass(frozen=True)
class Difference:
    """One thing in which two wheels differ: the member (or the wheel), what of it, and how it is in each."""

    name: str
    what: str
    found: str
    expected: str
    diff: tuple[str, ...] = ()
    cure: str = ""


def compare(found: Wheel, expected: Wheel, compressor: str = "") -> Iterator[Difference]:
    """Everything in which `found` differs from `expected`; nothing when they are the same bytes under one name.

    Where the members are the same and only their compressed form differs, one Difference says so and names
    `compressor`, that of `expected`.
    """
    if found.name != expected.name:
        yield Difference(found.name, "the file name", found.name, expected.name)
    if found.data == expected.data:
        return
    differences = [*_compare_members(found, expected)]
    yield from differences
    if differences:
        return
    packed = [name for name in found.members if found.members[name].stream != expected.members[name].stream]
    if packed:
        sizes = [str(sum(len(wheel.members[name].stream) for name in packed)) for wheel in (found, expected)]
        what = f"the compressed form of {len(packed)} members, and nothing of what is in them,"
        by = f"{sizes[1]} bytes, by {compressor}"
        yield Difference(found.name, what, f"{sizes[0]} bytes, by another compressor or version", by)
    else:
        yield Difference(found.name, "the archive around its members", *_binary(found.data, expected.data))


def _compare_members(found: Wheel, expected: Wheel) -> Iterator[Difference]:
    there = {True: "there", False: "missing"}
    for name in sorted(found.members.keys() ^ expected.members.keys()):
        yield Difference(name, "presence", there[name in found.members], there[name in expected.members])
    for name in [name for name in found.members if name in expected.members]:
        one, other = found.members[name], expected.members[name]
        if one.content != other.content:
            yield _compare_content(name, one.content, other.content)
        for what, value in _attributes(one).items():
            if value != _attributes(other)[what]:
                yield Difference(name, what, value, _attributes(other)[what])
    names, expected_names = list(found.members), list(expected.members)
    if sorted(names) == sorted(expected_names) and names != expected_names:
        position = next(number for number, pair in enumerate(zip(names, expected_names)) if pair[0] != pair[1])
        what = f"order, from number {position + 1},"
        yield Difference("members", what, names[position], expected_names[position])


def _compare_content(name: str, found: bytes, expected: bytes) -> Difference:
    """Describe the difference: as a diff of two texts, else by size, digest and the first byte that differs."""
    cure = CRLF if b"\r\n" in expected and expected.replace(b"\r\n", b"\n") == found else ""
    try:
        if max(len(found), len(expected)) > LARGEST_TEXT or b"\0" in found + expected:
            raise ValueError
        lines, expected_lines = (content.decode().splitlines() for content in (found, expected))
    except ValueError:
        return Difference(name, "content", *_binary(found, expected), cure=cure)
    diff = [line.rstrip("\n") for line in difflib.unified_diff(lines, expected_lines, "wheel", "expected", n=1)]
    if not diff:  # line ends
        return Difference(name, "content", *_binary(found, expected), cure=cure)
    if len(diff) > DIFF_LINES:
        diff = [*diff[:DIFF_LINES], f"... {len(diff) - DIFF_LINES} more lines"]
    return Difference(name, "content", f"SHA-256 {_sha256(found)}", f"SHA-256 {_sha256(expected)}", tuple(diff), cure)


def _binary(found: bytes, expected: bytes) -> tuple[str, str]:
    shorter = min(len(found), len(expected))
    offset = next((number for number in range(shorter) if found[number] != expected[number]), shorter)

    def describe(content: bytes) -> str:
        there = content[offset : offset + 8].hex() or "the end"
        return f"{len(content)} bytes, SHA-256 {_sha256(content)}, at offset {offset}: {there}"

    return describe(found), describe(expected)


def _attributes(member: Member) -> dict[str, str]:
    methods = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}
    return {
        "mode": f"{member.mode:o}",
        "date": "{}-{:02}-{:02} {:02}:{:02}:{:02}".format(*member.date),
        "compression": methods.get(member.method, str(member.method)),
        "system": str(member.system),
    }


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
