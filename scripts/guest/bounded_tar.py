"""Read a tar archive that anybody may have made, in bounded memory."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import IO, Any

from scripts.asset_build.errors import ContentMismatchError

MOST_MEMBERS = 400_000
"""How many members an archive may have: each takes about a kilobyte. Large distributions have 200,000 files."""

LARGEST_READ = 8 << 20
"""Bytes of a header that is read at once, as the long names and the attributes of a member are."""


class BoundedTar(tarfile.TarFile):
    """A tar archive whose headers are read only up to LARGEST_READ, whatever size they state."""

    def __init__(self, name: Any = None, mode: Any = "r", fileobj: Any = None, **options: Any) -> None:
        super().__init__(name, mode, _Bounded(fileobj), **options)

    def bounded_members(self) -> Iterator[tarfile.TarInfo]:
        """Yield the members, at most MOST_MEMBERS of them. Raises ContentMismatchError for more."""
        for number, member in enumerate(self):
            if number == MOST_MEMBERS:
                raise ContentMismatchError(f"at most {MOST_MEMBERS} members", "more")
            yield member


class _Bounded:
    """A file, of which nobody reads more than LARGEST_READ at once."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= LARGEST_READ:
            raise ContentMismatchError(f"headers of at most {LARGEST_READ} bytes", f"one of {size}")
        return self._file.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
