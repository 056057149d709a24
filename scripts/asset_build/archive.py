"""The same archive from the same files: one place that settles order, dates, modes and compression.

The standard tools take these from the machine: file modes from the umask, dates from the checkout, deflated
bytes from whichever zlib Python is linked with.
"""

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

from supermachine_kernel._assets import ASSETS

# The first moment a zip entry can name (PKWARE APPNOTE 4.4.6), and the same for a tar member.
ZIP_DATE = (1980, 1, 1, 0, 0, 0)
TAR_DATE = 315532800
_REGULAR_FILE = 0o100000
_EXECUTABLE = {f"supermachine_kernel/assets/{asset.name}" for asset in ASSETS if asset.mode & 0o111}


def normalize_wheel(path: Path) -> None:
    """Rewrite the wheel in place, its `.dist-info` last (PEP 427), RECORD the very last.

    Entries are stored, not deflated: no two zlibs need agree for two builds to be the same bytes.
    """
    temporary = path.with_suffix(".tmp")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(temporary, "w") as new:
        for entry in sorted(old.infolist(), key=_wheel_order):
            info = zipfile.ZipInfo(entry.filename, ZIP_DATE)
            info.create_system = 3  # Unix: the mode is in the upper half of external_attr
            info.external_attr = (_REGULAR_FILE | mode_in_wheel(entry.filename)) << 16
            new.writestr(info, old.read(entry), compress_type=zipfile.ZIP_STORED)
    temporary.replace(path)


def mode_in_wheel(name: str) -> int:
    """The permission bits a member of the wheel has: 0o755 for the guest's programs, 0o644 for the rest."""
    return 0o755 if name in _EXECUTABLE else 0o644


def normalize_sdist(path: Path) -> None:
    """Rewrite the sdist in place: sorted, dated alike, owned by nobody in particular (PEP 625, pax format)."""
    temporary = path.with_suffix(".tmp")
    tar = io.BytesIO()
    with tarfile.open(path) as old, tarfile.open(fileobj=tar, mode="w", format=tarfile.PAX_FORMAT) as new:
        for member in sorted(old.getmembers(), key=lambda member: member.name):
            info = tarfile.TarInfo(member.name)
            info.type, info.size, info.mtime = member.type, member.size, TAR_DATE
            info.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            new.addfile(info, old.extractfile(member) if member.isfile() else None)
    with temporary.open("wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as packed:
        packed.write(tar.getvalue())
    temporary.replace(path)


def _wheel_order(entry: zipfile.ZipInfo) -> tuple[bool, bool, str]:
    folder, _, name = entry.filename.rpartition("/")
    return ".dist-info" in folder, name == "RECORD", entry.filename
