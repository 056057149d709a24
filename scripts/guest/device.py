"""A virtio socket device for a guest in QEMU, with this process as its host (CID 2).

QEMU is the front end (`-device vhost-user-vsock-device`) and has the third ring; the other two are served here, in a
thread. While the guest runs, its ports can be called, and it can call ours:

    with Device() as device, guest.running(assets, tmp_path, config, container, vsock=device) as machine:
        machine.wait_for("listening on vsock port 777", 60)
        with device.connect(777) as sock:        # the agent's port; a socket like any other
            sock.sendall(...)
        with device.listen(1234) as listener:    # connect() to CID 2, port 1234 in the guest
            sock, guest_port = listener.accept()
        seen = machine.wait(60)                  # until the guest has powered off

A device serves one boot. A guest that is saved and started again has another device then, which knows no stream.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import queue
import socket
import struct
import threading
from typing import TYPE_CHECKING, Any, Callable, TypeVar

from scripts.guest.behaviour import STANDARD, Behaviour
from scripts.guest.link import Link
from scripts.guest.stream import Stream
from scripts.guest.vhost_user import Connection
from scripts.guest.virtqueue import GuestError, Queue

if TYPE_CHECKING:
    from types import TracebackType

GUEST_CID = 3
_FIRST_PORT = 1 << 30
_CALL_TIMEOUT = 30.0
T = TypeVar("T")


class Device:
    """A context; it ends with GuestError if the guest or QEMU broke the rings' or vhost-user's protocol.

    `complaints` are lesser faults of the guest's, each of which ended one stream or packet.
    """

    def __init__(self, behaviour: Behaviour = STANDARD) -> None:
        self._loop = asyncio.new_event_loop()
        self.link = Link(self._loop, GUEST_CID, behaviour)
        self._failure: BaseException | None = None
        self._next_port = _FIRST_PORT
        ours, self._qemus = socket.socketpair()
        self._connection = Connection(
            ours,
            rings=2,
            config=struct.pack("<Q", GUEST_CID),
            started=self.link.start_ring,
            stopped=self.link.stop_ring,
        )
        self._front_end = ours
        self._thread = threading.Thread(target=self._loop.run_forever, name="vsock device", daemon=True)

    # --- for qemu.Machine ---

    @property
    def file(self) -> int:
        """The descriptor that QEMU must inherit."""
        return self._qemus.fileno()

    @property
    def arguments(self) -> list[str]:
        """QEMU's arguments. The guest's memory must be a shared memory backend."""
        chardev = f"socket,id=vsock,fd={self.file}"
        return ["-chardev", chardev, "-device", "vhost-user-vsock-device,chardev=vsock"]

    def inherited(self) -> None:
        """Close our copy of QEMU's descriptor, so that the end of QEMU is noticed."""
        self._qemus.close()

    # --- for the host's programs ---

    @property
    def complaints(self) -> list[str]:
        """Return what the guest did wrong, in at most a hundred sentences."""
        return list(self.link.complaints)

    def connect(self, port: int, timeout: float = 10.0) -> socket.socket:
        """Connect to the guest's vsock `port`. The socket has the given timeout, in seconds; change it at will.

        The guest's end of data is read as one, and `shutdown(SHUT_WR)` tells it ours. Raises ConnectionRefusedError
        if nobody listens, TimeoutError if the guest does not answer, GuestError if the device has failed.
        """
        answered: concurrent.futures.Future[bool] = concurrent.futures.Future()
        mine, theirs = socket.socketpair()
        mine.settimeout(timeout)
        try:
            stream = self.call(self._request, port, theirs, answered)
        except BaseException:
            mine.close()
            theirs.close()
            raise
        try:
            if answered.result(timeout):
                return mine
            self._check()
            raise ConnectionRefusedError(f"vsock port {port} of the guest: refused")
        except concurrent.futures.TimeoutError as error:
            with contextlib.suppress(GuestError):
                self.call(stream.reset)
            mine.close()
            raise TimeoutError(f"vsock port {port} of the guest: no answer in {timeout:g} s") from error
        except BaseException:
            mine.close()
            raise

    def listen(self, port: int) -> Listener:
        """Accept the guest's connections to CID 2, `port`. Raises OSError if the port is taken."""
        listener = Listener(self, port)
        self.call(self._add_port, port, listener.offer)
        return listener

    def call(self, action: Callable[..., T], *arguments: Any) -> T:
        """Run `action` in the device's thread and return its result. Raises what it raises, and GuestError."""
        self._check()
        done: concurrent.futures.Future[T] = concurrent.futures.Future()

        def act() -> None:
            try:
                done.set_result(action(*arguments))
            except BaseException as error:
                done.set_exception(error)

        self._loop.call_soon_threadsafe(act)
        return done.result(_CALL_TIMEOUT)

    def other_queue(self, size: int, places: tuple[int, int, int]) -> Queue:
        """A queue that QEMU serves, for a test that takes it over; `places` are addresses in the guest."""
        return self.call(self._connection.other_queue, size, places)

    def __enter__(self) -> Device:
        self._loop.set_exception_handler(self._failed)
        self._loop.add_reader(self._front_end, self._message)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._failure is None:
            self.call(self._shut)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._qemus.close()
        if error is None:
            self._check()

    # --- in the thread ---

    def _message(self) -> None:
        if not self._connection.handle_message():
            self._shut()

    def _shut(self) -> None:
        if self._front_end.fileno() < 0:
            return
        self._loop.remove_reader(self._front_end)
        self._connection.close()
        self.link.close_streams()

    def _failed(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if self._failure is None:
            self._failure = context.get("exception") or RuntimeError(context["message"])
            self._shut()

    def _request(self, port: int, sock: socket.socket, answered: concurrent.futures.Future[bool]) -> Stream:
        self._next_port += 1
        stream = Stream(self.link, self._next_port, port, sock, answered.set_result)
        self.link.add_stream(stream).request()
        return stream

    def _add_port(self, port: int, give: Callable[[int], socket.socket | None]) -> None:
        if port in self.link.ports:
            raise OSError(f"vsock port {port} of the host: taken")
        self.link.ports[port] = give

    def _check(self) -> None:
        if self._failure is not None:
            failure = self._failure
            raise GuestError(f"the vsock device has failed: {failure}") from failure


class Listener:
    """A port of the host's. At most `backlog` connections wait in it; the guest's others are refused."""

    def __init__(self, device: Device, port: int, backlog: int = 128) -> None:
        self._device, self._port = device, port
        self._waiting: queue.Queue[tuple[socket.socket, int]] = queue.Queue(backlog)

    def accept(self, timeout: float = 10.0) -> tuple[socket.socket, int]:
        """The next connection and the guest's port. Raises TimeoutError after `timeout` seconds."""
        try:
            sock, guest_port = self._waiting.get(timeout=timeout)
        except queue.Empty:
            raise TimeoutError(f"vsock port {self._port} of the host: nobody connected in {timeout:g} s") from None
        sock.settimeout(timeout)
        return sock, guest_port

    def close(self) -> None:
        """Refuse new connections, and close those that nobody accepted."""
        with contextlib.suppress(GuestError):
            self._device.call(self._device.link.ports.pop, self._port, None)
        with contextlib.suppress(queue.Empty):
            while True:
                self._waiting.get_nowait()[0].close()

    def offer(self, guest_port: int) -> socket.socket | None:
        """Return the device's end of a new connection, or None if the backlog is full. For the device's thread."""
        mine, theirs = socket.socketpair()
        try:
            self._waiting.put_nowait((mine, guest_port))
        except queue.Full:
            mine.close()
            theirs.close()
            return None
        return theirs

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
