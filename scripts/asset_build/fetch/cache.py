"""The cache of unpacked release files. Each file's name is its SHA-256, and any number of builds share the cache."""

import contextlib
import errno
import os
import re
import stat
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Optional

from ..atomic_write import replacing
from ..digests import stream_sha256
from ..errors import BuildError
from ..file_lock import file_lock
from ..lock import LockedFile
from ..regular_file import open_regular

_ABANDONED = 24 * 3600.0
"""Seconds after which a temporary file is one that a killed build left."""
_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.tmp")
"""The names that `replacing` gives to its temporary files."""


def cache_folder(environ: Mapping[str, str]) -> Path:
    """SUPERMACHINE_CACHE_DIR, else a folder in the project's part of the user's cache. Raises BuildError."""
    if environ.get("SUPERMACHINE_CACHE_DIR"):
        return Path(environ["SUPERMACHINE_CACHE_DIR"]).absolute()
    return user_cache(environ) / "release"


def user_cache(environ: Mapping[str, str]) -> Path:
    """The project's folder in the user's cache (XDG Base Directory; ~/Library/Caches on macOS). Raises BuildError."""
    if sys.platform == "darwin":
        return _home(environ) / "Library" / "Caches" / "supermachine-kernel"
    cache = Path(environ.get("XDG_CACHE_HOME", ""))
    # XDG Base Directory Specification: a relative path there is invalid and to be ignored.
    return (cache if cache.is_absolute() else _home(environ) / ".cache") / "supermachine-kernel"


def _home(environ: Mapping[str, str]) -> Path:
    try:
        return Path(environ.get("HOME") or Path.home())
    except (RuntimeError, KeyError) as error:  # KeyError: Python 3.9
        expected, found = "the user's home folder, for the cache", f"none for user id {os.getuid()}"
        raise BuildError("HOME", expected, found, "set HOME, or SUPERMACHINE_CACHE_DIR to a folder") from error


class Cache:
    """A folder of files, each named by its SHA-256."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, wanted: LockedFile) -> Path:
        """Where the entry is, or would be."""
        return self.folder / wanted.sha256

    def find(self, wanted: LockedFile) -> Optional[Path]:
        """The entry, once its content is proven; None where there is none, or one that is damaged."""
        path = self.path(wanted)
        with contextlib.suppress(OSError), open_regular(path) as file:
            if os.fstat(file.fileno()).st_size == wanted.size and stream_sha256(file, wanted.size) == wanted.sha256:
                return path
        return None

    def prepare(self) -> Optional[str]:
        """Make the folder; the reason where it cannot be written: a read-only cache can still be read.

        Temporary files that killed builds left there are removed. Raises BuildError if the folder is a file.
        """
        with self.writing():
            try:
                self.temporary().close()
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                    raise
                return error.strerror
        for path in self.folder.glob(".*.tmp"):  # somebody else may use the folder, so no other file is touched
            with contextlib.suppress(OSError):
                found = path.lstat()
                old = found.st_mtime < time.time() - _ABANDONED
                if old and stat.S_ISREG(found.st_mode) and _TEMPORARY.fullmatch(path.name):
                    path.unlink()
        return None

    def temporary(self) -> BinaryIO:
        """Open a file without a name on the disk of the cache; closing it removes it. Raises OSError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=self.folder)

    @contextlib.contextmanager
    def entry(self, wanted: LockedFile) -> Iterator[BinaryIO]:
        """A new file, which becomes the entry, in place of a damaged one, when the block has ended without an error.

        Raises BuildError for a folder of that name, and OSError; FileNotFoundError if the file was deleted meanwhile.
        """
        path = self.path(wanted)
        if path.is_dir() and not path.is_symlink():
            raise BuildError(str(path), "the cached file", "a folder in its place", "remove it")
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            yield file

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Raise a BuildError, which names the cache, instead of an OSError from writing to it."""
        try:
            yield
        except OSError as error:
            in_the_way = isinstance(error, (FileExistsError, NotADirectoryError))
            found = "a file in its way" if in_the_way else error.strerror or str(error)
            cure = "make room there, or set SUPERMACHINE_CACHE_DIR to another folder"
            raise BuildError(str(self.folder), "a folder to which the cache can be written", found, cure) from error

    @contextlib.contextmanager
    def alone(self, wanted: LockedFile, timeout: float) -> Iterator[None]:
        """Let one build at a time make an entry, and the others find it; they wait `timeout` seconds at most."""
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):  # without the lock, several builds fetch the same bytes, and that is all
                path = self.path(wanted).with_suffix(".lock")
                stack.enter_context(file_lock(path, timeout=timeout))
            yield
