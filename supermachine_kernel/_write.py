"""Write files into a folder: each is cloned or copied under a temporary name, flushed, and then renamed."""

import contextlib
import errno
import hashlib
import os
import stat
import sys
import time

from ._errors import AssetError, DestinationError, DestinationIsDirectoryError, SupermachineKernelError
from ._folder import Folder, flush, flush_before_rename, kind_of, not_written
from ._read import CHUNK, AssetReader

try:
    import fcntl
except ImportError:  # Windows, or a Python that was built without it
    fcntl = None  # type: ignore[assignment]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional, Union

    StrPath = Union[str, os.PathLike[str]]

TEMPORARY_PREFIX = ".supermachine-"
"""Every file this module writes beside a destination begins with this and ends in `.tmp`."""

_ABANDONED = 60 * 60
"""Seconds before a temporary file is looked at as one whose writer may have been killed."""

_FICLONE = 0x40049409  # linux/fs.h: _IOW(0x94, 9, int)
_CLONE_NOOWNERCOPY = 0x2  # sys/clonefile.h


class NewFile:
    """A file under a temporary name, open from its creation to its end by the one descriptor that made it.

    Who may write to the folder can put a link in the place of any name there; the descriptor still leads to the
    file that was made here.
    """

    def __init__(self, folder: Folder, name: str) -> None:
        """Make the temporary file that will be `name` in `folder`. Raises OSError."""
        self.folder = folder
        self.name = name
        self.temporary = f"{TEMPORARY_PREFIX}{os.getpid()}-{os.urandom(8).hex()}.tmp"
        self.descriptor = folder.open(self.temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        self.default_mode = stat.S_IMODE(os.fstat(self.descriptor).st_mode)
        """The mode that the process's umask gives a new file."""
        self._is_clone = False
        _lock(self.descriptor)

    def write(self, data: bytes) -> None:
        """Append `data`. Raises OSError."""
        view = memoryview(data)
        while view:
            view = view[os.write(self.descriptor, view) :]

    def copy(self, reader: AssetReader, *, verify: bool) -> None:
        """Fill the file with an asset: as a clone, where the file system shares blocks, or as a copy.

        With `verify` the content's SHA-256 is compared. Raises AssetError for the asset, OSError for this file.
        """
        if reader.descriptor is not None and self._clone(reader.descriptor):
            self._is_clone = True
            before = reader.facts()
            if verify:
                reader.verify()
            if _identity(before) != _identity(reader.facts()):
                raise AssetError(reader.path, "a file at rest", "one that changed while it was read", "call again")
            length = os.fstat(self.descriptor).st_size
        elif verify:
            length = self._copy_and_compare(reader)
        else:
            length = self._copy(reader)
        if length != reader.size:
            raise reader.wrong_size(length)

    def set_mode(self, mode: "Optional[int]") -> None:
        """Give the file `mode`, or the process's default mode. Raises DestinationError where it would be of no use."""
        wanted = self.default_mode if mode is None else mode
        refusal = change_mode(self.descriptor, wanted)
        found = stat.S_IMODE(os.fstat(self.descriptor).st_mode)
        if not is_usable(found, wanted):
            reason = f"{found:#o}, which its file system keeps" + (f" ({refusal.strerror})" if refusal else "")
            number = refusal.errno if refusal else None
            path = self.folder.path_of(self.name)
            raise DestinationError(path, f"mode {wanted:#o}", reason, "name a place on another disk", errno=number)

    def flush(self, *, durable: bool) -> None:
        """Bring the content to disk, or at least see that it gets there before the name does. Raises OSError.

        A clone has no content of its own that could come later: its blocks are those of the asset, and that it has
        them is noted in the file system's journal before its name is.
        """
        if durable:
            flush(self.descriptor)
        elif not self._is_clone:
            flush_before_rename(self.descriptor)

    def rename(self) -> None:
        """Give the file its name. Raises OSError."""
        self.folder.rename(self.temporary, self.name)
        self.temporary = ""

    def close(self) -> None:
        """Close the file, and remove it if it has not got its name."""
        if self.temporary:
            with contextlib.suppress(OSError):
                self.folder.unlink(self.temporary)
        os.close(self.descriptor)

    def _clone(self, source: int) -> bool:
        """Share the blocks of the open file `source`, where the file system can."""
        if sys.platform == "darwin":
            return self._fclonefileat(source)
        if sys.platform == "linux" and fcntl is not None:
            try:
                fcntl.ioctl(self.descriptor, _FICLONE, source)
            except OSError:
                return False
            return True
        return False

    def _fclonefileat(self, source: int) -> bool:
        """Clone on APFS. The system call insists on making the file, so it makes it where nobody else can write."""
        try:
            import ctypes

            call = ctypes.CDLL(None).fclonefileat
        except Exception:  # a Python without libffi, or a hardened runtime, where importing ctypes is a MemoryError
            return False
        name = self.temporary[: -len(".tmp")] + ".d.tmp"
        try:
            with self.folder.make_private(name) as private:
                if call(source, private.descriptor, b"clone", _CLONE_NOOWNERCOPY):
                    return False
                cloned = private.open("clone", os.O_RDONLY)
                private.move_out("clone", self.folder, self.temporary)
                os.close(self.descriptor)
                self.descriptor = cloned
                _lock(cloned)
            return True
        except OSError:
            return False
        finally:
            with contextlib.suppress(OSError):
                self.folder.remove_private(name)

    def _copy_and_compare(self, reader: AssetReader) -> int:
        """Copy the content, and compare the SHA-256 of what was copied; the number of bytes that were copied."""
        state, length = hashlib.sha256(), 0
        while length <= reader.size and (chunk := reader.read(min(CHUNK, reader.size + 1 - length))):
            state.update(chunk)
            self.write(chunk)
            length += len(chunk)
        reader.compare(state.hexdigest(), length)
        return length

    def _copy(self, reader: AssetReader) -> int:
        """Copy the content, in the kernel where it can; the number of bytes that were copied."""
        length = self._sendfile(reader) if sys.platform == "linux" and reader.descriptor is not None else 0
        while length <= reader.size and (chunk := reader.read(min(CHUNK, reader.size + 1 - length))):
            self.write(chunk)
            length += len(chunk)
        return length

    def _sendfile(self, reader: AssetReader) -> int:
        """Copy as far as sendfile(2) does. Where it fails, reading and writing tells which of the two files it is."""
        assert reader.descriptor is not None
        length = 0
        try:
            while length < reader.size:
                sent = os.sendfile(self.descriptor, reader.descriptor, None, reader.size - length)
                if not sent:
                    break
                length += sent
        except OSError:
            pass
        return length


def write_files(
    folder: Folder,
    files: "list[tuple[str, Optional[int], Union[AssetReader, bytes]]]",
    *,
    verify: bool = False,
    durable: bool = False,
) -> "list[os.stat_result]":
    """Write a file of each name, mode (e.g. 0o755; None for the process's default) and content.

    All of them are written and flushed before the first gets its name, so that a failure before that leaves every
    file as it was, and a power cut leaves each as it was or whole. A reader of a name sees the old file or the new
    one, never a part; a symbolic link there is replaced, not followed. With `verify` the SHA-256 of an asset is
    compared before that; with `durable` the content is not only on its way to the disk, but there. The facts about
    each new file are returned.

    Raises AssetError for an asset, DestinationError for a file that cannot be written.
    """
    new: list[NewFile] = []
    name = ""
    try:
        for name, mode, content in files:
            _refuse_unfit(folder, name)
            file = NewFile(folder, name)
            new.append(file)
            if isinstance(content, AssetReader):
                file.copy(content, verify=verify)
            else:
                file.write(content)
            file.set_mode(mode)
        for file in new:
            name = file.name
            file.flush(durable=durable)
        for file in new:
            name = file.name
            file.rename()
        facts = [os.fstat(file.descriptor) for file in new]
    except SupermachineKernelError:
        raise
    except OSError as error:
        raise not_written(folder.path_of(name), error) from error
    finally:
        for file in new:
            file.close()
    return facts


def change_mode(descriptor: int, mode: int) -> "Optional[OSError]":
    """Give an open file that mode, where it has another; the system's error where it refuses."""
    if stat.S_IMODE(os.fstat(descriptor).st_mode) != mode and hasattr(os, "fchmod"):
        try:
            os.fchmod(descriptor, mode)
        except OSError as error:
            return error
    return None


def is_usable(found: int, wanted: int) -> bool:
    """Whether a file of mode `found` serves where `wanted` was asked for: a program can be executed by someone."""
    return os.name != "posix" or not wanted & 0o111 or bool(found & 0o111)


def sweep(folder: Folder) -> None:
    """Delete temporary files older than an hour whose writers were killed.

    A writer that is only suspended holds a lock on its file, and loses nothing.
    """
    for name in folder.names():
        if name.startswith(TEMPORARY_PREFIX) and name.endswith(".tmp"):
            try:
                # Not st_mtime: a clone on APFS has that of its source.
                if folder.stat(name).st_ctime < time.time() - _ABANDONED:
                    _delete_abandoned(folder, name)
            except OSError:  # another process deletes it too, or this one may not
                pass


def _delete_abandoned(folder: Folder, name: str) -> None:
    if stat.S_ISDIR(folder.stat(name).st_mode):  # of a writer that was killed while it cloned
        folder.remove_private(name)
        return
    descriptor = folder.open(name, os.O_RDONLY)
    try:
        if _lock(descriptor, exclusive=False):  # NFS asks for a file that is open for writing, for the other kind
            folder.unlink(name)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, *, exclusive: bool = True) -> bool:
    """Take the file's lock, which ends with the process; False where another has it. Some file systems have none."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    return True


def _refuse_unfit(folder: Folder, name: str) -> None:
    """Refuse a folder, device, socket or pipe in the place of the file, and leave it untouched."""
    try:
        mode = folder.stat(name or os.curdir).st_mode
    except OSError:
        return
    path, expected = folder.path_of(name), "a file or nothing there"
    if stat.S_ISDIR(mode):
        cure = "remove it, or name a file inside it"
        raise DestinationIsDirectoryError(path, expected, "a folder", cure, errno=errno.EISDIR)
    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        raise DestinationError(path, expected, kind_of(mode), "name another destination")


def _identity(facts: os.stat_result) -> "tuple[int, ...]":
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns
