"""One vsock stream: whatever the guest sends goes to a socket of this machine, and the other way."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
from typing import TYPE_CHECKING, Callable

from scripts.guest import packet
from scripts.guest.packet import Header

if TYPE_CHECKING:
    from scripts.guest.link import Link

_MASK = 0xFFFFFFFF
_CLOSE_TIMEOUT = 8.0
"""Seconds the guest has to answer the end of a stream."""

_PACKETS_IN_TURN = 16
_NO_LINGER = struct.pack("ii", 1, 0)


class Stream:
    """The stream between `port` of the host and `guest_port`. It owns `sock`, and lives in the link's thread.

    `answered`, given for a stream that the host asks for, is called with True at the guest's RESPONSE, else with False.
    """

    def __init__(
        self,
        link: Link,
        port: int,
        guest_port: int,
        sock: socket.socket,
        answered: Callable[[bool], None] | None = None,
    ) -> None:
        sock.setblocking(False)
        self._link, self._sock, self._answered = link, sock, answered
        self.port, self.guest_port = port, guest_port
        self._unsent = bytearray()  # bytes from the guest that the socket has not taken yet
        self._received = self._consumed = self._told = 0  # of what the guest sends
        self._sent = self._peer_buffer = self._peer_consumed = 0  # of what it is sent
        self._reading = self._writing = self._starved = self._waiting = self._ended = self._closed = False
        self._guest_flags = 0

    # --- from the guest ---

    def handle(self, header: Header, pieces: list[memoryview]) -> None:
        """Act on a packet of the guest's; `pieces` are its payload."""
        self._peer_buffer, self._peer_consumed = header.buffer, header.consumed
        if header.op == packet.RW and self._answered is None:
            self._take(header.length, pieces)
        elif header.op == packet.RESPONSE and self._answered is not None:
            self._settle(True)
            self._listen()
        elif header.op == packet.RST:
            # what a program of the guest wants that closes its socket without lingering
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            self.close()
        elif header.op == packet.SHUTDOWN:
            self._shut(header.flags & packet.NO_MORE)
        elif header.op == packet.CREDIT_REQUEST:
            if self._link.behaviour.answers_credit_requests:
                self._send(packet.CREDIT_UPDATE)
        elif header.op != packet.CREDIT_UPDATE:
            self._link.complain(f"stream {self.port}: an operation {header.op} that does not fit its state")
            self.reset()
        if self._starved and self._credit() > 0 and not self._closed:
            self._starved = False
            self._listen()

    def opened_by_guest(self, header: Header) -> None:
        """Answer the guest's REQUEST: the stream is open."""
        self._peer_buffer, self._peer_consumed = header.buffer, header.consumed
        self._send(packet.RESPONSE)
        self._listen()

    def _take(self, length: int, pieces: list[memoryview]) -> None:
        if self._guest_flags & packet.NO_SEND:
            self._link.complain(f"stream {self.port}: data after the end of data")
            return self.reset()
        if len(self._unsent) + length > self._link.behaviour.buffer:
            self._link.complain(f"stream {self.port}: more data than the credit it was given")
            return self.reset()
        self._received += length
        for piece in pieces:
            taken = 0
            if not self._unsent:
                try:
                    taken = self._sock.send(piece)
                except BlockingIOError:
                    pass
                except OSError:  # nobody reads there any more
                    return self.reset()
            self._consumed += taken
            self._unsent += piece[taken:]
        if self._unsent and not self._writing:
            self._writing = True
            self._link.loop.add_writer(self._sock, self._writable)
        self._tell_credit()
        return None

    def _writable(self) -> None:
        try:
            with contextlib.suppress(BlockingIOError):
                taken = self._sock.send(self._unsent)
                del self._unsent[:taken]
                self._consumed += taken
        except OSError:
            return self.reset()
        if not self._unsent:
            self._stop_writing()
            if self._guest_flags & packet.NO_SEND:
                self._shut_socket()
            if self._closed:
                self.close()
        if not self._closed:
            self._tell_credit()
        return None

    def _tell_credit(self) -> None:
        behaviour = self._link.behaviour
        step = behaviour.credit_step or min(behaviour.buffer, self._peer_buffer) // 2
        if self._consumed - self._told >= step:
            self._send(packet.CREDIT_UPDATE)

    def _shut(self, flags: int) -> None:
        self._guest_flags |= flags
        if self._guest_flags == packet.NO_MORE:
            if self._unsent:
                self._link.forget(self)
                self._link.send(self._header(packet.RST))
                self._stop_reading()
                self._closed = True  # the socket still gets what is left
            else:
                self.reset()
        elif flags & packet.NO_SEND and not self._unsent:
            self._shut_socket()
        elif flags & packet.NO_RECEIVE:
            self._stop_reading()

    def _shut_socket(self) -> None:
        with contextlib.suppress(OSError):  # the stream may have ended by itself
            self._sock.shutdown(socket.SHUT_WR)

    # --- to the guest ---

    def resume(self) -> None:
        """Send one packet, now that the guest has a buffer again."""
        self._waiting = False
        if not self._closed and not self._ended and self._send_one():
            self._wait()

    def _readable(self) -> None:
        for _ in range(_PACKETS_IN_TURN):
            if not self._send_one():
                return

    def _send_one(self) -> bool:
        """Hand what the socket has to the guest in one packet; False if that has to wait, or has ended."""
        credit = self._credit()
        if credit <= 0:
            self._stop_reading()
            if not self._starved:
                self._starved = True
                self._send(packet.CREDIT_REQUEST)
            return False
        room = self._link.room()
        if room is None:
            self._stop_reading()
            self._wait()
            return False
        try:
            got = self._sock.recv_into(room[:credit])
        except BlockingIOError:
            self._listen()
            return False
        except OSError:
            self.reset()
            return False
        if not got:
            self._end()
            return False
        self._sent += got
        self._link.fill(self._header(packet.RW, length=got))
        return True

    def _end(self) -> None:
        """Tell the guest that the socket's other end sends no more."""
        self._ended = True
        self._stop_reading()
        if not self._link.behaviour.half_close:
            return self.reset()
        gone = _hung_up(self._sock)
        self._send(packet.SHUTDOWN, packet.NO_MORE if gone else packet.NO_SEND)
        if gone:
            self._link.loop.call_later(_CLOSE_TIMEOUT, self.reset)
        return None

    # --- both ---

    def request(self) -> None:
        """Ask the guest for the stream."""
        self._send(packet.REQUEST)

    def reset(self) -> None:
        """End the stream at once, with RST."""
        if not self._closed:
            self._link.send(self._header(packet.RST))
        self.close()

    def close(self) -> None:
        """End the stream without a word to the guest."""
        self._settle(False)
        self._link.closed(self)
        self._stop_reading()
        self._stop_writing()
        self._closed = True
        self._unsent.clear()
        self._sock.close()

    def _settle(self, answer: bool) -> None:
        answered, self._answered = self._answered, None
        if answered is not None:
            answered(answer)

    def _credit(self) -> int:
        return self._peer_buffer - ((self._sent - self._peer_consumed) & _MASK)

    def _send(self, op: int, flags: int = 0) -> None:
        self._link.send(self._header(op, flags))

    def _header(self, op: int, flags: int = 0, length: int = 0) -> Header:
        self._told = self._consumed
        link = self._link
        return Header(
            packet.HOST_CID, link.guest_cid, self.port, self.guest_port, length, packet.STREAM, op, flags,
            link.behaviour.buffer, self._consumed & _MASK,
        )  # fmt: skip

    def _wait(self) -> None:
        if not self._waiting:
            self._waiting = True
            self._link.wait(self)

    def _listen(self) -> None:
        if not self._reading and not self._ended and not self._guest_flags & packet.NO_RECEIVE:
            self._reading = True
            self._link.loop.add_reader(self._sock, self._readable)

    def _stop_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._link.loop.remove_reader(self._sock)

    def _stop_writing(self) -> None:
        if self._writing:
            self._writing = False
            self._link.loop.remove_writer(self._sock)


def _hung_up(sock: socket.socket) -> bool:
    """Say whether both directions of the socket are closed."""
    poll = select.poll()
    poll.register(sock, 0)
    return bool(poll.poll(0))
