"""The host's side of AF_TSI, version 3: sockets of this machine in the place of a guest's.

    device = Device(LIBKRUN)
    host = Host(device.link, redirects={53: dns_port})
    with device, qemu.Machine(..., vsock=device, command_line=f"{qemu.COMMAND_LINE} tsi_hijack") as machine:
        address = host.wait_for_listener(8080, 60)      # the guest listens at 8080, we find it at `address`

Only loopback addresses are connected to and listened at, unless `anywhere` is set.
"""

from __future__ import annotations

import errno
import random
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Callable

from scripts.guest import packet, tsi_messages
from scripts.guest.packet import HOST_CID, Header
from scripts.guest.stream import Stream
from scripts.guest.tsi_messages import STREAM_PORT, Address, MessageError, Request
from scripts.guest.tsi_socket import Socket, open_listeners

if TYPE_CHECKING:
    import socket

    from scripts.guest.link import Link

_MAX_SOCKETS = 4096
_WHOLE_BUFFER = 0xFFFFFFFF
Reply = Callable[[int, int, Request, bytes], "list[bytes]"]


class Host:
    """Attach it to a device's link before that starts. `ports` maps what the guest listens at to ports of this machine
    (else any free one), `redirects` what it connects or sends to. `on_reply` gets the guest's port, the operation, the
    request and the reply to it, and gives what is sent instead: a host that misbehaves.
    """

    def __init__(
        self,
        link: Link,
        *,
        ports: Mapping[int, int] | None = None,
        redirects: Mapping[int, int] | None = None,
        anywhere: bool = False,
        on_reply: Reply | None = None,
    ) -> None:
        self._link, self._anywhere = link, anywhere
        self._ports, self.redirects = dict(ports or {}), dict(redirects or {})
        self.on_reply = on_reply
        self.sockets: dict[int, Socket] = {}
        self.accepted: dict[tuple[int, int], Address] = {}
        self._listening: dict[int, tuple[str, int]] = {}
        self._news = threading.Condition()
        link.on_datagram = self._datagram
        link.ports[STREAM_PORT] = self._stream
        link.on_stop = self.close

    def wait_for_listener(self, port: int, timeout: float) -> tuple[str, int]:
        """Where on this machine the guest's listener at `port` is found. Raises TimeoutError after `timeout` s."""
        end = time.monotonic() + timeout
        with self._news:
            while port not in self._listening:
                if not self._news.wait(max(0.0, end - time.monotonic())):
                    raise TimeoutError(f"expected the guest to listen at port {port} within {timeout:g} s")
            return self._listening[port]

    def close(self) -> None:
        """Forget every socket, so that the host is as it was at its start."""
        for found in list(self.sockets.values()):
            self._remove(found)
        self.accepted.clear()

    # --- from the guest ---

    def _datagram(self, source: int, port: int, payload: bytes) -> None:
        if port == tsi_messages.SENDTO_DATA:
            return self._send_to(source, payload)
        if not tsi_messages.CREATE <= port <= tsi_messages.RELEASE:
            return self._send(source, payload)
        try:
            request = tsi_messages.parse(port, payload)
        except MessageError as error:
            return self._link.complain(f"AF_TSI operation {port}: {error}")
        return self._act(source, request)

    def _act(self, source: int, request: Request) -> None:
        if isinstance(request, tsi_messages.Create):
            self._create(source, request)
        elif isinstance(request, tsi_messages.Connect):
            self._connect(source, request)
        elif isinstance(request, tsi_messages.GetName):
            self._reply(source, tsi_messages.GETNAME, request, tsi_messages.name(self._name(request)))
        elif isinstance(request, tsi_messages.SendToAddress):
            self._send_to_address(request)
        elif isinstance(request, tsi_messages.Listen):
            self._reply(source, tsi_messages.LISTEN, request, tsi_messages.result(self._listen(request)))
        elif isinstance(request, tsi_messages.Accept):
            self._accept(source, request)
        else:
            self._release(request)

    def _create(self, source: int, request: tsi_messages.Create) -> None:
        if request.port in self.sockets:
            self._remove(self.sockets[request.port])
        if len(self.sockets) >= _MAX_SOCKETS:
            return self._link.complain(f"AF_TSI: more than {_MAX_SOCKETS} sockets")
        if request.family not in (tsi_messages.INET, tsi_messages.INET6) or request.type not in (1, 2):
            return self._link.complain(f"AF_TSI: a socket of family {request.family}, type {request.type}")
        try:
            self.sockets[request.port] = Socket(self._link, request, source)
        except OSError as error:  # this machine's limit, which a process in the guest can reach
            self._link.complain(f"AF_TSI: a socket that this machine does not give: {error.strerror}")
        return None

    def _connect(self, source: int, request: tsi_messages.Connect) -> None:
        found = self.sockets.get(request.port)
        to = request.address
        if found is None:
            return self._reply(source, tsi_messages.CONNECT, request, tsi_messages.result(errno.ECONNREFUSED))

        def answer(error: int, late: bool) -> None:
            refused = error and late and self._link.behaviour.errors_are_refusals
            told = errno.ECONNREFUSED if refused else error
            self._reply(found.control, tsi_messages.CONNECT, request, tsi_messages.result(told))

        if to.family != found.family:
            return answer(errno.EAFNOSUPPORT, False)
        if not self._allowed(to):
            return answer(errno.ENETUNREACH, False)
        found.connect(to, self.redirects.get(to.port, to.port), answer)
        return None

    def _name(self, request: tsi_messages.GetName) -> Address | None:
        if request.host_port != STREAM_PORT:
            return self.accepted.get((request.port, request.host_port))
        found = self.sockets.get(request.port)
        return None if found is None else found.peer

    def _listen(self, request: tsi_messages.Listen) -> int:
        found = self.sockets.get(request.port)
        if found is None or found.type != tsi_messages.STREAM:
            return errno.EPERM
        if found.listeners:
            return 0
        at = request.address
        if not at.is_loopback and not self._anywhere:
            return errno.EADDRNOTAVAIL
        port = self._ports.get(at.port, at.port if self._anywhere else 0)
        try:
            listeners = open_listeners(at, port, request.backlog, anywhere=self._anywhere)
        except OSError as error:
            return error.errno or errno.EINVAL
        found.listen(listeners, lambda sock, peer: self._new_connection(found, request.vm_port, sock, peer))
        with self._news:
            self._listening[at.port] = listeners[0].getsockname()[:2]
            found.guest_port = at.port
            self._news.notify_all()
        return 0

    def _new_connection(self, listener: Socket, vm_port: int, sock: socket.socket, peer: Address) -> None:
        if len(self.accepted) >= _MAX_SOCKETS:
            sock.close()
            return
        host_port = random.randint(1024, 0xFFFFFFFD)
        while (host_port, vm_port) in self._link.streams or host_port == STREAM_PORT:
            host_port = random.randint(1024, 0xFFFFFFFD)
        key = (vm_port, host_port)
        self.accepted[key] = peer

        def answered(granted: bool) -> None:
            if granted:
                listener.complete += 1
                self._answer_waiter(listener)
            else:
                self.accepted.pop(key, None)

        self._link.add_stream(Stream(self._link, host_port, vm_port, sock, answered)).request()

    def _accept(self, source: int, request: tsi_messages.Accept) -> None:
        found = self.sockets.get(request.port)
        if found is None:
            self._reply(source, tsi_messages.ACCEPT, request, tsi_messages.result(errno.EINVAL))
        elif not found.complete and request.flags & tsi_messages.NONBLOCK:
            self._reply(found.control, tsi_messages.ACCEPT, request, tsi_messages.result(errno.EAGAIN))
        else:
            found.waiter = request
            self._answer_waiter(found)

    def _answer_waiter(self, listener: Socket) -> None:
        if listener.waiter is not None and listener.complete:
            request, listener.waiter = listener.waiter, None
            listener.complete -= 1
            self._reply(listener.control, tsi_messages.ACCEPT, request, tsi_messages.result(0))

    def _release(self, request: tsi_messages.Release) -> None:
        if request.host_port != STREAM_PORT:
            self.accepted.pop((request.port, request.host_port), None)
            return
        found = self.sockets.get(request.port)
        if found is None:
            return
        delay = 0.0 if found.listeners else self._link.behaviour.release_delay
        if delay:  # found by the port alone, so another socket that has the port by then is removed
            self._link.loop.call_later(delay, self.forget, request.port)
        else:
            self._remove(found)

    def _stream(self, guest_port: int) -> socket.socket | None:
        """Give the guest the stream of a connected socket, which it asks for."""
        found = self.sockets.get(guest_port)
        return None if found is None else found.take_stream()

    # --- datagrams ---

    def _send_to_address(self, request: tsi_messages.SendToAddress) -> None:
        found = self.sockets.get(request.port)
        if found is None or found.type != tsi_messages.DATAGRAM or found.family != request.address.family:
            return self._link.complain("AF_TSI: an address for a datagram of a socket that is none")
        if found.pending is not None:
            self._link.complain("AF_TSI: two addresses without a payload between them")
        found.pending = request.address
        found.receive()
        return None

    def _send_to(self, source: int, payload: bytes) -> None:
        found = self.sockets.get(source)
        if found is None or found.pending is None:
            return self._link.complain("AF_TSI: a payload without an address before it")
        to, found.pending = found.pending, None
        if self._allowed(to):
            found.send(payload, to.for_socket(self.redirects.get(to.port, to.port)))
        return None

    def _send(self, source: int, payload: bytes) -> None:
        found = self.sockets.get(source)
        if found is None or found.type != tsi_messages.DATAGRAM:
            return self._link.complain("AF_TSI: a payload of a socket that is none")
        found.send(payload, None)
        return None

    # --- both ---

    def _allowed(self, address: Address) -> bool:
        return self._anywhere or address.is_loopback

    def _reply(self, port: int, operation: int, request: Request, reply: bytes) -> None:
        replies = [reply] if self.on_reply is None else self.on_reply(port, operation, request, reply)
        for payload in replies:
            self.send_reply(port, operation, payload)

    def send_reply(self, port: int, operation: int, payload: bytes) -> None:
        """Send a reply to the guest's `port` in the device's thread."""
        length = _WHOLE_BUFFER if self._link.behaviour.padded_replies else len(payload)
        kind = (packet.DATAGRAM, packet.RW)
        self._link.send(Header(HOST_CID, self._link.guest_cid, operation, port, length, *kind, 0, 0, 0), payload)

    def forget(self, port: int) -> None:
        """Close the socket that the guest's `port` stands for, if there is one, in the device's thread."""
        if port in self.sockets:
            self._remove(self.sockets[port])

    def _remove(self, found: Socket) -> None:
        del self.sockets[found.port]
        if found.guest_port is not None:
            with self._news:
                self._listening.pop(found.guest_port, None)
        found.close()
