"""One download over https or http: streamed, tried again with patience, resumed where it broke off."""

import contextlib
import http.client
import ipaddress
import random
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Callable, Optional, Protocol
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase

from supermachine_kernel._version import VERSION

from ..errors import BuildError, WrongContent

_CHUNK = 256 << 10
_WATCH = 0.1
"""Seconds between two looks at the clock and at `stop` while a try is under way."""
_REDIRECTS = 10
_REDIRECT_STATUS = (301, 302, 303, 307, 308)
_RETRY_STATUS = (408, 429)
# RFC 9110, 8.6 and 14.4.
_CONTENT_LENGTH = re.compile(r"[0-9]{1,19}")
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)", re.IGNORECASE)

_NETWORK_ERRORS = (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException, OSError)

# {base} is how another base is named, and what else there is.
_NETWORK_CURE = "check the network and the proxy (HTTPS_PROXY), or name a mirror or a folder with {base}"
_TROUBLE_CURE = "try again later, or name a mirror or a folder with {base}"
_RATE_CURE = "the host refuses, or its rate limit is reached: set GITHUB_TOKEN, wait, or use a mirror"
_OTHER_FILE_CURE = "it is another file, or was changed on its way: check the mirror or proxy in between"
_REDIRECT_CURE = "mend the mirror or proxy, or name another with {base}"
_STATUS_CURES = {
    401: "the host wants credentials, or refuses GITHUB_TOKEN: set it anew, or unset it",
    403: _RATE_CURE,
    404: "is this version released there? name the folder above v<version>/ with {base}",
    407: "the proxy wants credentials: put them into HTTPS_PROXY",
    410: "the release was withdrawn: take another version, or a mirror",
    429: _RATE_CURE,
}


@dataclass(frozen=True)
class Patience:
    """How long a download is waited for; times in seconds.

    `connect` and `silence` (no byte arrives) end a try, `total` ends the download. `tries` are those in a row
    that bring no further byte; between two lies `backoff`, doubled each time, up to `longest_wait`, and spread
    by half. A host that asks for a longer wait than that is not waited for.
    """

    connect: float = 10
    silence: float = 30
    total: float = 1800
    tries: int = 6
    backoff: float = 0.5
    longest_wait: float = 60


PATIENCE = Patience()


class Sink(Protocol):
    """Where the bytes go; `write` raises WrongContent as soon as it can tell, `finish` when the whole is wrong."""

    def restart(self) -> None: ...

    def write(self, data: bytes, /) -> None: ...

    def finish(self) -> None: ...


class Listener(Protocol):
    """Who is told how a download goes: bytes that count now (negative: no longer), and a line to show."""

    def advance(self, count: int) -> None: ...

    def note(self, text: str) -> None: ...


class ReleaseHost:
    """The host of the release base: it alone gets `token`, and the user's netrc entry; never over plain http.

    `given_by` is what errors tell the user to name another base with.
    """

    def __init__(
        self, base: str, token: Optional[str], patience: Patience, stop: threading.Event, given_by: str
    ) -> None:
        self.base = base
        self.given_by = given_by
        self.patience = patience
        self.stop = stop
        self._token = _sendable(token)

    def open(self, session: requests.Session, url: str, headers: dict[str, str]) -> requests.Response:
        """The response to a GET, redirects followed. Raises BuildError for a redirect that must not be."""
        seen = [url]
        while True:
            response = session.get(
                seen[-1],
                headers=headers,
                auth=self._auth(seen[-1]),
                stream=True,
                allow_redirects=False,
                timeout=(self.patience.connect, self.patience.silence),
            )
            location = response.headers.get("Location")
            if response.status_code not in _REDIRECT_STATUS or not location:
                return response
            response.close()
            seen.append(self._redirected(seen, location))

    def refused(self, url: str, expected: str, found: str, cure: str) -> BuildError:
        """The error of `url`."""
        cure = cure.format(base=self.given_by)
        return BuildError(f"{shown(url)}: expected {expected}, found {_printable(found)}; {cure}")

    def _redirected(self, seen: list[str], location: str) -> str:
        schemes = ["https"] if urlsplit(seen[-1]).scheme == "https" else ["http", "https"]
        try:
            target = urljoin(seen[-1], location)
            scheme, host, _ = _origin(target)
        except ValueError as error:
            raise self.refused(seen[0], "a redirect to a URL", f"{location[:100]!r}", _REDIRECT_CURE) from error
        if scheme not in schemes or not host:
            found = f"one to {shown(target)}"
            raise self.refused(seen[0], f"redirects to {' or '.join(schemes)} alone", found, _REDIRECT_CURE)
        if target in seen or len(seen) > _REDIRECTS:
            found = f"a loop at {shown(target)}" if target in seen else f"one more, to {shown(target)}"
            raise self.refused(seen[0], f"at most {_REDIRECTS} redirects", found, _REDIRECT_CURE)
        return target

    def _auth(self, url: str) -> Optional[AuthBase]:
        """What goes into Authorization; None leaves it to requests: the base's user and password, or netrc."""
        if _origin(url) != _origin(self.base) or not (url.startswith("https:") or is_loopback(url)):
            return _Nothing()
        has_password = urlsplit(self.base).username is not None
        return _Token(self._token) if self._token and not has_password else None


class _Session(requests.Session):
    """Tells `connected` of each connection, before anything comes over it."""

    def __init__(self, connected: Callable[[socket.socket], None]) -> None:
        super().__init__()
        self.mount("https://", _Adapter(connected))
        self.mount("http://", _Adapter(connected))

    def get_redirect_target(self, resp: requests.Response) -> None:
        """None: requests would read the body of a redirect and parse its target even when told not to follow it."""


class _Adapter(HTTPAdapter):
    def __init__(self, connected: Callable[[socket.socket], None]) -> None:
        super().__init__()
        self._connected = connected

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        if "ConnectionCls" not in vars(pool):
            pool.ConnectionCls = self._telling(pool.ConnectionCls)
        return pool

    def _telling(self, kind: Any) -> Any:
        connected = self._connected

        class Telling(kind):  # type: ignore[misc]
            def _new_conn(self) -> socket.socket:
                connection: socket.socket = super()._new_conn()
                connected(connection)
                return connection

        return Telling


class _Nothing(AuthBase):
    """No credentials: requests would ask netrc, whose `default` entry goes to any host."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


class _Token(AuthBase):
    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class _Broken(Exception):
    """A try ended in a way that another may mend; `wait` is what the host asked for, in seconds."""

    def __init__(self, found: str, wait: Optional[float] = None, cure: str = _NETWORK_CURE) -> None:
        super().__init__(found)
        self.found = _printable(found)
        self.wait = wait
        self.cure = cure


def download(host: ReleaseHost, url: str, sink: Sink, size: Optional[int], listener: Listener) -> None:
    """Bring the file at `url`, `size` bytes where known, into `sink`. Raises BuildError or WrongContent."""
    _Download(host, url, sink, size, listener).run()


class _Download:
    """One file on its way: how far it is, and how it came there."""

    def __init__(self, host: ReleaseHost, url: str, sink: Sink, size: Optional[int], listener: Listener) -> None:
        self.host, self.patience = host, host.patience
        self.url, self.sink, self.size, self.listener = url, sink, size, listener
        self.received = 0
        self.furthest = 0
        self.tries = 0
        self.joined = False
        self.may_resume = True
        self.etag: Optional[str] = None

    def run(self) -> None:
        began = time.monotonic()
        self.deadline = began + self.patience.total
        fruitless = 0
        while True:
            reached = self.furthest
            try:
                return self._try()
            except _Broken as broken:
                fruitless = 1 if self.furthest > reached else fruitless + 1
                wait = self._wait(fruitless, broken.wait)
                self._give_up_if(broken, fruitless, wait, began)
                self.listener.note(f"{shown(self.url)}: {broken.found}; trying again in {wait:.1f} s")
                if self.host.stop.wait(wait):
                    raise BuildError(f"{shown(self.url)}: stopped") from None
            except WrongContent:
                if not self.joined:
                    raise
                # Two answers may have been of two different files.
                self.listener.note(f"{shown(self.url)}: the parts do not fit together; starting again")
                self.may_resume = False
                self._restart()

    def _try(self) -> None:
        self.tries += 1
        with self._watched() as connected, _Session(connected) as session:
            try:
                response = self.host.open(session, self.url, self._headers())
            except (*_NETWORK_ERRORS, ValueError) as error:
                raise self._failure(error) from error
            with contextlib.closing(response):
                self._begin(response)
                self._read(response)
        self.sink.finish()

    @contextlib.contextmanager
    def _watched(self) -> Iterator[Callable[[socket.socket], None]]:
        """End what is connected at the deadline, and when the build stops.

        A read's own timeout does not: it begins anew with each byte of a head or a chunk's size. What the block
        made of a connection that was ended here does not count.
        """
        connections: list[socket.socket] = []
        done, ended = threading.Event(), threading.Event()

        def watch() -> None:
            while not done.wait(_WATCH):
                if self.host.stop.is_set() or time.monotonic() > self.deadline:
                    ended.set()
                    for connection in connections:
                        with contextlib.suppress(OSError):
                            connection.shutdown(socket.SHUT_RDWR)

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            # A second handle: TLS takes over the first.
            yield lambda connection: connections.append(connection.dup())
        except Exception:
            if not ended.is_set():
                raise
        finally:
            done.set()
            watcher.join()
            for connection in connections:
                connection.close()
        if self.host.stop.is_set():
            raise BuildError(f"{shown(self.url)}: stopped")
        if ended.is_set():
            raise _Broken(f"{self.received} by the end of {self.patience.total:g} s")

    def _headers(self) -> dict[str, str]:
        headers = {"Accept-Encoding": "identity", "User-Agent": f"supermachine-kernel/{VERSION}"}
        if self.received and self.may_resume:
            headers["Range"] = f"bytes={self.received}-"
            if self.etag:
                headers["If-Range"] = self.etag
        return headers

    def _begin(self, response: requests.Response) -> None:
        """Settle by the response's head where its body goes on. Raises _Broken, BuildError or WrongContent."""
        resumes = self.received > 0 and self.may_resume
        status = response.status_code
        etag = response.headers.get("ETag")
        if resumes and status == 416:
            self.may_resume = False
            self._restart()
            raise _Broken("416 to a request for the rest")
        if resumes and status == 206:
            if not self._continues(response.headers.get("Content-Range", ""), etag):
                found = response.headers.get("Content-Range", "no Content-Range")
                self.may_resume = False
                self._restart()
                raise _Broken(f"another part than the rest ({found})")
            self.joined = True
            return
        if status != 200:
            raise self._bad_status(response)
        self._restart()
        # RFC 9110, 13.1.5: a weak one does not do for If-Range.
        self.etag = etag if etag and not etag.startswith("W/") else None
        announced = _CONTENT_LENGTH.fullmatch(response.headers.get("Content-Length", ""))
        if self.size is not None and announced and int(announced[0]) != self.size:
            encoded = response.headers.get("Content-Encoding")
            kind = f"{encoded}-encoded" if encoded else response.headers.get("Content-Type", "of no type")
            raise WrongContent(f"{self.size} bytes", f"{int(announced[0])} bytes ({kind})")

    def _continues(self, content_range: str, etag: Optional[str]) -> bool:
        span = parse_content_range(content_range)
        if span is None or span[0] != self.received or (self.etag and etag and etag != self.etag):
            return False
        return self.size is None or span[2] in (None, self.size)

    def _read(self, response: requests.Response) -> None:
        """Hand on the bytes as they are on the wire: what Content-Encoding says of them may be a lie."""
        for chunk in self._chunks(response):
            self.sink.write(chunk)
            self.received += len(chunk)
            self.furthest = max(self.furthest, self.received)
            self.listener.advance(len(chunk))
        if self.size is not None and self.received < self.size:
            raise _Broken(f"an end after {self.received} bytes")

    def _chunks(self, response: requests.Response) -> Iterator[bytes]:
        """Up to the last byte that is wanted: what a host sends after it is not waited for."""
        while self.received != self.size:
            limit = _CHUNK if self.size is None else min(_CHUNK, self.size - self.received)
            try:
                chunk = response.raw.read1(limit, decode_content=False)
            except _NETWORK_ERRORS as error:
                raise self._failure(error) from error
            if not chunk:
                return
            yield chunk

    def _restart(self) -> None:
        if self.received:
            self.sink.restart()
            self.listener.advance(-self.received)
        self.received = 0
        self.joined = False

    def _bad_status(self, response: requests.Response) -> Exception:
        status = response.status_code
        found = f"{status} {(response.reason or '')[:100]}".strip()
        wait = parse_retry_after(response.headers.get("Retry-After"))
        cure = _STATUS_CURES.get(status, _TROUBLE_CURE)
        if status in _RETRY_STATUS or status >= 500 or (status == 403 and wait is not None):
            return _Broken(found, wait, cure)
        return self.host.refused(self.url, "200", found, cure)

    def _failure(self, error: Exception) -> Exception:
        """What `error` is to us: requests and urllib3 wrap the system's message in several of their own."""
        chain = list(_chain(error))
        for cause in chain:
            if isinstance(cause, ssl.SSLCertVerificationError):
                cure = "name the authority's certificate with REQUESTS_CA_BUNDLE if it is yours"
                found = (cause.verify_message or str(cause)).rstrip(".")
                return self.host.refused(self.url, "a certificate that fits", found, cure)
        if isinstance(error, ValueError):  # its text may hold a password
            by_user = isinstance(error, UnicodeEncodeError)
            found = "a user or password that is not Latin-1" if by_user else "one that cannot be parsed"
            cure = "check it, and the proxy's (HTTPS_PROXY); in a password, percent-encode what is no letter or digit"
            return self.host.refused(self.url, "a URL that can be asked", found, cure)
        for cause in chain:
            if isinstance(cause, requests.ConnectTimeout):
                return _Broken(f"no connection within {self.patience.connect:g} s")
            if isinstance(cause, (requests.ReadTimeout, urllib3.exceptions.ReadTimeoutError)):
                return _Broken(f"silence for {self.patience.silence:g} s")
            if isinstance(cause, urllib3.exceptions.NameResolutionError):
                return _Broken("a name that does not resolve")
        proxy = "the proxy: " if any(isinstance(cause, urllib3.exceptions.ProxyError) for cause in chain) else ""
        for cause in reversed(chain):
            if isinstance(cause, OSError) and cause.strerror:
                return _Broken(proxy + cause.strerror.lower())
        if proxy:
            return _Broken(f"{proxy}{chain[-1]}".lower())
        return _Broken("a connection that broke off" + (f" after {self.received} bytes" if self.received else ""))

    def _wait(self, fruitless: int, asked: Optional[float]) -> float:
        if asked is not None:
            return asked
        backoff = min(self.patience.backoff * 2.0 ** (fruitless - 1), self.patience.longest_wait)
        return backoff * random.uniform(0.5, 1)

    def _give_up_if(self, broken: _Broken, fruitless: int, wait: float, began: float) -> None:
        if wait > self.patience.longest_wait:
            cure = f"the host asks to wait {wait:.0f} s: try again then, set GITHUB_TOKEN, or use a mirror"
            raise self.host.refused(self.url, self._expected(), broken.found, cure) from broken
        if fruitless >= self.patience.tries or time.monotonic() + wait > self.deadline:
            tries = "try" if self.tries == 1 else "tries"
            found = f"{broken.found} ({self.tries} {tries} in {time.monotonic() - began:.0f} s)"
            raise self.host.refused(self.url, self._expected(), found, broken.cure) from broken

    def _expected(self) -> str:
        return "the file" if self.size is None else f"{self.size} bytes"


def parse_content_range(text: str) -> Optional[tuple[int, int, Optional[int]]]:
    """First and last byte, and the whole size where it is told; None for what is no byte range (RFC 9110, 14.4)."""
    match = _CONTENT_RANGE.fullmatch(text.strip())
    if match is None:
        return None
    first, last, size = int(match[1]), int(match[2]), None if match[3] == "*" else int(match[3])
    return None if last < first or (size is not None and last >= size) else (first, last, size)


def parse_retry_after(text: Optional[str]) -> Optional[float]:
    """Seconds from now, never negative; None where there is none, or neither seconds nor a date (RFC 9110, 10.2.3)."""
    if text is None:
        return None
    try:
        return float(urllib3.Retry().parse_retry_after(text))
    except (urllib3.exceptions.InvalidHeader, ValueError, OverflowError, TypeError):
        return None


def is_loopback(url: str) -> bool:
    """Whether the URL's host is this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def shown(url: str) -> str:
    """The URL as it may be shown: without user and password, and without a query, which may be a signature."""
    parts = urlsplit(url)
    return _printable(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl())


def refused_content(where: str, wrong: WrongContent) -> BuildError:
    """The error of a file at `where` (a URL, as it may be shown, or a path) with wrong content."""
    return BuildError(f"{where}: expected {wrong.expected}, found {_printable(wrong.found)}; {_OTHER_FILE_CURE}")


def _printable(text: str) -> str:
    """The text with what a terminal would obey escaped: a host chose it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _sendable(token: Optional[str]) -> Optional[str]:
    """The token, once it can stand in a header (RFC 6750, 2.1); None where there is none."""
    token = (token or "").strip()
    if not re.fullmatch(r"[\x21-\x7e]*", token):
        raise BuildError(
            "GITHUB_TOKEN: expected visible ASCII characters, found others (not shown); set it anew, or unset it"
        )
    return token or None


def _origin(url: str) -> tuple[str, Optional[str], Optional[int]]:
    parts = urlsplit(url)
    if "\\" in parts.netloc:  # where urllib3 would end the host: what is asked were another than what is checked
        raise ValueError("a backslash in the host")
    return parts.scheme, parts.hostname, parts.port or {"https": 443, "http": 80}.get(parts.scheme)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came from, outermost first."""
    seen: list[BaseException] = []
    waiting = [error]
    while waiting:
        current = waiting.pop(0)
        if current in seen:
            continue
        seen.append(current)
        yield current
        inner = [getattr(current, "reason", None), current.__cause__, current.__context__, *current.args]
        waiting += [cause for cause in inner if isinstance(cause, BaseException)]
