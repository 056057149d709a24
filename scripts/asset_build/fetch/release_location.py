"""Where the files of this version are published: below a URL, or in a folder."""

import re
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, TimeoutError, as_completed
from pathlib import Path
from typing import BinaryIO, Callable, Optional, TypeVar, Union

from supermachine_kernel._version import VERSION

from ..errors import BuildError, ContentMismatchError, printable
from ..regular_file import open_regular
from ..release_layout import release_folder
from .limits import LIMITS, Limits
from .progress import Progress
from .release_url import display_url
from .session import Connections, credentials, is_loopback
from .transfer import Download, Expected, Host

T = TypeVar("T")


class ReleaseLocation:
    """A release base, `location`: a URL (https, http), whose host alone gets `token`, or a folder.

    `progress` is told how a fetch goes. `setting` is what errors tell the user to name another base with. Raises
    BuildError for a token that no header can carry.
    """

    def __init__(
        self,
        location: Union[str, Path],
        token: Optional[str],
        progress: Progress,
        limits: Limits = LIMITS,
        setting: str = "SUPERMACHINE_RELEASE_URL, or build from the tree",
    ) -> None:
        self._location, self.progress = location, progress
        self._connections = Connections(limits.total)
        if isinstance(location, str):
            auth = credentials(location, _checked_token(token))
            self._host = Host(auth, limits, self._connections, progress, setting)
            if location.startswith("http:") and not is_loopback(location):
                progress.note(
                    f"warning: {display_url(location)} is not encrypted: digests prove what is fetched, but others "
                    f"see it; name an https base with {setting}"
                )

    @property
    def stopped(self) -> threading.Event:
        """Set when the fetch is to end, because its time is over or another part of it has failed."""
        return self._connections.stopped

    def display(self, name: str) -> str:
        """The URL or path of a file, as it may be shown."""
        where = self._where(name)
        return display_url(where) if isinstance(where, str) else str(where)

    def fetch(self, name: str, out: BinaryIO, expected: Expected) -> None:
        """Write a file to `out` and check it. Raises BuildError, and OSError from `out`."""
        where = self._where(name)
        try:
            if isinstance(where, str):
                Download(self._host, where, out, expected).run()
            else:
                self._copy(where, out, expected)
        except ContentMismatchError as mismatch:
            raise self.mismatch_error(name, mismatch) from mismatch

    def mismatch_error(self, name: str, mismatch: ContentMismatchError) -> BuildError:
        """The error of a file with wrong content."""
        cure = "it is another file, or was changed on its way: check the mirror or proxy in between"
        return BuildError(self.display(name), mismatch.expected, printable(mismatch.found), cure)

    def run_all(self, jobs: Mapping[str, Callable[[], T]]) -> dict[str, T]:
        """Run the jobs, four at a time: their results by name. The first error ends the others, and so does time."""
        running: dict[str, Future[T]] = {}
        with ThreadPoolExecutor(4) as pool:
            try:  # an interrupt may come while the jobs are being started
                for name, job in jobs.items():
                    running[name] = pool.submit(job)
                for done in as_completed(running.values(), timeout=self._connections.seconds_left()):
                    done.result()
            except TimeoutError:
                self._connections.stop()  # each job then raises an error that says how far it came
            except BaseException:
                self._connections.stop()
                raise
        return {name: done.result() for name, done in running.items()}

    def _where(self, name: str) -> Union[str, Path]:
        if isinstance(self._location, str):
            return f"{self._location}/{release_folder(VERSION)}/{name}"
        return self._location / release_folder(VERSION) / name

    def _copy(self, path: Path, out: BinaryIO, expected: Expected) -> None:
        cure = f"the release base is the folder above {release_folder(VERSION)}/"

        def reading(read: Callable[[], T]) -> T:
            """What `read` gives; its errors are those of the published file, and not of the cache."""
            try:
                return read()
            except OSError as error:
                raise BuildError(str(path), "the published file", str(error.strerror), cure) from error

        with reading(lambda: open_regular(path)) as file:
            while chunk := reading(lambda: file.read(1 << 20)):
                out.write(chunk)
                self.progress.advance(len(chunk))
                if out.tell() > expected.limit:
                    raise ContentMismatchError(f"at most {expected.limit} bytes", "more")
        expected.check(out)


def _checked_token(token: Optional[str]) -> Optional[str]:
    """The token; None where there is none. Raises BuildError for one that no header can carry (RFC 6750, 2.1)."""
    token = (token or "").strip()
    if not re.fullmatch(r"[\x21-\x7e]*", token):
        raise BuildError("GITHUB_TOKEN", "visible ASCII characters", "others (not shown)", "set it anew, or unset it")
    return token or None
