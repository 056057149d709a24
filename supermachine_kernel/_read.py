"""Read an asset, or a file that should be like one, through one descriptor."""

import hashlib
import os
import stat

from . import _package
from ._errors import AssetError, AssetMissingError
from ._folder import Folder, cure_of_limit, kind_of
from ._installation import how_to_reinstall

try:
    import mmap
except ImportError:  # a Python that was built without it
    mmap = None  # type: ignore[assignment]

TYPE_CHECKING = False
if TYPE_CHECKING:
    import zipfile
    from types import TracebackType
    from typing import IO, Callable, Optional

CHUNK = 1 << 18
"""Bytes that are read at once: all that a copy or a digest keeps in memory of a file."""


class AssetReader:
    """The file of an asset, opened. Whatever goes wrong with it is an AssetError that names it."""

    def __init__(self, path: str, size: int, sha256: str) -> None:
        """Open the file at `path`, in an archive too. Raises AssetMissingError, or AssetError for another size."""
        self.path = path
        self.size = size
        self.sha256 = sha256
        self.descriptor: Optional[int] = None
        """The open file's descriptor; None in an archive."""
        self._file: IO[bytes]
        self._archive: Optional[zipfile.ZipFile] = None
        holder = _package.archive()
        try:
            if holder is None:
                self._file = open(path, "rb", buffering=0, opener=_open_without_waiting)  # noqa: SIM115
                self.descriptor = self._file.fileno()
                facts = self.facts()
                found, mode = facts.st_size, facts.st_mode
            else:
                self._archive, self._file, found = _open_member(holder, path)
                mode = stat.S_IFREG
        except MemoryError:  # of this process, and nothing of the file
            raise
        except Exception as error:
            raise self._unreadable(error) from error
        if not stat.S_ISREG(mode):
            self.close()
            raise AssetError(path, f"a file of {size} bytes", kind_of(mode), how_to_reinstall())
        if found != size:
            self.close()
            raise self.wrong_size(found)

    def __enter__(self) -> "AssetReader":
        return self

    def __exit__(
        self,
        kind: "Optional[type[BaseException]]",
        error: "Optional[BaseException]",
        traceback: "Optional[TracebackType]",
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, and the archive around it."""
        self._file.close()
        if self._archive is not None:
            self._archive.close()

    def facts(self) -> os.stat_result:
        """The facts about the open file, outside an archive."""
        return os.fstat(self._file.fileno())

    def read(self, size: int) -> bytes:
        """Up to `size` bytes from where the last call ended; none at the end. Raises AssetError."""
        try:
            return self._file.read(size)
        except MemoryError:
            raise
        except Exception as error:
            raise self._unreadable(error) from error

    def read_all(self) -> bytes:
        """The whole content. Raises AssetError."""
        content = self.read(self.size + 1)
        while len(content) <= self.size and (more := self.read(self.size + 1 - len(content))):
            content += more
        if len(content) != self.size:
            raise self.wrong_size(len(content))
        return content

    def view(self) -> memoryview:
        """A read-only mapping of the file, or its bytes where it cannot be mapped. Raises AssetError."""
        if self.descriptor is not None and mmap is not None:
            try:
                # A private mapping works where a shared one does not, on FUSE with direct I/O for one.
                if hasattr(mmap, "MAP_PRIVATE"):
                    mapping = mmap.mmap(self.descriptor, self.size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
                else:
                    mapping = mmap.mmap(self.descriptor, self.size, access=mmap.ACCESS_READ)
                return memoryview(mapping)
            except (OSError, ValueError):
                pass
        return memoryview(self.read_all())

    def verify(self) -> None:
        """Read the content and compare it with the size and the SHA-256. Raises AssetError."""
        self.compare(*digest(self.read, self.size))

    def compare(self, found: str, length: int) -> None:
        """Raise AssetError unless that is the SHA-256 and the length in bytes of this asset."""
        if length != self.size:
            raise self.wrong_size(length)
        if found != self.sha256:
            raise AssetError(self.path, f"SHA-256 {self.sha256}", found, how_to_reinstall())

    def wrong_size(self, found: int) -> AssetError:
        return AssetError(self.path, f"{self.size} bytes", str(found), how_to_reinstall())

    def _unreadable(self, error: Exception) -> AssetError:
        expected = f"a file of {self.size} bytes"
        if isinstance(error, (FileNotFoundError, NotADirectoryError, KeyError)):
            number = error.errno if isinstance(error, OSError) else None
            return AssetMissingError(self.path, expected, "nothing", how_to_reinstall(), errno=number)
        if isinstance(error, OSError) and error.strerror:
            cure = cure_of_limit(error) or how_to_reinstall()
            return AssetError(self.path, expected, f"one that cannot be read ({error.strerror})", cure)
        return AssetError(self.path, expected, f"a damaged archive ({error})", how_to_reinstall())


def digest(read: "Callable[[int], bytes]", size: int) -> "tuple[str, int]":
    """The SHA-256 of what `read` gives, and its length in bytes; of what is longer than `size`, one byte more."""
    state, length = hashlib.sha256(), 0
    while length <= size and (chunk := read(min(CHUNK, size + 1 - length))):
        state.update(chunk)
        length += len(chunk)
    return state.hexdigest(), length


def open_matching(folder: Folder, name: str, size: int, sha256: str) -> "tuple[int, os.stat_result]":
    """Open the file `name` of that size in bytes and that SHA-256: its descriptor, and the facts before it was read.

    The file is opened once, and what was opened is judged. Raises AssetError, without a cure, for any other.
    """
    path, expected = folder.path_of(name), f"a file of {size} bytes"
    try:
        _refuse_other_kinds(path, folder.stat(name))
        descriptor = folder.open(name, os.O_RDONLY)
    except FileNotFoundError:
        raise AssetError(path, expected, "nothing") from None
    except OSError as error:
        raise AssetError(path, expected, f"one that cannot be read ({error.strerror})") from error
    try:
        facts = os.fstat(descriptor)
        _refuse_other_kinds(path, facts)
        if facts.st_size != size:
            raise AssetError(path, f"{size} bytes", str(facts.st_size))
        found, length = digest(lambda count: os.read(descriptor, count), size)
        if length != size:
            raise AssetError(path, f"{size} bytes", str(length))
        if found != sha256:
            raise AssetError(path, f"SHA-256 {sha256}", found)
    except BaseException as error:
        os.close(descriptor)
        if isinstance(error, OSError):
            raise AssetError(path, expected, f"one that cannot be read ({error.strerror})") from error
        raise
    return descriptor, facts


def _refuse_other_kinds(path: str, facts: os.stat_result) -> None:
    if not stat.S_ISREG(facts.st_mode):
        raise AssetError(path, "a file", kind_of(facts.st_mode))


def _open_without_waiting(path: str, flags: int) -> int:
    """Open for reading; a pipe in the place of a file would have us wait for its other end."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _open_member(holder: str, path: str) -> "tuple[zipfile.ZipFile, IO[bytes], int]":
    """Open the archive and the file in it, whose size in bytes is the third.

    The module `zipfile` reads the archive's table anew: the import system's is that of the archive as it was, and
    under the name that it had when the process started in another folder.
    """
    with _package.LOADING:
        import zipfile
    opened = zipfile.ZipFile(holder)
    try:
        name = _package.member(holder, path)
        return opened, opened.open(name), opened.getinfo(name).file_size
    except BaseException:
        opened.close()
        raise
