"""Read a file that somebody else may have put in its place, or may replace meanwhile.

The name is looked up once, and what was opened is judged: nobody waits for the other end of a pipe, and no more is read
than was asked for.
"""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

_OPEN = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


class SizeError(Exception):
    """A file has another size than it may have: `size` bytes."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading. Raises OSError for what is none."""
    descriptor = os.open(path, _OPEN)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return open(descriptor, "rb")
    os.close(descriptor)
    number, found = (errno.EISDIR, "a folder") if stat.S_ISDIR(mode) else (errno.EINVAL, "a device, socket or pipe")
    raise OSError(number, found, str(path))


def read_regular(path: Path, *, largest: int) -> bytes:
    """The content of a file of at most `largest` bytes.

    Raises SizeError for a larger one, before anything is read, and OSError for what is no file.
    """
    with open_regular(path) as file:
        facts = os.fstat(file.fileno())
        if facts.st_size > largest:
            raise SizeError(facts.st_size)
        content = file.read(facts.st_size + 1)
    if len(content) != facts.st_size:
        raise OSError(errno.EBUSY, "a file that changes while it is read", str(path))
    return content
