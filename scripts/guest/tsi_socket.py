"""One socket of this machine that stands for a guest's, until a stream takes it over."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Callable

from scripts.guest import packet
from scripts.guest.packet import HOST_CID, Header
from scripts.guest.tsi_messages import DATAGRAM, INET6, Accept, Address, Create

if TYPE_CHECKING:
    from scripts.guest.link import Link

_PACKETS_IN_TURN = 16
_PAUSE = 1.0
"""Seconds until a connection is accepted again, after this machine had no descriptor for one."""


class Socket:
    """What CREATE made: a socket for a stream, for a listener or for datagrams. Only the link's thread uses it."""

    def __init__(self, link: Link, request: Create, control: int) -> None:
        self._link, self.port, self.type, self.control = link, request.port, request.type, control
        self.peer: Address | None = None
        self.pending: Address | None = None
        self.guest_port: int | None = None
        self.listeners: list[socket.socket] = []
        self.complete = 0
        self.waiter: Accept | None = None
        self.family = socket.AF_INET6 if request.family == INET6 else socket.AF_INET
        kind = socket.SOCK_DGRAM if request.type == DATAGRAM else socket.SOCK_STREAM
        self._sock: socket.socket | None = socket.socket(self.family, kind)
        self._sock.setblocking(False)
        self._reading = self._connecting = False

    def connect(self, to: Address, port: int, answer: Callable[[int, bool], None]) -> None:
        """Connect. `answer` is called with the errno, or 0, and with whether the result had to be waited for."""
        if self._sock is None or self._connecting or self.listeners:
            return answer(errno.EISCONN, False)
        sock = self._sock
        error = sock.connect_ex(to.for_socket(port))
        if error != errno.EINPROGRESS:
            return self._connected(to, error, False, answer)

        def decided() -> None:
            self._connecting = False
            self._link.loop.remove_writer(sock)
            self._connected(to, sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), True, answer)

        self._connecting = True
        self._link.loop.add_writer(sock, decided)
        return None

    def _connected(self, to: Address, error: int, late: bool, answer: Callable[[int, bool], None]) -> None:
        if not error:
            self.peer = to
            if self.type == DATAGRAM:
                self.receive()
        answer(error, late)

    def take_stream(self) -> socket.socket | None:
        """Return the connected socket to the stream that owns it from now on; None if there is none."""
        if self.peer is None or self.type == DATAGRAM:
            return None
        sock, self._sock = self._sock, None
        return sock

    def listen(self, listeners: Sequence[socket.socket], connected: Callable[[socket.socket, Address], None]) -> None:
        """Call `connected` for each connection of these sockets."""
        self.listeners = list(listeners)

        def accept(listener: socket.socket) -> None:
            try:
                sock, peer = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError:
                self._link.loop.remove_reader(listener)
                self._link.loop.call_later(_PAUSE, watch, listener)
                return
            connected(sock, Address.of(peer))

        def watch(listener: socket.socket) -> None:
            if listener in self.listeners and listener.fileno() >= 0:
                self._link.loop.add_reader(listener, accept, listener)

        for listener in self.listeners:
            watch(listener)

    def send(self, payload: bytes, to: tuple[str, int] | tuple[str, int, int, int] | None) -> None:
        """Send a datagram; like any datagram it may be lost."""
        if self._sock is not None:
            with contextlib.suppress(OSError):
                if to is None:
                    self._sock.send(payload)
                else:
                    self._sock.sendto(payload, to)

    def receive(self) -> None:
        """Begin to hand the guest each datagram that arrives, whoever sent it."""
        if not self._reading and self._sock is not None:
            with contextlib.suppress(OSError):  # the socket is bound already
                self._sock.bind(("::1" if self.family == socket.AF_INET6 else "127.0.0.1", 0))
            self._reading = True
            self._link.loop.add_reader(self._sock, self._readable)

    def resume(self) -> None:
        """Hand on one datagram, now that the guest has a buffer again."""
        if self._sock is not None:
            self._link.loop.add_reader(self._sock, self._readable)
            self._receive_one()

    def close(self) -> None:
        """Close what no stream has taken over."""
        for listener in self.listeners:
            self._link.loop.remove_reader(listener)
            listener.close()
        if self._sock is not None:
            self._link.loop.remove_reader(self._sock)
            self._link.loop.remove_writer(self._sock)
            self._sock.close()
            self._sock = None

    def _readable(self) -> None:
        for _ in range(_PACKETS_IN_TURN):
            if not self._receive_one():
                return

    def _receive_one(self) -> bool:
        assert self._sock is not None
        room = self._link.room()
        if room is None:
            self._link.loop.remove_reader(self._sock)
            self._link.wait(self)
            return False
        try:
            got = self._sock.recv_into(room)  # a longer datagram is cut
        except BlockingIOError:
            return False
        except OSError:  # an ICMP error that an earlier datagram caused
            return True
        ends = (HOST_CID, self._link.guest_cid)
        source, cid = reversed(ends) if self._link.behaviour.swapped_cids else ends
        self._link.fill(Header(source, cid, 0, self.port, got, packet.DATAGRAM, packet.RW, 0, 0, 0))
        return True


def open_listeners(at: Address, port: int, backlog: int, *, anywhere: bool) -> list[socket.socket]:
    """Listening sockets for a guest's address, all at the same port (0: any): loopback in its place, both families for
    `::`, unless `anywhere`. Raises OSError.
    """
    if anywhere:
        hosts = [at.host]
    elif at.host == "::":
        hosts = ["127.0.0.1", "::1"]
    else:
        hosts = [{"0.0.0.0": "127.0.0.1"}.get(at.host, at.host)]
    opened: list[socket.socket] = []
    try:
        for host in hosts:
            sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
            opened.append(sock)
            sock.setblocking(False)
            if sock.family == socket.AF_INET6 and not anywhere:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, port))
            sock.listen(max(0, min(backlog, 4096)))
            port = sock.getsockname()[1]
    except OSError:
        for sock in opened:
            sock.close()
        raise
    return opened
