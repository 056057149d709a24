"""A release host on loopback that does what it is told to: raw sockets, for what a polite server cannot do."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Callable


@dataclass(frozen=True)
class Request:
    """One request: `headers` by lower-case name, and its `number` among the requests for its path, from 1."""

    method: str
    path: str
    headers: dict[str, str]
    number: int

    @property
    def start(self) -> int:
        """The first byte that Range asks for; 0 without one."""
        _, _, span = self.headers.get("range", "").partition("bytes=")
        return int(span.partition("-")[0] or 0)


class Reply:
    """What goes back on the connection, byte by byte."""

    def __init__(self, connection: socket.socket, stop: threading.Event) -> None:
        self.connection = connection
        self._stop = stop

    def head(self, status_line: str, **headers: Any) -> None:
        """The status line and headers; `_` in a header's name stands for `-`."""
        lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items() if value is not None]
        self.send(f"HTTP/1.1 {status_line}\r\n{''.join(lines)}Connection: close\r\n\r\n".encode("latin-1"))

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)

    def whole(self, body: bytes, status_line: str = "200 OK", **headers: Any) -> None:
        headers.setdefault("Content_Length", len(body))
        self.head(status_line, **headers)
        self.send(body)

    def rest(self, body: bytes, start: int, **headers: Any) -> None:
        """A right answer to a Range of `start` and up."""
        span = f"bytes {start}-{len(body) - 1}/{len(body)}"
        self.whole(body[start:], "206 Partial Content", Content_Range=span, **headers)

    def honour(self, request: Request, body: bytes, **headers: Any) -> None:
        """What a plain static server answers."""
        if request.start:
            self.rest(body, request.start, **headers)
        else:
            self.whole(body, **headers)

    def trickle(self, data: bytes, piece: int, pause: float) -> None:
        """Slowly: `piece` bytes, then `pause` seconds."""
        for start in range(0, len(data), piece):
            self.send(data[start : start + piece])
            if self._stop.wait(pause):
                return

    def reset(self) -> None:
        """End with RST: what was sent but not yet read may be lost on its way, so it is given a moment."""
        self._stop.wait(0.05)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def silence(self) -> None:
        """Nothing, with the connection open, until the other side goes away."""
        self.connection.settimeout(20)
        with contextlib.suppress(OSError):
            while self.connection.recv(4096):
                pass


Answer = Callable[[Request, Reply], None]


@dataclass
class FaultyHost:
    """A running server: where it is, and every request that came."""

    url: str
    requests: list[Request] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])


@contextlib.contextmanager
def serve(answer: Answer, *, tls: ssl.SSLContext | None = None) -> Iterator[FaultyHost]:
    """Serve on a free port of 127.0.0.1; `answer` runs on a thread of its own for each connection."""
    stop = threading.Event()
    threads: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        host = FaultyHost(f"{'https' if tls else 'http'}://127.0.0.1:{listener.getsockname()[1]}")
        counter: Counter[str] = Counter()

        def connected(connection: socket.socket) -> None:
            # The other side may end it at any moment: a refused certificate, a kill.
            with connection, contextlib.suppress(OSError):
                connection.settimeout(20)
                if tls is None:
                    return respond(connection)
                with tls.wrap_socket(connection, server_side=True) as secure:
                    respond(secure)
            return None

        def respond(connection: socket.socket) -> None:
            head = b""
            while b"\r\n\r\n" not in head:
                data = connection.recv(65536)
                if not data:
                    return
                head += data
            first, *lines = head.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
            method, path, _ = first.split(" ")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            counter[path] += 1
            request = Request(method, path, headers, counter[path])
            host.requests.append(request)
            answer(request, Reply(connection, stop))
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_WR)

        def accept() -> None:
            while not stop.is_set():
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                thread = threading.Thread(target=connected, args=(connection,), daemon=True)
                threads.append(thread)
                thread.start()

        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        try:
            yield host
        finally:
            stop.set()
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            accepting.join(5)
            for thread in threads:
                thread.join(1)


@contextlib.contextmanager
def cut(port: int, after: int) -> Iterator[str]:
    """Relay to 127.0.0.1:`port`, its first connection ended after `after` bytes of the answer; gives the URL."""
    used = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def relay(client: socket.socket) -> None:
            left = None if used.is_set() else after
            used.set()
            with client, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 20) as upstream:
                client.settimeout(20)
                upstream.sendall(client.recv(65536))  # the head of a GET comes in one piece
                while left is None or left > 0:
                    data = upstream.recv(65536 if left is None else min(left, 65536))
                    if not data:
                        return
                    client.sendall(data)
                    left = None if left is None else left - len(data)

        def accept() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=relay, args=(client,), daemon=True).start()

        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            accepting.join(5)
