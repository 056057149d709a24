"""Write a file beside its target and rename it over the target: the target is the old file or the whole new one.

The folder may be one in which somebody else can write. So the temporary file has a name that nobody can guess, it
is created by this process or not at all, and it is written through the one descriptor that created it.
"""

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a new file, which takes the place of `path` when the block has ended without an error.

    The file has the process's default mode and is flushed to the disk before it is renamed. After an error nothing
    is left of it. Raises OSError.
    """
    temporary = path.with_name(f".{secrets.token_hex(16)}.tmp")
    descriptor = os.open(temporary, _CREATE, 0o666)
    try:
        with open(descriptor, "w+b") as file:
            yield file
            file.flush()
            _flush(descriptor)
            os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    _flush_folder(path.parent)


def write_atomically(path: Path, content: bytes) -> None:
    """Replace the file `path` by one with that content. Raises OSError."""
    with replacing(path) as file:
        file.write(content)


def _flush(descriptor: int) -> None:
    """Bring a file's content to the disk, where its file system has a way to (fsync(2)). Raises OSError."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise


def _flush_folder(folder: Path) -> None:
    """Flush the rename to the disk, as far as the file system can: some refuse to flush a folder."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
