"""Downloads over https and http. They resume, are tried again, and end at a deadline."""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Callable, Optional

import requests
import urllib3

from ..digests import stream_sha256
from ..errors import ContentMismatchError, printable
from ..lock import LOCK_NAME
from .network_errors import NETWORK_ERRORS, DownloadError, describe, lasting_fault
from .progress import note
from .release_url import display_url
from .session import Session

_CHUNK = 256 << 10
_ENOUGH = 64 << 10
"""Bytes that a try must bring for the next one to begin the count, and the waits, anew."""

_NETWORK_CURE = "check the network and the proxy (HTTPS_PROXY), or name a mirror or a folder with {setting}"
_SERVER_CURE = "try again later, or name a mirror or a folder with {setting}"
_RATE_CURE = "the host refuses, or its rate limit is reached: set GITHUB_TOKEN, wait, or use a mirror"
_STATUS_CURES = {
    401: "the host wants credentials, or refuses GITHUB_TOKEN: set it anew, or unset it",
    403: _RATE_CURE,
    404: "is this version released there? name the folder above v<version>/ with {setting}",
    407: "the proxy wants credentials: put them into HTTPS_PROXY",
    410: "the release was withdrawn: take another version, or a mirror",
    429: _RATE_CURE,
}


@dataclass(frozen=True)
class Expected:
    """What is known of a file before it arrives: its largest size; its size and SHA-256 where `said_by` has them."""

    limit: int
    size: Optional[int] = None
    sha256: Optional[str] = None
    said_by: str = LOCK_NAME

    def check(self, file: BinaryIO) -> None:
        """Compare a whole file with what was expected. Raises ContentMismatchError, or OSError from reading it."""
        size = file.seek(0, os.SEEK_END)
        if size > self.limit:
            raise ContentMismatchError(f"at most {self.limit} bytes", "more")
        if self.size not in (None, size):
            raise ContentMismatchError(f"{self.size} bytes", f"{size} bytes")
        file.seek(0)
        sha256 = stream_sha256(file)
        if self.sha256 not in (None, sha256):
            raise ContentMismatchError(f"SHA-256 {self.sha256} ({self.said_by})", sha256)
        file.seek(0)

    def __str__(self) -> str:
        return "the file" if self.size is None else f"{self.size} bytes"


class _RetryableError(Exception):
    """A try failed in a way that another may not; `wait` is what the host asked for, in seconds."""

    def __init__(self, found: str, wait: Optional[float] = None, cure: str = _NETWORK_CURE) -> None:
        super().__init__(found)
        self.found, self.wait, self.cure = printable(found), wait, cure


class Download:
    """One file on its way: how many bytes of it are there, and whether they came in several parts.

    `advance` is told of each number of bytes that arrives, and of a negative one where the file starts again.
    """

    def __init__(
        self, session: Session, url: str, out: BinaryIO, expected: Expected, advance: Callable[[int], object]
    ) -> None:
        self._session, self._url, self._out, self._expected, self._advance = session, url, out, expected, advance
        self._received = self._tries = 0
        self._joined = False
        self._may_resume = expected.sha256 is not None  # the digest proves that the parts are of one file

    def run(self) -> None:
        """Write the file to `out` and check it. Raises DownloadError, ContentMismatchError, and OSError from `out`."""
        began, limits = time.monotonic(), self._session.limits
        fresh = retry = urllib3.Retry(
            None, backoff_factor=limits.backoff, backoff_max=limits.longest_wait, backoff_jitter=limits.backoff
        )
        while True:
            before = self._received
            try:
                self._try()
                return self._expected.check(self._out)
            except _RetryableError as error:
                retry = (fresh if self._received - before >= _ENOUGH else retry).increment(error=error)
                self._wait(retry, error, began)
            except ContentMismatchError:
                if not self._joined:
                    raise
                self._note("the parts do not fit together; starting again")
                self._may_resume = False

    def _try(self) -> None:
        self._tries += 1
        headers = {"Range": f"bytes={self._received}-"} if self._received and self._may_resume else {}
        with self._explained():
            timeout = (self._session.limits.connect, self._session.limits.silence)
            response = self._session.get(self._url, headers=headers, stream=True, timeout=timeout)
        with contextlib.closing(response):
            self._begin(response, resumes=bool(headers))
            while chunk := self._read(response):
                self._out.write(chunk)
                self._received += len(chunk)
                self._advance(len(chunk))
        if self._session.stopped.is_set() or self._received < (self._expected.size or 0):
            raise _RetryableError(f"an end after {self._received} bytes{_kind(response)}")

    def _begin(self, response: requests.Response, resumes: bool) -> None:
        """Go on where the last try ended, or from the first byte, as the response says; raises if it is neither."""
        if resumes and response.status_code == 206:
            self._joined = True
            return
        if resumes and response.status_code == 416:
            self._may_resume = False
            raise _RetryableError("416 to a request for the rest")
        if response.status_code != 200:
            raise _status_error(response)
        self._out.seek(0)
        self._out.truncate()
        self._advance(-self._received)
        self._received, self._joined = 0, False
        announced = response.raw.length_remaining  # Content-Length, where there is one that says something
        if self._expected.size is not None and announced not in (None, self._expected.size):
            raise ContentMismatchError(str(self._expected), f"{announced} bytes{_kind(response)}")

    def _read(self, response: requests.Response) -> bytes:
        """The next bytes as they were sent, whatever Content-Encoding says of them; none after the last expected."""
        left = (self._expected.size or self._expected.limit + 1) - self._received
        with self._explained():
            data: bytes = response.raw.read1(min(_CHUNK, left), decode_content=False)
        return data

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what requests and urllib3 raise into a DownloadError, or a _RetryableError where a try may help."""
        try:
            yield
        except NETWORK_ERRORS as error:
            fault = None if self._session.stopped.is_set() else lasting_fault(error)
            raise (fault or _RetryableError(describe(error))) from error

    def _wait(self, retry: urllib3.Retry, error: _RetryableError, began: float) -> None:
        """Wait until it is time for the next try. Raises DownloadError if there is to be none."""
        session, limits, expected = self._session, self._session.limits, str(self._expected)
        if session.stopped.is_set():
            found = f"{self._received} bytes by the end of {limits.total:g} s"
            raise DownloadError(expected, found, _NETWORK_CURE) from error
        wait = retry.get_backoff_time() if error.wait is None else error.wait
        if len(retry.history) == limits.tries or wait > min(limits.longest_wait, session.seconds_left()):
            asked = "" if error.wait is None else f", and the host asks to wait {error.wait:.0f} s"
            tries = "1 try" if self._tries == 1 else f"{self._tries} tries"
            found = f"{error.found} ({tries} in {time.monotonic() - began:.0f} s{asked})"
            raise DownloadError(expected, found, error.cure) from error
        self._note(f"{error.found}; trying again in {wait:.1f} s")
        session.stopped.wait(wait)

    def _note(self, text: str) -> None:
        note(f"{display_url(self._url)}: {text}")


def _status_error(response: requests.Response) -> Exception:
    """The error of a response that is no file."""
    status, wait = response.status_code, parse_retry_after(response.headers.get("Retry-After"))
    found, cure = f"{status} {(response.reason or '')[:100]}".strip(), _STATUS_CURES.get(status, _SERVER_CURE)
    if status in (408, 429) or status >= 500 or (status == 403 and wait is not None):
        return _RetryableError(found, wait, cure)
    return DownloadError("200", found, cure)


def parse_retry_after(text: Optional[str]) -> Optional[float]:
    """Seconds from now, never negative; None where there is none, or neither seconds nor a date (RFC 9110, 10.2.3)."""
    try:
        return None if text is None else float(urllib3.Retry().parse_retry_after(text))
    except (urllib3.exceptions.InvalidHeader, ValueError, OverflowError, TypeError):
        return None


def _kind(response: requests.Response) -> str:
    """What the response says of its body, which is often the key to a wrong one: a login page, or a coding."""
    said = response.headers.get("Content-Encoding") or response.headers.get("Content-Type")
    return f" ({said[:100]})" if said else ""
