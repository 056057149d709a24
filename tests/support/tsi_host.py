"""The servers of the host that the cases in tests/guest/tsi/ talk with."""

from __future__ import annotations

import contextlib
import queue
import re
import select
import selectors
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Callable

LIMIT = 60.0
REQUEST = re.compile(r"echo|hold|reset|watch|ending|act|(?:give|take) \d+|dial \d+ .+")
"""The first line of a client. The random calls send others too."""


class Servers:
    """One TCP server, whose clients' first line says what it does, and three UDP servers; each at both loopbacks.

    `find` gives where on this machine a listener of the guest is found, given the guest's port; `act` does what a
    guest asks for by name.
    """

    def __init__(self, find: Callable[[int], tuple[str, int]], act: Callable[[str], None] = lambda name: None) -> None:
        self._find, self._act = find, act
        self._streams = _at_both_loopbacks(socket.SOCK_STREAM)
        self._datagrams = [_at_both_loopbacks(socket.SOCK_DGRAM) for _ in range(3)]
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._acting: socket.socket | None = None
        self._ending = False
        self._endings: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._accept, args=(sock,)) for sock in self._streams]
        self._threads.append(threading.Thread(target=self._answer_datagrams))
        self._nobody = socket.socket()  # bound, so that nobody else listens there
        self._nobody.bind(("127.0.0.1", 0))
        self.closed_port: int = self._nobody.getsockname()[1]

    @property
    def arguments(self) -> list[str]:
        """Those of the program of the cases."""
        ports = [sock.getsockname()[1] for sock, _ in (self._streams, *self._datagrams)]
        return [str(port) for port in (ports[0], self.closed_port, *ports[1:])]

    @property
    def port(self) -> int:
        """The TCP server's."""
        port: int = self._streams[0].getsockname()[1]
        return port

    @property
    def udp_port(self) -> int:
        """The first UDP server's."""
        port: int = self._datagrams[0][0].getsockname()[1]
        return port

    def __enter__(self) -> Servers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending = True
        with self._lock:
            for sock in [*self._streams, *self._open]:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for sock in [self._nobody, *self._streams, *(sock for pair in self._datagrams for sock in pair)]:
            sock.close()

    # --- streams ---

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = listener.accept()
                self._start(self._serve, sock)

    def _start(self, serve: Callable[[socket.socket], None], sock: socket.socket) -> None:
        def run() -> None:
            with self._kept(sock), contextlib.suppress(OSError):
                serve(sock)

        thread = threading.Thread(target=run)
        with self._lock:
            self._threads.append(thread)
        thread.start()

    @contextlib.contextmanager
    def _kept(self, sock: socket.socket) -> Iterator[None]:
        """Close it in the end, also if that is near."""
        sock.settimeout(LIMIT)
        with sock:
            with self._lock:
                self._open.add(sock)
            try:
                yield
            finally:
                with self._lock:
                    self._open.discard(sock)

    def _serve(self, sock: socket.socket) -> None:
        line = _line(sock)
        if line is None or not REQUEST.fullmatch(line):
            return
        what, *words = line.split()
        if what == "dial":
            self._dial(sock, int(words[0]), words[1:])
        elif what == "watch":
            sock.sendall(b"ok\n")
            self._endings.put(_ending(sock))
        elif what == "ending":
            sock.sendall(self._endings.get(timeout=LIMIT))
        elif what == "act":
            with self._lock:
                self._acting = sock
            try:
                while (line := _line(sock)) is not None:
                    self._act(line)
                    sock.sendall(b"ok\n")
            finally:
                with self._lock:
                    if self._acting is sock:  # the next may have begun before this one was seen to end
                        self._act("none")
        else:
            _do(sock, [what, *words])

    def _dial(self, sock: socket.socket, guest_port: int, words: list[str]) -> None:
        host, port = self._find(guest_port)
        if words[0] == "over6":
            host, words = "::1", words[1:]
        peer = socket.create_connection((host, port), LIMIT)
        self._start(lambda opened: _do(opened, words), peer)
        sock.sendall(b"ok\n")
        sock.recv(1)  # until the guest's process ends

    # --- datagrams ---

    def _answer_datagrams(self) -> None:
        with selectors.DefaultSelector() as selector:
            for number, pair in enumerate(self._datagrams):
                for sock in pair:
                    selector.register(sock, selectors.EVENT_READ, (number, sock))
            while not self._ending:
                for key, _ in selector.select(0.2):
                    number, sock = key.data
                    data, source = sock.recvfrom(65536)
                    if data.startswith(b"size"):
                        data = str(len(data)).encode()
                    with contextlib.suppress(OSError):
                        sock.sendto(f"{number}:".encode() + data, source)


def _line(sock: socket.socket) -> str | None:
    """The next line, or None at the end."""
    line = b""
    while not line.endswith(b"\n"):
        byte = sock.recv(1)
        if not byte:
            return None
        line += byte
    return line.decode("ascii", "replace").strip()


def _ending(sock: socket.socket) -> bytes:
    try:
        while sock.recv(1 << 16):
            pass
        return b"end\n"
    except ConnectionResetError:
        return b"reset\n"


def _do(sock: socket.socket, words: list[str]) -> None:
    what, size = words[0], int(words[1]) if len(words) > 1 else 0
    if what == "echo":
        while data := sock.recv(1 << 16):
            sock.sendall(data)
    elif what == "give":
        sock.sendall(pattern(size))
    elif what == "take":
        taken = bytearray()
        while len(taken) < size and (data := sock.recv(1 << 16)):
            taken += data
        sock.sendall(b"ok\n" if taken == pattern(size) else b"no\n")
    elif what == "reset":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    elif what == "hold":
        _wait_for_end(sock)


def _wait_for_end(sock: socket.socket) -> None:
    """Until the peer sends no more; what it has sent stays unread."""
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    poll.poll(LIMIT * 1000)


_PAGES = [bytes((n * 7 + shift) & 0xFF for n in range(256)) for shift in range(256)]


def pattern(size: int, seed: int = 1) -> bytes:
    """As fill() in tests/guest/tsi/tools.c."""
    pages = range((size + 255) // 256)
    return b"".join(_PAGES[(seed + page * 13 + (page >> 8) * 31) & 0xFF] for page in pages)[:size]


def _at_both_loopbacks(kind: int) -> tuple[socket.socket, socket.socket]:
    """Two sockets at one port."""
    while True:
        one = socket.socket(socket.AF_INET, kind)
        other = socket.socket(socket.AF_INET6, kind)
        try:
            one.bind(("127.0.0.1", 0))
            other.bind(("::1", one.getsockname()[1]))
            if kind == socket.SOCK_STREAM:
                one.listen(1024)
                other.listen(1024)
            return one, other
        except OSError:
            one.close()
            other.close()
