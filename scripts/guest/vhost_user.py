"""The back end's side of the vhost-user protocol, with QEMU at the other end of a socket.

From QEMU's docs/interop/vhost-user.rst. A ring runs from SET_VRING_KICK to GET_VRING_BASE, as in the wide-spread back
ends; SET_VRING_ENABLE, which QEMU 7.2 does not send for vsock, changes nothing. QEMU saves a guest only beside a back
end that logs what it writes; this one says so and does not, so a guest must be paused before it is saved.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import struct
from dataclasses import dataclass
from typing import Callable

from scripts.guest.virtqueue import GuestError, Memory, Queue, Region

_HEADER = struct.Struct("<III")
_VERSION, _REPLY = 1, 4
_MAX_PAYLOAD = 4096
_MAX_CONFIG = 256
_MAX_FDS = 8
_NO_FD = 1 << 8
VERSION_1 = 1 << 32
_LOG_ALL = 1 << 26
_PROTOCOL_FEATURES = 1 << 30
_LOG_SHMFD, _CONFIG = 1 << 1, 1 << 9

GET_FEATURES, SET_FEATURES, SET_OWNER, RESET_OWNER, SET_MEM_TABLE = 1, 2, 3, 4, 5
SET_LOG_BASE, SET_LOG_FD = 6, 7
SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE, GET_VRING_BASE = 8, 9, 10, 11
SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR = 12, 13, 14
GET_PROTOCOL_FEATURES, SET_PROTOCOL_FEATURES, SET_VRING_ENABLE, GET_CONFIG = 15, 16, 18, 24


@dataclass
class _Ring:
    size: int = 0
    places: tuple[int, int, int] | None = None
    base: int = 0
    kick: int | None = None
    call: int | None = None
    queue: Queue | None = None


class Connection:
    """What QEMU tells and asks. `started` is called with a ring's number, its queue and its kick eventfd once
    it runs, `stopped` with its number before it stops.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        rings: int,
        config: bytes,
        started: Callable[[int, Queue, int], None],
        stopped: Callable[[int], None],
    ) -> None:
        self._sock, self._config, self._started, self._stopped = sock, config, started, stopped
        self._rings = [_Ring() for _ in range(rings)]
        self._memory: Memory | None = None

    def handle_message(self) -> bool:
        """Read one message and do what it says; False once QEMU has closed. Raises GuestError."""
        data, fds, _, _ = socket.recv_fds(self._sock, _HEADER.size, _MAX_FDS)
        if not data:
            return False
        request: int | None = None
        try:
            data += self._exactly(_HEADER.size - len(data))
            request, flags, size = _HEADER.unpack(data)
            if flags & 3 != _VERSION or size > _MAX_PAYLOAD:
                raise GuestError(f"expected a vhost-user message, found request {request}, flags {flags}, {size} bytes")
            self._act(request, self._exactly(size), fds)
        except struct.error as error:
            raise GuestError(f"vhost-user request {request}: expected another payload: {error}") from error
        finally:
            for fd in fds:
                os.close(fd)
        return True

    def other_queue(self, size: int, places: tuple[int, int, int]) -> Queue:
        """Return a queue at these addresses in the guest, which interrupts as the first ring does."""
        if self._memory is None:
            raise GuestError("expected the guest's memory, found none yet")
        return Queue(self._memory.by_guest_addresses(), size, places, None, self._rings[0].call)

    def close(self) -> None:
        """Stop every ring, close every eventfd and let go of the guest's memory."""
        for index in range(len(self._rings)):
            self._stop(index)
            ring = self._rings[index]
            if ring.call is not None:
                os.close(ring.call)
            self._rings[index] = _Ring()
        self._memory = None
        self._sock.close()

    def _act(self, request: int, payload: bytes, fds: list[int]) -> None:
        if request == GET_FEATURES:
            self._answer(request, struct.pack("<Q", VERSION_1 | _PROTOCOL_FEATURES | _LOG_ALL))
        elif request == GET_PROTOCOL_FEATURES:
            self._answer(request, struct.pack("<Q", _CONFIG | _LOG_SHMFD))
        elif request == GET_CONFIG:
            offset, size, flags = struct.unpack_from("<III", payload)
            if size > _MAX_CONFIG:
                raise GuestError(f"expected a request for at most {_MAX_CONFIG} bytes of configuration, found {size}")
            content = self._config[offset : offset + size].ljust(size, b"\0")
            self._answer(request, struct.pack("<III", offset, size, flags) + content)
        elif request == SET_LOG_BASE:
            self._answer(request, b"")
        elif request == SET_MEM_TABLE:
            self._memory = _map(payload, fds)
        elif request == SET_VRING_NUM:
            index, size = struct.unpack("<II", payload)
            self._ring(index).size = size
        elif request == SET_VRING_BASE:
            index, base = struct.unpack("<II", payload)
            self._ring(index).base = base
        elif request == SET_VRING_ADDR:
            index, _, descriptors, used, available, _ = struct.unpack("<IIQQQQ", payload)
            self._ring(index).places = (descriptors, available, used)
        elif request == GET_VRING_BASE:
            index, _ = struct.unpack("<II", payload)
            self._answer(request, struct.pack("<II", index, self._stop(index)))
        elif request == SET_VRING_KICK:
            self._start(*_ring_and_fd(payload, fds))
        elif request == SET_VRING_CALL:
            self._call(*_ring_and_fd(payload, fds))
        elif request not in (
            SET_FEATURES, SET_OWNER, RESET_OWNER, SET_LOG_FD, SET_VRING_ERR, SET_PROTOCOL_FEATURES, SET_VRING_ENABLE,
        ):  # fmt: skip
            raise GuestError(f"expected a vhost-user request that was negotiated, found {request}")

    def _ring(self, index: int) -> _Ring:
        if index >= len(self._rings):
            raise GuestError(f"expected a ring below {len(self._rings)}, found {index}")
        return self._rings[index]

    def _start(self, index: int, kick: int | None) -> None:
        ring = self._ring(index)
        self._stop(index)
        if kick is None:
            raise GuestError(f"ring {index}: expected an eventfd, found that it is to be polled")
        if self._memory is None or ring.places is None:
            os.close(kick)
            raise GuestError(f"ring {index}: expected memory and addresses before it starts, found none")
        ring.kick = kick
        os.set_blocking(kick, False)
        ring.queue = Queue(self._memory, ring.size, ring.places, ring.base, ring.call)
        self._started(index, ring.queue, kick)

    def _stop(self, index: int) -> int:
        ring = self._ring(index)
        if ring.queue is not None and ring.kick is not None:
            self._stopped(index)
            os.close(ring.kick)
            ring.base = ring.queue.base
            ring.queue = ring.kick = None
        return ring.base

    def _call(self, index: int, call: int | None) -> None:
        ring = self._ring(index)
        if ring.call is not None:
            os.close(ring.call)
        ring.call = call
        if ring.queue is not None:
            ring.queue.set_call(call)

    def _answer(self, request: int, payload: bytes) -> None:
        self._sock.sendall(_HEADER.pack(request, _VERSION | _REPLY, len(payload)) + payload)

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self._sock.recv(size - len(data))
            if not more:
                raise GuestError(f"expected {size} more bytes of a vhost-user message, found its end")
            data += more
        return data


def _ring_and_fd(payload: bytes, fds: list[int]) -> tuple[int, int | None]:
    (value,) = struct.unpack("<Q", payload)
    if value & _NO_FD:
        return value & 0xFF, None
    if len(fds) != 1:
        raise GuestError(f"expected one eventfd for ring {value & 0xFF}, found {len(fds)}")
    return value & 0xFF, fds.pop()


def _map(payload: bytes, fds: list[int]) -> Memory:
    (count,) = struct.unpack_from("<I", payload)
    if count != len(fds):
        raise GuestError(f"expected a file for each of {count} memory regions, found {len(fds)}")
    regions = []
    for number, fd in enumerate(fds):
        guest, size, user, offset = struct.unpack_from("<QQQQ", payload, 8 + 32 * number)
        with contextlib.suppress(ValueError, OSError):
            view = memoryview(mmap.mmap(fd, offset + size))
            regions.append(Region(guest, user, view[offset : offset + size]))
            continue
        raise GuestError(f"expected {size} bytes of memory from {offset} on in QEMU's file, and cannot map them")
    return Memory(regions)
