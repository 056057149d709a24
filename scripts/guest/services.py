"""What a guest finds on its host in scripts/boot.py: a page and a name, at this machine's loopback."""

from __future__ import annotations

import http.server
import socket
import struct
import threading
import urllib.request
from typing import Callable

PAGE = "a page of the host"
NAME = "host.test"
ADDRESS = "127.0.0.1"
_A, _IN = 1, 1
_NO_SUCH_NAME = 3


class Services:
    """A web server and a name server, each in a thread. `/page` has the page; `/served` fetches one of the guest's
    at what `find` gives, and answers with that.
    """

    def __init__(self, find: Callable[[], tuple[str, int]]) -> None:
        self._web = http.server.ThreadingHTTPServer((ADDRESS, 0), _handler(find))
        self._names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._names.bind((ADDRESS, 0))
        self._threads = [threading.Thread(target=self._web.serve_forever), threading.Thread(target=self._answer)]

    @property
    def web_port(self) -> int:
        """The TCP port of the web server."""
        return self._web.server_port

    @property
    def name_port(self) -> int:
        """The UDP port of the name server."""
        port: int = self._names.getsockname()[1]
        return port

    def __enter__(self) -> Services:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._web.shutdown()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self._names.getsockname())
        for thread in self._threads:
            thread.join()
        self._web.server_close()
        self._names.close()

    def _answer(self) -> None:
        while True:
            query, source = self._names.recvfrom(4096)
            if not query:
                return
            reply = answer(query)
            if reply is not None:
                self._names.sendto(reply, source)


def answer(query: bytes) -> bytes | None:
    """The reply to a DNS query (RFC 1035): NAME has the address ADDRESS; None if it is not one question."""
    if len(query) < 12 or struct.unpack_from(">H", query, 4) != (1,):
        return None
    end = 12
    labels = []
    while end < len(query) and (length := query[end]):
        if length > 63:
            return None
        labels.append(query[end + 1 : end + 1 + length].lower())
        end += 1 + length
    question = query[12 : end + 5]
    if len(question) < end - 7:
        return None
    known = b".".join(labels) == NAME.encode()
    found = known and struct.unpack(">HH", question[-4:]) == (_A, _IN)
    flags = 0x8180 if known else 0x8180 | _NO_SUCH_NAME
    header = query[:2] + struct.pack(">HHHHH", flags, 1, int(found), 0, 0)
    record = struct.pack(">HHHIH", 0xC00C, _A, _IN, 60, 4) + socket.inet_aton(ADDRESS)
    return header + question + (record if found else b"")


def _handler(find: Callable[[], tuple[str, int]]) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/page":
                self._send(200, PAGE.encode())
            elif self.path == "/served":
                self._send(*_fetch(find))
            else:
                self._send(404, b"")

        def _send(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            """Print nothing, because nobody reads it."""

    return Handler


def _fetch(find: Callable[[], tuple[str, int]]) -> tuple[int, bytes]:
    try:
        host, port = find()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://{host}:{port}/", timeout=20) as page:
            return 200, page.read(1000)
    except OSError as error:
        return 502, str(error).encode()
