"""Where the files of this version are published: below a URL, or in a folder."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Callable, Optional, Union

from supermachine_kernel._version import VERSION

from ..errors import BuildError, ContentMismatchError, printable
from ..regular_file import open_regular
from ..release_layout import release_folder
from .limits import LIMITS, Limits
from .network_errors import DownloadError
from .progress import note
from .release_url import display_url
from .session import Session, credentials, is_loopback
from .transfer import Download, Expected


class ReleaseLocation:
    """A release base, `location`: a URL (https, http), whose host alone gets `token`, or a folder.

    `advance` is told how many bytes arrive. `setting` is what errors tell the user to name another base with. The
    time limit of all fetches together begins now, and the end of the `with` block closes the connections. Raises
    BuildError for a token that no header can carry.
    """

    def __init__(
        self,
        location: Union[str, Path],
        token: Optional[str],
        advance: Callable[[int], object],
        limits: Limits = LIMITS,
        setting: str = "SUPERMACHINE_RELEASE_URL, or build from the tree",
    ) -> None:
        self._location, self._advance, self._setting = location, advance, setting
        auth = credentials(location, token) if isinstance(location, str) else None
        self.session = Session(auth, limits)
        if isinstance(location, str) and location.startswith("http:") and not is_loopback(location):
            note(
                f"warning: {display_url(location)} is not encrypted: digests prove what is fetched, but others "
                f"see it; name an https base with {setting}"
            )

    def __enter__(self) -> "ReleaseLocation":
        return self

    def __exit__(self, *_: object) -> None:
        self.session.close()

    def display(self, name: str) -> str:
        """The URL or path of a file, as it may be shown."""
        where = self._where(name)
        return display_url(where) if isinstance(where, str) else str(where)

    @contextlib.contextmanager
    def fetched(self, name: str, out: BinaryIO, expected: Expected) -> Iterator[None]:
        """Write a file to `out` and check it, then run the block, whose ContentMismatchError is one of this file.

        Raises BuildError, and OSError from `out`.
        """
        where = self._where(name)
        try:
            if isinstance(where, str):
                Download(self.session, where, out, expected, self._advance).run()
            else:
                for chunk in _published(where, expected.limit + 1):
                    out.write(chunk)
                    self._advance(len(chunk))
                expected.check(out)
            yield
        except (ContentMismatchError, DownloadError) as error:
            cure = "it is another file, or was changed on its way: check the mirror or proxy in between"
            if isinstance(error, DownloadError):
                cure = error.cure.format(setting=self._setting)
            raise BuildError(self.display(name), error.expected, printable(error.found), cure) from error

    def _where(self, name: str) -> Union[str, Path]:
        where = f"{self._location}/{release_folder(VERSION)}/{name}"
        return where if isinstance(self._location, str) else Path(where)


def _published(path: Path, most: int) -> Iterator[bytes]:
    """The first `most` bytes of a published file. Raises BuildError: an error of reading it is not one of the cache."""
    try:
        with open_regular(path) as file:
            while chunk := file.read(min(1 << 20, most)):
                most -= len(chunk)
                yield chunk
    except OSError as error:
        cure = f"the release base is the folder above {release_folder(VERSION)}/"
        raise BuildError(str(path), "the published file", str(error.strerror), cure) from error
