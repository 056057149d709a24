"""Requests to a release host. All connections can be ended at once, and credentials go to that host alone."""

import contextlib
import ipaddress
import socket
import threading
import time
from typing import Any, Callable, Optional
from urllib.parse import urljoin, urlsplit
from weakref import WeakSet

import requests
from requests.adapters import HTTPAdapter

from .release_url import display_url

Auth = Callable[[requests.PreparedRequest], requests.PreparedRequest]


class RedirectError(requests.RequestException):
    """A redirect that must not be followed."""

    def __init__(self, expected: str, found: str) -> None:
        super().__init__(expected, found)
        self.expected, self.found = expected, found


class Connections:
    """The connections of a fetch: `stop` ends whatever waits on one of them.

    A read's own time limit begins anew with each byte, so it cannot end a host that sends one byte at a time.
    """

    def __init__(self, total: float) -> None:
        self.total = total
        self._deadline = time.monotonic() + total
        self.stopped = threading.Event()
        self._sockets: WeakSet[socket.socket] = WeakSet()
        self._lock = threading.Lock()

    def seconds_left(self) -> float:
        """How long the deadline is still away; 0 once it is past."""
        return max(self._deadline - time.monotonic(), 0)

    def add(self, connection: socket.socket) -> socket.socket:
        """Remember a connection, so that `stop` shuts it down; after `stop` it is shut down at once."""
        with self._lock:
            self._sockets.add(connection)
        if self.stopped.is_set():
            self.stop()
        return connection

    def stop(self) -> None:
        """Shut down every connection, and each that is added later."""
        self.stopped.set()
        with self._lock:
            for connection in self._sockets:
                with contextlib.suppress(OSError):  # it is closed already
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)


class Session(requests.Session):
    """A session for one host: a redirect to another gets no credentials, and none leads from https to http."""

    def __init__(self, connections: Connections) -> None:
        super().__init__()
        self.max_redirects = 10
        self.mount("https://", _Adapter(connections))
        self.mount("http://", _Adapter(connections))

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        """Drop the credentials for another host; the inherited method would send it the netrc file's `default`."""
        if self.should_strip_auth(response.request.url, prepared_request.url):  # type: ignore[no-untyped-call]
            prepared_request.headers.pop("Authorization", None)

    def get_redirect_target(self, resp: requests.Response) -> Optional[str]:
        """The URL to which the response redirects, None if it does not. Raises RedirectError for one not followed."""
        if not resp.is_redirect:
            return None
        resp.close()  # requests would read the body of the redirect, however long it is
        allowed = ["https"] if resp.url.startswith("https:") else ["http", "https"]
        location = resp.headers["Location"]
        target, parts, readable = "", urlsplit(""), False
        with contextlib.suppress(ValueError):
            target = urljoin(resp.url, super().get_redirect_target(resp) or "")
            parts = urlsplit(target)
            # urllib3 ends the host at a backslash, so that another host would be asked than the one that is checked.
            readable = parts.port != 0 and "\\" not in parts.netloc
        if not readable:
            raise RedirectError("a redirect to a URL", f"one to {location[:100]!r}")
        if parts.scheme not in allowed or not parts.hostname:
            raise RedirectError(f"redirects to {' or '.join(allowed)} alone", f"one to {display_url(target)}")
        return target


class _Adapter(HTTPAdapter):
    """Adds every socket to `connections` before anything is read from it."""

    def __init__(self, connections: Connections) -> None:
        super().__init__()
        self._connections = connections

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        add, kind = self._connections.add, type(pool).ConnectionCls

        class Connection(kind):  # type: ignore[misc, valid-type]
            def _new_conn(self) -> socket.socket:
                return add(super()._new_conn())  # a proxy's answer is read from it before `connect` returns

            def connect(self) -> None:
                super().connect()
                add(self.sock)  # TLS has wrapped the socket in another one by now

        pool.ConnectionCls = Connection
        return pool


def credentials(base: str, token: Optional[str]) -> Optional[Auth]:
    """Return what sets Authorization. None leaves it to requests: the base's user and password, else the netrc file."""

    def set_nothing(request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request

    def set_token(request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {token}"
        return request

    if not (base.startswith("https:") or is_loopback(base)):
        return set_nothing  # anybody on the way could read them
    return set_token if token and urlsplit(base).username is None else None


def is_loopback(url: str) -> bool:
    """Whether the URL's host is this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
