"""Write the same archive from the same files: order, dates, modes and compression are decided here.

The standard tools take dates and modes from the checkout and its user, and deflate by whichever zlib Python is linked
with: zlib, zlib-ng and their versions give different bytes for the same input. So the members are compressed by
libdeflate, in the pinned package `deflate`: its output depends on its input, its version and the level alone. Level 12
is its best: a wheel has two fifths of its files' size, in two seconds that only its builder waits for.
"""

from __future__ import annotations

import base64
import hashlib
import importlib
import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO

from supermachine_kernel._assets import KNOWN_ASSETS

from ..atomic_write import write_atomically

ZIP_DATE = (1980, 1, 1, 0, 0, 0)
"""The first moment that a zip entry can name (PKWARE APPNOTE 4.4.6)."""
TAR_DATE = 315532800
"""The same for a tar member."""
LEVEL = 12

REGULAR_FILE = 0o100000
_EXECUTABLE = {f"supermachine_kernel/assets/{asset.name}" for asset in KNOWN_ASSETS if asset.mode & 0o111}

# PKWARE APPNOTE 4.3.7, 4.3.12 and 4.3.16: local header, entry of the central directory, end of the directory.
_LOCAL = struct.Struct("<4s 5H 3I 2H")
_CENTRAL = struct.Struct("<4s 6H 3I 5H 2I")
_END = struct.Struct("<4s 4H 2I H")
_VERSION = 20  # the version needed to unpack deflate (4.4.3)
UNIX = 3  # the mode is in the upper half of the external attributes (4.4.2)
_UTF_8 = 1 << 11
_DEFLATED = 8
_DOS_DATE = 1 << 5 | 1  # 1 January 1980

# RFC 1952: deflate, no flags, no date, best compression, no known operating system.
_GZIP_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\x02\xff"


def normalize_wheel(path: Path) -> None:
    """Rewrite the wheel in place, with a RECORD in the archive's order, as `wheel_archive` makes it."""
    with zipfile.ZipFile(path) as old:
        members = {entry.filename: old.read(entry) for entry in old.infolist() if not entry.is_dir()}
    (record,) = (name for name in members if name.endswith(".dist-info/RECORD"))
    del members[record]
    write_atomically(path, wheel_archive({**members, record: record_of(members, record)}))


def wheel_archive(members: Mapping[str, bytes], streams: Mapping[str, bytes | memoryview] | None = None) -> bytes:
    """The bytes of a wheel with these members: content by name, in one order, with one date and their modes."""
    return b"".join(wheel_pieces(members, streams))


def wheel_pieces(
    members: Mapping[str, bytes], streams: Mapping[str, bytes | memoryview] | None = None
) -> list[bytes | memoryview]:
    """The bytes of a wheel, in pieces that follow each other.

    `streams` has the compressed content of members whose compression is given; the others are compressed here.
    """
    known = streams or {}
    local: list[bytes | memoryview] = []
    directory, offset = [], 0
    for name in sorted(members, key=wheel_order):
        content, encoded = members[name], name.encode()
        stream = known[name] if name in known else compress(content)
        flags = 0 if name.isascii() else _UTF_8
        fields = (zlib.crc32(content), len(stream), len(content), len(encoded), 0)
        shared = (_VERSION, flags, _DEFLATED, 0, _DOS_DATE, *fields)
        attributes = (REGULAR_FILE | mode_in_wheel(name)) << 16
        directory.append(_CENTRAL.pack(b"PK\1\2", UNIX << 8 | _VERSION, *shared, 0, 0, 0, attributes, offset) + encoded)
        header = _LOCAL.pack(b"PK\3\4", *shared) + encoded
        local += [header, stream]
        offset += len(header) + len(stream)
    size = sum(map(len, directory))
    end = _END.pack(b"PK\5\6", 0, 0, len(members), len(members), size, offset, 0)
    return [*local, *directory, end]


def record_of(members: Mapping[str, bytes], name: str) -> bytes:
    """The RECORD, called `name`, of a wheel with these other members (PEP 376, the wheel specification)."""
    lines = [f"{member},{','.join(record_fields(members[member]))}" for member in sorted(members, key=wheel_order)]
    return "\n".join([*lines, f"{name},,", ""]).encode()


def record_fields(content: bytes) -> list[str]:
    """Digest and size as RECORD has them: SHA-256 in base64 for URLs, without padding; bytes."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return [f"sha256={digest}", str(len(content))]


def compress(content: bytes) -> bytes:
    """`content` deflated (RFC 1951)."""
    deflate = importlib.import_module(
        "deflate"
    )  # here, because the audit reads wheels without the build's requirements
    return bytes(deflate.deflate_compress(content, LEVEL))


def mode_in_wheel(name: str) -> int:
    """The permission bits a member of the wheel has: 0o755 for the guest's programs, 0o644 for the rest."""
    return 0o755 if name in _EXECUTABLE else 0o644


def normalize_sdist(path: Path) -> None:
    """Rewrite the sdist in place, as `write_tar` writes it, in gzip (PEP 625).

    A link, which a checkout may be made of, becomes the file it leads to.
    """
    tar = io.BytesIO()
    with tarfile.open(path) as old:
        files = [(member.name, old.extractfile(member)) for member in old.getmembers() if not member.isdir()]
        write_tar(((name, file.read()) for name, file in files if file), tar)
    write_atomically(path, gzip_of(tar.getvalue()))


def write_tar(members: Iterable[tuple[str, bytes | Path]], file: IO[bytes]) -> None:
    """Write a tar (pax format) of these members (name, content or the file with it) into `file`.

    They are sorted, dated alike and owned by nobody in particular. Scripts are executable by their first line,
    and not by their mode: a file system may have lost that, or have it everywhere.
    """
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in sorted(members, key=lambda member: member[0]):
            info = tarfile.TarInfo(name)
            info.mtime = TAR_DATE
            with content.open("rb") if isinstance(content, Path) else io.BytesIO(content) as data:
                info.size = data.seek(0, io.SEEK_END)
                data.seek(0)
                info.mode = 0o755 if data.read(2) == b"#!" else 0o644
                data.seek(0)
                archive.addfile(info, data)


def gzip_of(data: bytes) -> bytes:
    """`data` in the gzip format."""
    return b"".join([_GZIP_HEADER, compress(data), struct.pack("<II", zlib.crc32(data), len(data) & 0xFFFFFFFF)])


def wheel_order(name: str) -> tuple[bool, bool, str]:
    """`.dist-info` last, and RECORD the very last, as the wheel specification recommends."""
    folder, _, base = name.rpartition("/")
    return ".dist-info" in folder, base == "RECORD", name
