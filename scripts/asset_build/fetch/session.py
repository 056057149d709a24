"""Requests to a release host. All of them end at one deadline, and credentials go to that host alone."""

import contextlib
import ipaddress
import re
import socket
import threading
import time
from typing import Any, Callable, Optional
from urllib.parse import urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter

from supermachine_kernel._version import VERSION

from ..errors import BuildError
from .limits import Limits
from .network_errors import DownloadError
from .release_url import display_url

Auth = Callable[[requests.PreparedRequest], requests.PreparedRequest]


class Session(requests.Session):
    """Requests to one host: a redirect to another gets no credentials, and none leads from https to http.

    `auth` sets the credentials. Once `limits.total` seconds are over, `stopped` is set and every connection is shut
    down until the session is closed: the time limit of a read begins anew with each byte, so it cannot end a host
    that sends one byte at a time.
    """

    def __init__(self, auth: Optional[Auth], limits: Limits) -> None:
        super().__init__()
        self.auth, self.limits, self.max_redirects = auth, limits, 10
        self.headers.update({"Accept-Encoding": "identity", "User-Agent": f"supermachine-kernel/{VERSION}"})
        self._adapter = _Adapter()
        self.mount("https://", self._adapter)
        self.mount("http://", self._adapter)
        self.stopped, self._closed = threading.Event(), threading.Event()
        self._deadline = time.monotonic() + limits.total
        threading.Thread(target=self._enforce_deadline, daemon=True).start()

    def close(self) -> None:
        """Close the connections, and forget the deadline."""
        self._closed.set()
        super().close()

    def seconds_left(self) -> float:
        """How long the deadline is still away; 0 once it is past."""
        return max(self._deadline - time.monotonic(), 0)

    def _enforce_deadline(self) -> None:
        if self._closed.wait(self.limits.total):
            return
        self.stopped.set()
        while not self._closed.wait(0.1):  # a redirect may be about to make another connection
            for connection in list(self._adapter.sockets):
                with contextlib.suppress(OSError):  # it is closed already
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        """Drop the credentials for another host; the inherited method would send it the netrc file's `default`."""
        if self.should_strip_auth(response.request.url, prepared_request.url):  # type: ignore[no-untyped-call]
            prepared_request.headers.pop("Authorization", None)

    def get_redirect_target(self, resp: requests.Response) -> Optional[str]:
        """The URL to which the response redirects, None if it does not. Raises DownloadError for one not followed."""
        if not resp.is_redirect:
            return None
        if resp.raw.length_remaining == 0:
            resp.raw.release_conn()  # it is used again for the next file
        resp.close()  # requests would read the body of the redirect, however long it is
        try:
            target = urljoin(resp.url, super().get_redirect_target(resp) or "")
            parts = urlsplit(target)
            # urllib3 ends the host at a backslash, so that another host would be asked than the one that is checked.
            if parts.port == 0 or "\\" in parts.netloc:
                raise ValueError(target)
        except ValueError as error:
            raise DownloadError("a redirect to a URL", f"one to {resp.headers['Location'][:100]!r}") from error
        allowed = ["https"] if resp.url.startswith("https:") else ["http", "https"]
        if parts.scheme not in allowed or not parts.hostname:
            raise DownloadError(f"redirects to {' or '.join(allowed)} alone", f"one to {display_url(target)}")
        return target


class _Adapter(HTTPAdapter):
    """Adds every socket to `sockets` before anything is read from it."""

    def __init__(self) -> None:
        super().__init__()
        self.sockets: list[socket.socket] = []

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        sockets, kind = self.sockets, type(pool).ConnectionCls

        class Connection(kind):  # type: ignore[misc, valid-type]
            def _new_conn(self) -> socket.socket:
                sockets.append(super()._new_conn())  # a proxy's answer is read from it before `connect` returns
                return sockets[-1]

            def connect(self) -> None:
                super().connect()
                sockets.append(self.sock)  # TLS has wrapped the socket in another one by now

        pool.ConnectionCls = Connection
        return pool


def credentials(base: str, token: Optional[str]) -> Optional[Auth]:
    """Return what sets Authorization. None leaves it to requests: the base's user and password, else the netrc file.

    Raises BuildError for a token that no header can carry (RFC 6750, 2.1).
    """
    token = (token or "").strip()
    if not re.fullmatch(r"[\x21-\x7e]*", token):
        raise BuildError("GITHUB_TOKEN", "visible ASCII characters", "others (not shown)", "set it anew, or unset it")
    private = base.startswith("https:") or is_loopback(base)  # else anybody on the way could read them
    if private and (not token or urlsplit(base).username is not None):
        return None

    def authorize(request: requests.PreparedRequest) -> requests.PreparedRequest:
        if private:
            request.headers["Authorization"] = f"Bearer {token}"
        return request

    return authorize


def is_loopback(url: str) -> bool:
    """Whether the URL's host is this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
