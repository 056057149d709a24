"""An exclusive lock on a file, for one process at a time, wherever the file system has locks.

It uses the standard library alone, because the programs take locks before they have made an environment to install
a library into.
"""

import contextlib
import errno
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

_POLL = 0.05
"""Seconds between two attempts to take a lock that somebody else holds."""
_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)


@contextlib.contextmanager
def file_lock(path: Path, *, timeout: Optional[float] = None) -> Iterator[Optional[str]]:
    """Hold the exclusive lock of the file `path` (flock(2)) while the block runs.

    The file is made if there is none, and its content is never changed. The lock is waited for until it is free, at
    most `timeout` seconds. The block gets None once the lock is held. Otherwise it runs without the lock and gets the
    reason in words, for example that the file system has no locks.

    Raises OSError if `path` cannot be opened or is no regular file.
    """
    descriptor = _open(path)
    try:
        yield _take(descriptor, None if timeout is None else time.monotonic() + timeout)
    finally:
        os.close(descriptor)  # this gives the lock back


def _open(path: Path) -> int:
    """Open the file for writing, since NFS gives an exclusive lock only then; else for reading."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _FLAGS, 0o666)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        descriptor = os.open(path, os.O_RDONLY | _FLAGS)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return descriptor


def _take(descriptor: int, deadline: Optional[float]) -> Optional[str]:
    """None once the lock is held, else why it is not."""
    try:
        import fcntl
    except ImportError:  # Windows
        return "this platform has no flock"
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return None
        except BlockingIOError:
            pass
        except OSError as error:
            return error.strerror
        if deadline is not None and time.monotonic() >= deadline:
            return "another process holds the lock"
        time.sleep(_POLL)
