"""The same archive from the same files: one place that settles order, dates, modes and compression.

The standard tools take these from the machine: file modes from the umask, dates from the checkout, deflated
bytes from whichever zlib Python is linked with. So nothing is deflated here.
"""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from supermachine_kernel._assets import ASSETS

from ..atomic_write import replacing, write_atomically

# The first moment a zip entry can name (PKWARE APPNOTE 4.4.6), and the same for a tar member.
ZIP_DATE = (1980, 1, 1, 0, 0, 0)
TAR_DATE = 315532800
_REGULAR_FILE = 0o100000
_EXECUTABLE = {f"supermachine_kernel/assets/{asset.name}" for asset in ASSETS if asset.mode & 0o111}
# RFC 1952: deflate, no flags, no date, no extra flags, no known operating system.
_GZIP_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
_STORED_BLOCK = 0xFFFF  # RFC 1951, 3.2.4: the most bytes of a block that is not compressed


def normalize_wheel(path: Path) -> None:
    """Rewrite the wheel in place, as `write_wheel` writes it."""
    with zipfile.ZipFile(path) as old, replacing(path) as new:
        write_wheel(((entry.filename, old.read(entry)) for entry in old.infolist() if not entry.is_dir()), new)


def write_wheel(members: Iterable[tuple[str, bytes]], file: IO[bytes]) -> None:
    """Write a wheel of these members (name, content) into `file`: stored, `.dist-info` last, RECORD the very last."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in sorted(members, key=lambda member: _wheel_order(member[0])):
            info = zipfile.ZipInfo(name, ZIP_DATE)
            info.create_system = 3  # Unix: the mode is in the upper half of external_attr
            info.external_attr = (_REGULAR_FILE | mode_in_wheel(name)) << 16
            archive.writestr(info, content, compress_type=zipfile.ZIP_STORED)


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
    write_atomically(path, _gzip(tar.getvalue()))


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


def _gzip(data: bytes) -> bytes:
    """`data` in the gzip format, not compressed: no two zlibs need agree for two builds to be the same bytes."""
    blocks = [data[start : start + _STORED_BLOCK] for start in range(0, len(data), _STORED_BLOCK)] or [b""]
    body = [struct.pack("<BHH", block is blocks[-1], len(block), len(block) ^ 0xFFFF) + block for block in blocks]
    return b"".join([_GZIP_HEADER, *body, struct.pack("<II", zlib.crc32(data), len(data) & 0xFFFFFFFF)])


def _wheel_order(filename: str) -> tuple[bool, bool, str]:
    folder, _, name = filename.rpartition("/")
    return ".dist-info" in folder, name == "RECORD", filename
