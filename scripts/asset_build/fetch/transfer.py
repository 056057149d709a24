"""Downloads over https and http. They resume, are tried again, and end at a deadline."""

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Optional

import requests
import urllib3

from supermachine_kernel._version import VERSION

from ..errors import BuildError, ContentMismatchError, printable
from ..lock import LOCK_NAME
from .limits import Limits
from .network_errors import NETWORK_ERRORS, describe, lasting_fault
from .progress import Progress
from .release_url import display_url
from .session import Auth, Connections, Session

_CHUNK = 256 << 10
_ENOUGH = 64 << 10
"""Bytes that a try must bring for the next one to begin the count, and the waits, anew."""
_CONTENT_LENGTH = re.compile(r"[0-9]{1,19}")  # RFC 9110, 8.6

# {setting} is how another release base is named, and what else there is.
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
        if self.size is not None and size != self.size:
            raise ContentMismatchError(f"{self.size} bytes", f"{size} bytes")
        digest = hashlib.sha256()
        file.seek(0)
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
        if self.sha256 is not None and digest.hexdigest() != self.sha256:
            raise ContentMismatchError(f"SHA-256 {self.sha256} ({self.said_by})", digest.hexdigest())
        file.seek(0)

    def __str__(self) -> str:
        return "the file" if self.size is None else f"{self.size} bytes"


class _RetryableError(Exception):
    """A try failed in a way that another may not; `wait` is what the host asked for, in seconds."""

    def __init__(self, found: str, wait: Optional[float] = None, cure: str = _NETWORK_CURE) -> None:
        super().__init__(found)
        self.found, self.wait, self.cure = printable(found), wait, cure


@dataclass(frozen=True)
class Host:
    """How a release host is asked, and who is told of it.

    `auth` sets the credentials of the first request. `setting` is what errors tell the user to name another release
    base with.
    """

    auth: Optional[Auth]
    limits: Limits
    connections: Connections
    progress: Progress
    setting: str


class Download:
    """One file on its way: how many bytes of it are there, and whether they came in several parts."""

    def __init__(self, host: Host, url: str, out: BinaryIO, expected: Expected) -> None:
        self._host, self._limits, self._connections = host, host.limits, host.connections
        self._url, self._out, self._expected = url, out, expected
        self._received = self._tries = 0
        self._joined = False
        self._may_resume = expected.sha256 is not None  # the digest proves that the parts are of one file

    def run(self) -> None:
        """Write the file to `out` and check it. Raises BuildError, ContentMismatchError, and OSError from `out`."""
        began, limits = time.monotonic(), self._limits
        fresh = urllib3.Retry(
            limits.tries - 1,
            backoff_factor=limits.backoff,
            backoff_max=limits.longest_wait,
            backoff_jitter=limits.backoff,
        )
        retry = fresh
        with Session(self._connections) as session:
            while True:
                before = self._received
                try:
                    self._try(session)
                    return self._expected.check(self._out)
                except _RetryableError as error:
                    retry = self._wait(fresh if self._received - before >= _ENOUGH else retry, error, began)
                except ContentMismatchError:
                    if not self._joined:
                        raise
                    self._note("the parts do not fit together; starting again")
                    self._may_resume = False

    def _try(self, session: requests.Session) -> None:
        self._tries += 1
        headers = {"Accept-Encoding": "identity", "User-Agent": f"supermachine-kernel/{VERSION}"}
        if self._received and self._may_resume:
            headers["Range"] = f"bytes={self._received}-"
        with self._explained():
            timeout = (self._limits.connect, self._limits.silence)
            response = session.get(self._url, headers=headers, auth=self._host.auth, stream=True, timeout=timeout)
        with contextlib.closing(response):
            self._begin(response, resumes="Range" in headers)
            for chunk in self._chunks(response):
                self._out.write(chunk)
                self._received += len(chunk)
                self._host.progress.advance(len(chunk))
        self._check_stopped()
        if self._received < (self._expected.size or 0):
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
            raise self._status_error(response)
        self._out.seek(0)
        self._out.truncate()
        self._host.progress.advance(-self._received)
        self._received, self._joined = 0, False
        announced = _CONTENT_LENGTH.fullmatch(response.headers.get("Content-Length", ""))
        if self._expected.size is not None and announced and int(announced[0]) != self._expected.size:
            raise ContentMismatchError(str(self._expected), f"{int(announced[0])} bytes{_kind(response)}")

    def _chunks(self, response: requests.Response) -> Iterator[bytes]:
        """The bytes as they were sent, whatever Content-Encoding says of them; none after the last expected one."""
        while self._received != self._expected.size:
            if self._received > self._expected.limit:
                raise ContentMismatchError(f"at most {self._expected.limit} bytes", "more")
            most = min(_CHUNK, (self._expected.size or self._received + _CHUNK) - self._received)
            with self._explained():
                chunk = response.raw.read1(most, decode_content=False)
            if not chunk:
                return
            yield chunk

    def _status_error(self, response: requests.Response) -> Exception:
        status, wait = response.status_code, parse_retry_after(response.headers.get("Retry-After"))
        found, cure = f"{status} {(response.reason or '')[:100]}".strip(), _STATUS_CURES.get(status, _SERVER_CURE)
        if status in (408, 429) or status >= 500 or (status == 403 and wait is not None):
            return _RetryableError(found, wait, cure)
        return self._refused("200", found, cure)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what requests and urllib3 raise into a BuildError, or a _RetryableError where another try may help."""
        try:
            yield
        except NETWORK_ERRORS as error:
            self._check_stopped()
            fault = lasting_fault(error)
            raise (self._refused(*fault) if fault else _RetryableError(describe(error))) from error

    def _wait(self, retry: urllib3.Retry, error: _RetryableError, began: float) -> urllib3.Retry:
        """Wait until it is time for the next try. Raises BuildError if there is to be none."""
        self._check_stopped()
        try:
            retry = retry.increment(error=error)
            wait = retry.get_backoff_time() if error.wait is None else error.wait
        except urllib3.exceptions.MaxRetryError:
            wait = float("inf")
        if wait > self._limits.longest_wait or wait > self._connections.seconds_left():
            asked = "" if error.wait is None else f", and the host asks to wait {error.wait:.0f} s"
            tries = "1 try" if self._tries == 1 else f"{self._tries} tries"
            found = f"{error.found} ({tries} in {time.monotonic() - began:.0f} s{asked})"
            raise self._refused(str(self._expected), found, error.cure) from error
        self._note(f"{error.found}; trying again in {wait:.1f} s")
        self._connections.stopped.wait(wait)
        return retry

    def _check_stopped(self) -> None:
        if self._connections.stopped.is_set():
            found = f"{self._received} bytes by the end of {self._connections.total:g} s"
            raise self._refused(str(self._expected), found, _NETWORK_CURE)

    def _note(self, text: str) -> None:
        self._host.progress.note(f"{display_url(self._url)}: {text}")

    def _refused(self, expected: str, found: str, cure: str) -> BuildError:
        cure = cure.format(setting=self._host.setting)
        return BuildError(display_url(self._url), expected, printable(found), cure)


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
