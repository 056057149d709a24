"""A folder that files are read from and written into by one descriptor, wherever its name leads meanwhile."""

import errno
import os
import stat
import sys

from ._errors import DestinationError, DestinationMissingError
from ._package import LOADING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType
    from typing import Any, Optional

_HAS_DIR_FD = {os.open, os.stat, os.unlink, os.rename, os.mkdir, os.rmdir} <= os.supports_dir_fd
_NOT_FOLLOWING = os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC if os.name == "posix" else getattr(os, "O_BINARY", 0)
_F_BARRIERFSYNC = 85  # sys/fcntl.h of macOS

_said_not_durable = False


class Folder:
    """An existing folder. Where the platform can, every name is looked up in the folder that was opened at first."""

    def __init__(self, path: str, *, within: "Optional[Folder]" = None) -> None:
        """Open the folder `path`, or the one of that name in `within`, never a link's end there. Raises OSError."""
        self.path = within.path_of(path) if within else path or os.curdir
        self._descriptor: Optional[int] = None
        self._may_be_listed = True
        if not _HAS_DIR_FD:
            if within and os.path.islink(self.path):
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), self.path)
            return
        flags, where = os.O_DIRECTORY | os.O_CLOEXEC, {}
        if within:
            flags, where = flags | os.O_NOFOLLOW, within._here()
        name = path if within else self.path
        try:
            self._descriptor = os.open(name, os.O_RDONLY | flags, **where)
        except PermissionError:
            # A folder may be there to be entered and written to, but not to be listed.
            self._may_be_listed = False
            if hasattr(os, "O_PATH"):
                self._descriptor = os.open(name, os.O_PATH | flags, **where)

    def __enter__(self) -> "Folder":
        return self

    def __exit__(
        self,
        kind: "Optional[type[BaseException]]",
        error: "Optional[BaseException]",
        traceback: "Optional[TracebackType]",
    ) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)

    def path_of(self, name: str) -> str:
        """The path of `name` in this folder, for messages."""
        return name if self.path == os.curdir else os.path.join(self.path, name)

    def open(self, name: str, flags: int, mode: int = 0o666) -> int:
        """Open the file `name`, never a link's end, without waiting for a pipe's. Raises OSError."""
        return os.open(self._at(name), flags | _NOT_FOLLOWING, mode, **self._here())

    def stat(self, name: str) -> os.stat_result:
        """The facts about `name` itself, not about a link's end. Raises OSError."""
        return os.stat(self._at(name), follow_symlinks=False, **self._here())

    def rename(self, name: str, new: str) -> None:
        """Give the file `name` another name, replacing what has that. Raises OSError."""
        if self._descriptor is None:
            os.replace(self._at(name), self._at(new))
        else:
            os.replace(name, new, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)

    def unlink(self, name: str) -> None:
        """Remove the file `name`. Raises OSError."""
        os.unlink(self._at(name), **self._here())

    def make_private(self, name: str) -> "Folder":
        """Make the folder `name` in this one, which only this user can enter, and open it. Raises OSError."""
        os.mkdir(self._at(name), 0o700, **self._here())
        made = Folder(name, within=self)
        facts = os.fstat(made._descriptor) if made._descriptor is not None else os.stat(made.path)
        if facts.st_uid != os.geteuid() or facts.st_mode & 0o077:
            made.__exit__(None, None, None)
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), made.path)
        return made

    def enter(self, name: str) -> "Folder":
        """Open the folder `name` in this one, which is made where it is missing. Raises OSError."""
        try:
            return Folder(name, within=self)
        except FileNotFoundError:
            os.mkdir(self._at(name), **self._here())
            return Folder(name, within=self)

    def move_out(self, name: str, target: "Folder", new: str) -> None:
        """Move the file `name` into the folder `target`, as `new`. Raises OSError."""
        os.replace(name, new, src_dir_fd=self._descriptor, dst_dir_fd=target._descriptor)

    def remove_private(self, name: str) -> None:
        """Remove the empty folder `name`. Raises OSError."""
        os.rmdir(self._at(name), **self._here())

    @property
    def descriptor(self) -> "Optional[int]":
        """The descriptor of the folder, where the platform has such."""
        return self._descriptor

    def names(self) -> "list[str]":
        """The names in this folder; none where it may not be listed."""
        try:
            by_descriptor = self._descriptor is not None and self._may_be_listed
            return os.listdir(self._descriptor if by_descriptor else self.path)
        except OSError:
            return []

    def flush(self) -> None:
        """Bring the names in this folder to disk, as far as its file system can."""
        if os.name != "posix":  # Windows opens no folders
            return
        if self._descriptor is None or not self._may_be_listed:
            os.sync()
            return
        try:
            flush(self._descriptor)
        except OSError as error:
            _say_not_durable(self.path, error)

    def _at(self, name: str) -> str:
        return name if self._descriptor is not None else os.path.join(self.path, name)

    def _here(self) -> "dict[str, Any]":
        return {} if self._descriptor is None else {"dir_fd": self._descriptor}


def flush(descriptor: int) -> None:
    """Bring a file's content, or a folder's names, to disk. Raises OSError.

    A file system that has nothing to flush, or no way to, is no error (fsync(2)).
    """
    try:
        if sys.platform == "darwin":
            import fcntl

            # fsync(2) on macOS hands the data to the drive, which may keep it in its cache.
            try:
                fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
                return
            except OSError:  # not every file system has it
                pass
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EROFS, errno.ENOSYS, errno.ENOTSUP):
            raise


def flush_before_rename(descriptor: int) -> None:
    """Have the content of a file reach the disk before any later change of its name does. Raises OSError."""
    if sys.platform == "darwin":
        import fcntl

        try:
            fcntl.fcntl(descriptor, _F_BARRIERFSYNC)
            return
        except OSError:
            pass
    flush(descriptor)


def make_folder(folder: "Path") -> None:
    """Make `folder` and its parents where they are missing.

    Raises DestinationError when a file is in the way, or when the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        cure = "remove it, or name another folder"
        raise DestinationError(str(folder), "a folder", "a file in its way", cure, errno=error.errno) from error
    except OSError as error:
        found = f"one that cannot be made ({error.strerror})"
        raise DestinationError(str(folder), "a folder", found, cure_of(error), errno=error.errno) from error


def open_folder(path: str, final: str) -> Folder:
    """Open the folder that the file `final` goes into. Raises DestinationError."""
    try:
        return Folder(path)
    except FileNotFoundError as error:
        expected, cure = "a folder that exists around it", "create it, or extract with parents"
        raise DestinationMissingError(final, expected, "none", cure, errno=error.errno) from error
    except OSError as error:
        raise not_written(final, error) from error


def flush_parents(folder: "Path") -> None:
    """Bring to disk the names of `folder` and of every folder around it, up to where its file system begins.

    One that was made long ago costs next to nothing, and one that a killed process made may not be on disk yet.
    """
    if os.name != "posix":
        return
    path = os.path.realpath(folder)
    try:
        device = os.stat(path).st_dev
        while path != os.path.dirname(path):
            path = os.path.dirname(path)
            if os.stat(path).st_dev != device:
                return
            with Folder(path) as parent:
                if parent._may_be_listed:
                    parent.flush()
    except OSError:  # a folder that this process could not have made
        return


def not_written(final: str, error: OSError) -> DestinationError:
    """The error for the file `final`, which the system did not let be written, and which is as it was."""
    found = f"an error: {error.strerror} (nothing was changed there)"
    return DestinationError(final, "to write the file", found, cure_of(error), errno=error.errno)


def cure_of(error: OSError) -> str:
    """What to do about an error of the system at a destination."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "free some space, or name another place"
    if error.errno == errno.ENAMETOOLONG:
        return "take a shorter name"
    if error.errno == errno.ELOOP:
        return "mend the symbolic links on the way there, which lead in a circle"
    return cure_of_limit(error) or "name a place that you may write to"


def cure_of_limit(error: OSError) -> str:
    """What to do about an error that the process's own limits make (getrlimit(2)); "" for any other."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "close files that are not needed, or raise the limit of open files (ulimit -n)"
    return "raise the limit of a file's size (ulimit -f)" if error.errno == errno.EFBIG else ""


def kind_of(mode: int) -> str:
    """What a file's mode (`st_mode`) says that it is, in words."""
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a symbolic link" if stat.S_ISLNK(mode) else "a device, socket or pipe"


def _say_not_durable(path: str, error: OSError) -> None:
    """Log, once in a process, that a file system cannot bring a folder's names to disk."""
    global _said_not_durable
    if not _said_not_durable:
        _said_not_durable = True
        with LOADING:
            import logging
        logging.getLogger("supermachine_kernel").warning(
            "%s: the file system cannot flush a folder (%s): the files are in place, but a power cut may undo that",
            path,
            error.strerror,
        )
