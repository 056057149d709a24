"""The cache of unpacked release files: content-addressed, shared by any number of builds, never trusted."""

import contextlib
import errno
import os
import re
import secrets
import stat
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Optional

from ..digests import file_sha256
from ..errors import BuildError
from ..file_lock import file_lock
from ..lock import LockedFile

_ABANDONED = 24 * 3600.0
"""Seconds after which a temporary file is a killed build's."""
_TEMPORARY = re.compile(r"([0-9a-f]{64}|probe)\.[0-9]+-[0-9a-f]{8}\.tmp")


def cache_folder(environ: Mapping[str, str]) -> Path:
    """SUPERMACHINE_CACHE_DIR, else a folder in the project's part of the user's cache."""
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
        raise BuildError(
            f"HOME: expected the user's home, for the cache, found none for user id {os.getuid()}; set HOME, or "
            "SUPERMACHINE_CACHE_DIR to a folder"
        ) from error


class Cache:
    """A folder of files that bear their SHA-256 as name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, wanted: LockedFile) -> Path:
        """Where the entry is, or would be."""
        return self.folder / wanted.sha256

    def find(self, wanted: LockedFile) -> Optional[Path]:
        """The entry, once it is proven; None where there is none, or one that is damaged."""
        path = self.path(wanted)
        try:
            if path.stat().st_size == wanted.size and file_sha256(path) == wanted.sha256:
                return path
        except OSError:
            pass
        return None

    def prepare(self) -> Optional[str]:
        """Make the folder and see that it can be written; else why not (a read-only cache can still be read).

        Temporary files that a killed build left there are removed. Raises BuildError when the folder is a file.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            probe = self._temporary("probe")
            probe.touch()
            probe.unlink()
            self._sweep()
        except (FileExistsError, NotADirectoryError) as error:
            cure = "set SUPERMACHINE_CACHE_DIR to a folder"
            raise BuildError(
                f"{self.folder}: expected a folder for the cache, found a file in its way; {cure}"
            ) from error
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise self._unwritable(error) from error
            return error.strerror
        return None

    @contextlib.contextmanager
    def entry(self, wanted: LockedFile) -> Iterator[BinaryIO]:
        """A new file, which becomes the entry when the block has ended without an error.

        A damaged entry is replaced by it. Raises BuildError when it cannot be written, FileNotFoundError when the
        folder was deleted meanwhile.
        """
        path = self.path(wanted)
        if path.is_dir() and not path.is_symlink():
            raise BuildError(f"{path}: expected the cached file, found a folder in its place; remove it")
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self._temporary(wanted.sha256)
        try:
            with temporary.open("xb") as file:
                yield file
            temporary.replace(path)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise self._unwritable(error) from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()

    @contextlib.contextmanager
    def alone(self, wanted: LockedFile, stop: threading.Event, patience: float) -> Iterator[None]:
        """Let one build at a time make an entry, and the others find it; they wait `patience` seconds at most."""
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):  # without the lock, several builds fetch the same bytes, and that is all
                path = self.path(wanted).with_suffix(".lock")
                stack.enter_context(file_lock(path, timeout=patience, stop=stop))
            yield

    def _temporary(self, name: str) -> Path:
        return self.folder / f"{name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"

    def _sweep(self) -> None:
        """Remove what the cache itself named, and no other program's file: the folder may be anybody's."""
        for path in self.folder.glob("*.tmp"):
            with contextlib.suppress(OSError):
                found = path.lstat()
                old = found.st_mtime < time.time() - _ABANDONED
                if old and stat.S_ISREG(found.st_mode) and _TEMPORARY.fullmatch(path.name):
                    path.unlink()

    def _unwritable(self, error: OSError) -> BuildError:
        return BuildError(
            f"{self.folder}: expected a cache that can be written, found: {error.strerror}; make room there, or set "
            "SUPERMACHINE_CACHE_DIR to another folder"
        )
