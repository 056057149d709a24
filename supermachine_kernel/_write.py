"""Put a file in its place: clone or copy beside the destination, then rename."""

import os
import stat
import sys

from ._errors import DestinationError, DestinationIsDirectoryError, DestinationMissingError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO, Callable, Optional, Union

    StrPath = Union[str, os.PathLike[str]]

TEMPORARY_PREFIX = ".supermachine-"
"""Every file this module writes beside a destination begins with this and ends in `.tmp`."""

_ABANDONED = 60 * 60
"""Seconds after which a temporary file has no writer any more: ten megabytes take no hour."""

_FICLONE = 0x40049409  # linux/fs.h: _IOW(0x94, 9, int)
_CLONE_NOOWNERCOPY = 0x2  # sys/clonefile.h


def place_file(
    reader: "BinaryIO", destination: "StrPath", *, size: int, mode: "Optional[int]" = None, durable: bool = False
) -> None:
    """Put a clone (APFS, btrfs, XFS) or a copy of the open file `reader` at `destination`.

    `size` is in bytes: a source of another size is refused. `mode` is e.g. 0o755; without it the file gets
    the process's default mode (0o666 less the umask). A reader of `destination` sees the old file or the new
    one, never a part; a symbolic link there is replaced, not followed. With `durable`, the file's content is
    on disk before it gets its name, and its name before this returns.

    Raises DestinationMissingError, DestinationIsDirectoryError or DestinationError.
    """

    def fill(temporary: str) -> None:
        if not _clone(reader, temporary):
            _write(reader, temporary)

    _replace(destination, fill, size, mode, durable)


def place_bytes(data: bytes, destination: "StrPath", *, mode: "Optional[int]" = None, durable: bool = False) -> None:
    """Put `data` at `destination`, with the promises and errors of `place_file`."""
    import io

    _replace(destination, lambda temporary: _write(io.BytesIO(data), temporary), len(data), mode, durable)


def make_folder(folder: "Path", *, durable: bool = False) -> None:
    """Make `folder` and its parents; with `durable`, the names of new ones are on disk before this returns.

    Raises DestinationError when a file is in the way, or it may not.
    """
    new = []
    for each in (folder, *folder.parents):
        if os.path.lexists(each):
            break
        new.append(each)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if durable:
            for each in new:
                sync(str(each.parent))
    except (FileExistsError, NotADirectoryError) as error:
        cure = "remove it, or name another folder"
        raise DestinationError(str(folder), "a folder", "a file in its way", cure, errno=error.errno) from error
    except OSError as error:
        found = f"one that cannot be made ({error.strerror})"
        raise DestinationError(str(folder), "a folder", found, _cure(error), errno=error.errno) from error


def sweep(folder: "Path") -> None:
    """Remove what killed writers left; the set is whole by now, so a writer that slept meanwhile misses nothing."""
    import contextlib
    import time

    old = time.time() - _ABANDONED
    with contextlib.suppress(OSError):  # a folder that may not be listed
        for name in os.listdir(folder):
            if name.startswith(TEMPORARY_PREFIX) and name.endswith(".tmp"):
                with contextlib.suppress(OSError):  # another sweeps too, or it may not
                    # Not st_mtime: a clone on APFS has that of its source.
                    if os.lstat(folder / name).st_ctime < old:
                        os.unlink(folder / name)


def sync(path: str) -> None:
    """Bring a file's content, or a folder's names, to disk (Windows opens no folders: there it does nothing)."""
    if os.name != "posix":
        return
    import errno

    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:
        if not os.path.isdir(path):
            raise
        os.sync()  # a folder may be there to be entered and written to, but not to be opened
        return
    try:
        if sys.platform == "darwin":
            import fcntl

            # fsync(2) on macOS hands the data to the drive, which may keep it in its cache: F_FULLFSYNC.
            try:
                fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
                return
            except OSError:  # not every file system has it
                pass
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EROFS):  # fsync(2): a file system that has nothing to sync
            raise
    finally:
        os.close(descriptor)


def _replace(
    destination: "StrPath", fill: "Callable[[str], None]", size: int, mode: "Optional[int]", durable: bool
) -> None:
    final = os.fspath(destination)
    _refuse_unfit(final)
    directory = os.path.dirname(final) or os.curdir
    temporary = os.path.join(directory, f"{TEMPORARY_PREFIX}{os.getpid()}-{os.urandom(8).hex()}.tmp")
    try:
        default_mode = _create(temporary)
        fill(temporary)
        written = os.stat(temporary).st_size
        if written != size:
            raise DestinationError(
                final,
                f"to write {size} bytes",
                f"a source of {written}, which changed meanwhile",
                "install supermachine-kernel again",
            )
        os.chmod(temporary, default_mode if mode is None else mode)
        if durable:
            sync(temporary)
        os.replace(temporary, final)
        if durable:
            sync(directory)
    except BaseException as error:
        import contextlib

        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError) and not isinstance(error, DestinationError):
            raise _explained(error, final) from error
        raise


def _refuse_unfit(final: str) -> None:
    """A folder, device, socket or pipe at the destination is refused untouched."""
    try:
        mode = os.lstat(final).st_mode
    except OSError:
        return
    if stat.S_ISDIR(mode):
        import errno

        raise _explained(IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)), final)
    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        raise DestinationError(final, "a file or nothing there", "a device, socket or pipe", "name another destination")


def _explained(error: OSError, final: str) -> DestinationError:
    """The system's error as one line with a cure, still of the system's kind and with its errno."""
    if isinstance(error, FileNotFoundError):
        expected, cure = "a folder that exists around it", "create it, or extract with parents"
        return DestinationMissingError(final, expected, "none", cure, errno=error.errno)
    if isinstance(error, IsADirectoryError):
        expected, cure = "a file or nothing there", "remove it, or name a file inside it"
        return DestinationIsDirectoryError(final, expected, "a folder", cure, errno=error.errno)
    found = f"an error: {error.strerror} (nothing was changed there)"
    return DestinationError(final, "to write the file", found, _cure(error), errno=error.errno)


def _cure(error: OSError) -> str:
    import errno

    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "free some space, or name another place"
    if error.errno == errno.ENAMETOOLONG:
        return "take a shorter name"
    if error.errno == errno.ELOOP:
        return "mend the symbolic links on the way there, which lead in a circle"
    return "name a place that you may write to"


def _create(temporary: str) -> int:
    """Make the empty file and return the mode the process's umask gave it; its owner may write to it."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    descriptor = os.open(temporary, flags, 0o666)
    try:
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)
    if not mode & stat.S_IWUSR:
        os.chmod(temporary, mode | stat.S_IWUSR)
    return mode


def _clone(reader: "BinaryIO", temporary: str) -> bool:
    """Share the source's blocks, where the file system can."""
    if sys.platform == "darwin":
        return _clonefile(reader.name, temporary)
    if sys.platform == "linux":
        import fcntl

        with open(temporary, "wb") as writer:
            try:
                fcntl.ioctl(writer.fileno(), _FICLONE, reader.fileno())
            except OSError:
                return False
        return True
    return False


def _clonefile(source: str, temporary: str) -> bool:
    """clonefile(2) insists on making the file itself, so the empty one makes way."""
    try:
        import ctypes
    except ImportError:  # a Python built without libffi
        return False
    os.unlink(temporary)
    library = ctypes.CDLL(None)
    return bool(library.clonefile(os.fsencode(source), os.fsencode(temporary), _CLONE_NOOWNERCOPY) == 0)


def _write(reader: "BinaryIO", temporary: str) -> None:
    import shutil

    with open(temporary, "wb") as writer:
        shutil.copyfileobj(reader, writer, 1 << 20)
