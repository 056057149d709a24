"""The host's side of a virtio socket device: packets between the guest's rings and the host's streams and datagrams."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from typing import TYPE_CHECKING, Callable, Protocol

from scripts.guest import packet
from scripts.guest.packet import Header
from scripts.guest.stream import Stream
from scripts.guest.virtqueue import Chain, GuestError, Queue

if TYPE_CHECKING:
    import asyncio
    import socket

    from scripts.guest.behaviour import Behaviour

RX, TX = 0, 1
_MAX_OUT = 256
"""Packets that wait for a buffer of the guest's; with more of them the guest's own packets wait too."""

_CHAINS_IN_TURN = 64
_MAX_COMPLAINTS = 100
_PATIENCE = 0.001
"""Seconds until the guest is told that a few packets of its own were taken, if nothing else interrupts it before."""


class Source(Protocol):
    """Somebody who has data for the guest and waits for a buffer of the guest's."""

    def resume(self) -> None:
        """Send one packet, and `wait` again if there is more."""


class Link:
    """Everything here happens in the thread of `loop`; `on_stop` is called when the guest has gone.

    `ports` has, for each port of the host that listens, what gives a socket for a guest's port that asks, or None to
    refuse. `on_datagram` gets the guest's port, the host's and the payload. `complaints` are the guest's faults that
    end no more than one stream or packet.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, guest_cid: int, behaviour: Behaviour) -> None:
        self.loop, self.guest_cid, self.behaviour = loop, guest_cid, behaviour
        self.ports: dict[int, Callable[[int], socket.socket | None]] = {}
        self.on_datagram: Callable[[int, int, bytes], None] = lambda source, port, payload: None
        self.on_stop: Callable[[], None] = lambda: None
        self.complaints: list[str] = []
        self.streams: dict[tuple[int, int], Stream] = {}
        self._open_streams: set[Stream] = set()  # and those that the guest has closed, until the rest is written
        self._queues: dict[int, Queue] = {}
        self._kicks: dict[int, int] = {}
        self._out: deque[tuple[Header, bytes]] = deque()
        self._sources: deque[Source] = deque()
        self._room: Chain | None = None
        self._flushing = self._stalled = self._draining = self._notifying = self._postponed = False

    # --- the rings ---

    def start_ring(self, index: int, queue: Queue, kick: int) -> None:
        """Begin to use a ring that the guest has set up."""
        self._queues[index], self._kicks[index] = queue, kick
        self.loop.add_reader(kick, self._kicked, index, kick)
        self.loop.call_soon(self._flush if index == RX else self._drain)

    def stop_ring(self, index: int) -> None:
        """Forget a ring of the guest's, and end every stream."""
        self._queues.pop(index).notify()
        self.loop.remove_reader(self._kicks.pop(index))
        self._out.clear()
        self.close_streams()

    def close_streams(self) -> None:
        """End every stream without a word to the guest."""
        for stream in list(self._open_streams):
            stream.close()
        self.on_stop()

    def _kicked(self, index: int, kick: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(kick, 8)
        if index == RX:
            self._flush()
        else:
            self._drain()

    def _notify(self) -> None:
        self._notifying = False
        for queue in self._queues.values():
            queue.notify()

    def _notify_soon(self) -> None:
        if not self._notifying:
            self._notifying = True
            self.loop.call_soon(self._notify)

    def _notify_later(self) -> None:
        if not self._notifying and not self._postponed:
            self._postponed = True
            self.loop.call_later(_PATIENCE, self._notify_postponed)

    def _notify_postponed(self) -> None:
        self._postponed = False
        self._notify()

    # --- to the guest ---

    def send(self, header: Header, payload: bytes = b"") -> None:
        """Send a packet as soon as the guest has a buffer for it; a payload that is too long for that is cut."""
        self._out.append((header, payload))
        self._flush()

    def room(self) -> memoryview | None:
        """Return the buffer for the payload of the next packet, which `fill` sends; None if there is none yet."""
        queue = self._queues.get(RX)
        others_first = self._sources and not self._flushing
        if self._out or others_first or queue is None:
            return None
        self._room = queue.peek()
        return None if self._room is None else _payload_of(self._room)

    def fill(self, header: Header) -> None:
        """Send the packet whose payload is in the last `room`."""
        assert self._room is not None
        self._put(self._queues[RX], self._room, header)

    def wait(self, source: Source) -> None:
        """Have `source` resumed when the guest has a buffer."""
        self._sources.append(source)

    def _flush(self) -> None:
        queue = self._queues.get(RX)
        if queue is None or self._flushing:
            return
        self._flushing = True
        for _ in range(_CHAINS_IN_TURN):
            self._flush_out(queue)
            if not self._sources or self.room() is None:
                break
            self._sources.popleft().resume()
        else:
            self.loop.call_soon(self._flush)
        self._flushing = False
        if self._stalled and len(self._out) < _MAX_OUT:
            self._stalled = False
            self._drain()

    def _flush_out(self, queue: Queue) -> None:
        while self._out and (chain := queue.peek()) is not None:
            header, payload = self._out.popleft()
            room = _payload_of(chain)
            cut = payload[: len(room)]
            room[: len(cut)] = cut
            self._put(queue, chain, header._replace(length=min(header.length, len(room))))

    def _put(self, queue: Queue, chain: Chain, header: Header) -> None:
        chain.writable[0][: packet.SIZE] = header.pack()
        queue.use(chain, packet.SIZE + header.length)
        self._notify_soon()

    # --- from the guest ---

    def _drain(self) -> None:
        if not self._draining:
            self._draining = True
            self.loop.call_soon(self._drain_some)

    def _drain_some(self) -> None:
        self._draining = False
        queue = self._queues.get(TX)
        if queue is None:
            return
        for _ in range(_CHAINS_IN_TURN):
            if len(self._out) >= _MAX_OUT:
                self._stalled = True
                break
            chain = queue.peek()
            if chain is None:
                break
            self._take(chain)
            queue.use(chain, 0)
        else:
            self._drain()
        if queue.is_pressing:
            self._notify_soon()
        else:
            self._notify_later()

    def _take(self, chain: Chain) -> None:
        first = chain.readable[0] if chain.readable else memoryview(b"")
        if len(first) < packet.SIZE:
            return self.complain(f"a packet whose first descriptor has {len(first)} bytes, less than its header")
        header = Header.unpack(first)
        pieces = [piece for piece in (first[packet.SIZE :], *chain.readable[1:]) if len(piece)]
        size = sum(map(len, pieces))
        if header.length > packet.MAX_PAYLOAD or header.length > size:
            return self.complain(f"a packet that says {header.length} bytes, and has {size}")
        if header.source_cid != self.guest_cid or header.cid != packet.HOST_CID:
            self.complain(f"a packet from CID {header.source_cid} to CID {header.cid}")
            return self._refuse(header)
        pieces = _cut(pieces, header.length)
        if self.behaviour.one_data_descriptor:
            pieces = pieces[:1]
        if header.type == packet.DATAGRAM and header.op == packet.RW:
            self.on_datagram(header.source_port, header.port, b"".join(pieces))
        elif header.type == packet.STREAM:
            self._take_of_stream(header, pieces)
        else:
            self.complain(f"a packet of type {header.type} with operation {header.op}")
            self._refuse(header)
        return None

    def _take_of_stream(self, header: Header, pieces: list[memoryview]) -> None:
        stream = self.streams.get((header.port, header.source_port))
        if header.op == packet.REQUEST:
            self._open(header, stream)
        elif stream is not None:
            stream.handle(header, pieces)
        else:
            self._refuse(header)

    def _open(self, header: Header, stream: Stream | None) -> None:
        if stream is not None:
            self.complain(f"a request for the stream {header.source_port} to {header.port}, which is open")
            return stream.reset()
        give = self.ports.get(header.port)
        sock = give(header.source_port) if give is not None else None
        if sock is None:
            return self._refuse(header)
        self.add_stream(Stream(self, header.port, header.source_port, sock)).opened_by_guest(header)
        return None

    def _refuse(self, header: Header) -> None:
        if header.op == packet.RST or header.type == packet.DATAGRAM:
            return
        back = (header.cid, header.source_cid, header.port, header.source_port)
        self.send(Header(*back, 0, header.type, packet.RST, 0, 0, 0))

    # --- streams ---

    def add_stream(self, stream: Stream) -> Stream:
        """Have the guest's packets for its ports go to `stream`."""
        self.streams[stream.port, stream.guest_port] = stream
        self._open_streams.add(stream)
        return stream

    def closed(self, stream: Stream) -> None:
        """Forget a stream that has ended and whose socket is closed."""
        self.forget(stream)
        self._open_streams.discard(stream)

    def forget(self, stream: Stream) -> None:
        """Forget a stream that has ended for the guest."""
        if self.streams.get((stream.port, stream.guest_port)) is stream:
            del self.streams[stream.port, stream.guest_port]

    def complain(self, fault: str) -> None:
        """Note a fault of the guest's, up to a hundred of them."""
        if len(self.complaints) < _MAX_COMPLAINTS:
            self.complaints.append(fault)


def _payload_of(chain: Chain) -> memoryview:
    first = chain.writable[0] if chain.writable else memoryview(b"")
    if len(first) > packet.SIZE:
        return first[packet.SIZE :]
    if len(first) == packet.SIZE and len(chain.writable) > 1:
        return chain.writable[1]
    raise GuestError(f"expected a buffer for a header of {packet.SIZE} bytes and a payload, found {len(first)} bytes")


def _cut(pieces: list[memoryview], length: int) -> list[memoryview]:
    kept = []
    for piece in pieces:
        if length <= 0:
            break
        kept.append(piece[:length])
        length -= len(piece)
    return kept
