"""Read a wheel that anybody may have made, in bounded memory, and with every byte of it accounted for."""

from __future__ import annotations

import hashlib
import io
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from supermachine_kernel._assets import KNOWN_ASSETS
from supermachine_kernel._version import VERSION

from ..errors import describe
from ..guest_sets import GUEST_SETS, WHEEL_ROWS, GuestSet
from ..regular_file import SizeError, read_regular
from ..wheel.archive import REGULAR_FILE, UNIX, ZIP_DATE, mode_in_wheel, wheel_order
from .errors import AuditError

PACKAGE = "supermachine_kernel"
SETS_BY_TAG = {f"py3-none-{row.platform_tag}": row.guest_set for row in WHEEL_ROWS}
"""Which set the wheel with a tag has."""
LARGEST = sum(asset.sizes[1] for asset in KNOWN_ASSETS) + (16 << 20)
"""The most bytes that a wheel's members take up, and so the most of the wheel."""
LARGEST_RATIO = 20
"""How many times its own size a wheel may unpack to. Kernels give 2 to 4; a thousand is a trap for memory."""

MOST_MEMBERS = 1000
"""How many members a wheel may have: a hundred bytes of its directory take several hundred in memory."""

_STEP = 1 << 18
"""Bytes that are unpacked at once."""

_DIRECTORY_ENTRY = b"PK\1\2"  # PKWARE APPNOTE 4.3.12
_LOCAL_HEADER = 30  # PKWARE APPNOTE 4.3.7; at 26 the lengths of name and extra field
_STORED, _DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
_CURE = "fetch or build it again"


@dataclass(frozen=True)
class Member:
    """One file of a wheel: its content, its compressed form, and what the archive says of it."""

    content: bytes
    stream: bytes | memoryview
    mode: int
    date: tuple[int, ...]
    method: int
    system: int


@dataclass(frozen=True)
class Wheel:
    """A wheel: `name` is its file name, `data` the archive, `members` what is in it, in its order."""

    name: str
    data: bytes
    members: dict[str, Member]

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of the whole file, in hexadecimal."""
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def version(self) -> str:
        """The version in the file name."""
        return self.name.split("-")[1]

    @cached_property
    def tag(self) -> str:
        """The tag in the file name."""
        return self.name.removesuffix(".whl").split("-", 2)[2]

    @cached_property
    def guest_set(self) -> GuestSet:
        """The set that a wheel with that tag has."""
        return GUEST_SETS[SETS_BY_TAG[self.tag]]

    @cached_property
    def dist_info(self) -> str:
        """The folder of the wheel's metadata."""
        return f"{PACKAGE}-{self.version}.dist-info"

    @cached_property
    def contents(self) -> dict[str, bytes]:
        """The content of every member by its name."""
        return {name: member.content for name, member in self.members.items()}

    def asset_contents(self) -> dict[str, bytes]:
        """The content of the assets by their names. Raises AuditError when one is missing."""
        names = {asset.name: f"{PACKAGE}/assets/{asset.name}" for asset in self.guest_set.assets}
        for name in names.values():
            if name not in self.members:
                raise AuditError(name, "the asset in the wheel", "none", _CURE, link="members")
        return {asset: self.members[name].content for asset, name in names.items()}


def read_wheel(path: Path) -> Wheel:
    """Read a wheel of this checkout's version. Raises AuditError."""
    named = re.fullmatch(rf"{PACKAGE}-([0-9A-Za-z.+!_]+)-([0-9A-Za-z._-]+)\.whl", path.name)
    if not named or named.group(2) not in SETS_BY_TAG:
        expected = " or ".join(f"{PACKAGE}-VERSION-{tag}.whl" for tag in SETS_BY_TAG)
        raise AuditError(path.name, expected, "another name", "take the name it was built with")
    if named.group(1).partition("+")[0] != VERSION:
        cure = "use the checkout of that version"
        raise AuditError(path.name, f"a wheel of {VERSION}, as this checkout is", f"one of {named.group(1)}", cure)
    try:
        data = read_regular(path, largest=LARGEST)
    except SizeError as error:
        raise AuditError(str(path), f"at most {LARGEST} bytes", str(error.size), _CURE) from error
    except OSError as error:
        raise AuditError(str(path), "a wheel that can be read", error.strerror or str(error), _CURE) from error
    return Wheel(path.name, data, read_members(data, str(path)))


def made_of(members: Mapping[str, bytes], streams: Mapping[str, bytes | memoryview]) -> dict[str, Member]:
    """The members as the build writes them, with the compressed form that `streams` has of them."""
    return {
        name: Member(
            members[name], streams.get(name, b""), REGULAR_FILE | mode_in_wheel(name), ZIP_DATE, _DEFLATED, UNIX
        )
        for name in sorted(members, key=wheel_order)
    }


def read_members(data: bytes, name: str) -> dict[str, Member]:
    """The members of an archive; `name` is what an error calls it. Raises AuditError."""
    if data.count(_DIRECTORY_ENTRY) > MOST_MEMBERS:
        raise AuditError(name, f"at most {MOST_MEMBERS} members", "more", _CURE)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
        _verify_directory(entries, len(data), name)
        return {entry.filename: _read_member(data, entry) for entry in entries}
    # What zipfile, struct and zlib raise for archives that are none: UnicodeDecodeError is a ValueError.
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, EOFError, struct.error) as error:
        raise AuditError(name, "a whole zip archive", describe(error), _CURE) from error


def _verify_directory(entries: list[zipfile.ZipInfo], size: int, name: str) -> None:
    """What the directory of the archive says, before anything is unpacked."""
    seen = set()
    for entry in entries:
        if entry.filename in seen:
            raise AuditError(entry.filename, "once in the wheel", "twice: readers may disagree on which one counts")
        seen.add(entry.filename)
        parts = set(entry.filename.split("/"))
        if entry.filename.startswith("/") or "\\" in entry.filename or {"", ".", ".."} & parts:
            raise AuditError(repr(entry.filename), "a plain relative name", "one that leads elsewhere")
        if entry.compress_type not in (_STORED, _DEFLATED) or entry.flag_bits & 1:
            found = "encryption" if entry.flag_bits & 1 else f"compression method {entry.compress_type}"
            raise AuditError(entry.filename, "to be deflated", found)
    if sum(entry.compress_size for entry in entries) > size:  # entries may share their bytes
        raise AuditError(name, f"members of less than the archive's {size} bytes", "more: some share their bytes")
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > min(LARGEST, LARGEST_RATIO * size):
        raise AuditError(name, f"at most {min(LARGEST, LARGEST_RATIO * size)} bytes once unpacked", str(unpacked))


def _read_member(data: bytes, entry: zipfile.ZipInfo) -> Member:
    """Unpack one member to at most the size that the directory gives it."""
    header = data[entry.header_offset : entry.header_offset + _LOCAL_HEADER]
    name_size, extra_size = struct.unpack_from("<HH", header, 26)
    start = entry.header_offset + _LOCAL_HEADER + name_size + extra_size
    stream = memoryview(data)[start : start + entry.compress_size]
    content = _inflate(stream, entry) if entry.compress_type == _DEFLATED else bytes(stream)
    if len(content) != entry.file_size or zlib.crc32(content) != entry.CRC or len(stream) != entry.compress_size:
        expected = f"{entry.file_size} bytes with the CRC {entry.CRC:08x}"
        found = f"{len(content)} bytes with {zlib.crc32(content):08x}: it is damaged"
        raise AuditError(entry.filename, expected, found, _CURE)
    mode = entry.external_attr >> 16
    return Member(content, stream, mode, entry.date_time, entry.compress_type, entry.create_system)


def _inflate(stream: memoryview, entry: zipfile.ZipInfo) -> bytes:
    """The deflated content, unpacked in steps: at no time are there two copies of it. Raises AuditError."""
    unpacker: Any = zlib.decompressobj(-zlib.MAX_WBITS)
    content, read = io.BytesIO(), 0
    try:
        while not unpacker.eof and content.tell() <= entry.file_size:
            packed = unpacker.unconsumed_tail or bytes(stream[read : read + _STEP])
            if not unpacker.unconsumed_tail:
                read += len(packed)
            part = unpacker.decompress(packed, min(_STEP, entry.file_size + 1 - content.tell()))
            content.write(part)
            if not packed and not part:
                break
    except zlib.error as error:
        raise AuditError(entry.filename, "deflated data", str(error), _CURE) from error
    if not unpacker.eof or unpacker.unused_data or read != len(stream):
        raise AuditError(entry.filename, "deflated data that end with the member", "more or less", _CURE)
    return content.getvalue()
