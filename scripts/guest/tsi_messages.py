"""The control messages of AF_TSI, version 3: what a guest asks of its host, and the host's replies.

Every number is little-endian but a port within an address, which is a `sockaddr` of Linux. A request is a vsock
datagram to the port of CID 2 that has the operation's number; the reply comes from there.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from typing import NamedTuple, Union

CREATE, CONNECT, GETNAME, SENDTO_ADDR, SENDTO_DATA, LISTEN, ACCEPT, RELEASE = range(1024, 1032)
STREAM_PORT = 620
"""The host's port of each stream that the guest opens, and the second half of its key."""

STREAM, DATAGRAM = 1, 2
NONBLOCK = 0x800
INET, INET6 = 2, 10
ADDRESS_SIZE = 128


class MessageError(Exception):
    """A request is wrong. The text says what was expected and what was found."""


class Address(NamedTuple):
    """An IPv4 or IPv6 address and a port."""

    host: str
    port: int
    flow: int = 0
    scope: int = 0

    @property
    def family(self) -> socket.AddressFamily:
        """The address family, by this machine's number."""
        return socket.AF_INET6 if ":" in self.host else socket.AF_INET

    @property
    def is_loopback(self) -> bool:
        """Whether the address means this machine, as a loopback or the unspecified address does."""
        address = ipaddress.ip_address(self.host)
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return address.is_loopback or address.is_unspecified

    def for_socket(self, port: int | None = None) -> tuple[str, int] | tuple[str, int, int, int]:
        """Return the address for the socket module, with `port` in place of its own if that is given."""
        port = self.port if port is None else port
        return (self.host, port, self.flow, self.scope) if self.family == socket.AF_INET6 else (self.host, port)

    def pack(self) -> bytes:
        """Return the bytes of the sockaddr."""
        packed = socket.inet_pton(self.family, self.host)
        if self.family == socket.AF_INET:
            return struct.pack("<H", INET) + struct.pack(">H", self.port) + packed + bytes(8)
        begin = struct.pack("<H", INET6) + struct.pack(">HI", self.port, self.flow)
        return begin + packed + struct.pack("<I", self.scope)

    @classmethod
    def of(cls, name: tuple[str, int] | tuple[str, int, int, int]) -> Address:
        """Return the address that the socket module gave."""
        return cls(name[0].partition("%")[0], *name[1:])


class Create(NamedTuple):
    """CREATE: make a socket; its data port in the guest is `port`."""

    port: int
    family: int
    type: int


class Connect(NamedTuple):
    """CONNECT: connect that socket."""

    port: int
    address: Address


class GetName(NamedTuple):
    """GETNAME: say the peer's address."""

    port: int
    host_port: int
    peer: int


class SendToAddress(NamedTuple):
    """SENDTO_ADDR: send the next payload from that port to this address."""

    port: int
    address: Address


class Listen(NamedTuple):
    """LISTEN: listen at `address`, and connect to `vm_port` of the guest for each connection."""

    port: int
    vm_port: int
    backlog: int
    address: Address


class Accept(NamedTuple):
    """ACCEPT: say whether there is one more complete connection."""

    port: int
    flags: int


class Release(NamedTuple):
    """RELEASE: forget that socket."""

    port: int
    host_port: int


Request = Union[Create, Connect, GetName, SendToAddress, Listen, Accept, Release]


def parse(operation: int, payload: bytes) -> Request:
    """Parse a request. Raises MessageError for anything but exactly one request."""
    if operation == CREATE:
        return Create(*_fields("<IHH", payload))
    if operation == CONNECT:
        (port,), address = _with_address("<I", payload)
        return Connect(port, address)
    if operation == GETNAME:
        return GetName(*_fields("<III", payload))
    if operation == SENDTO_ADDR:
        (port,), address = _with_address("<I", payload)
        return SendToAddress(port, address)
    if operation == LISTEN:
        (port, vm_port, backlog), address = _with_address("<III", payload)
        return Listen(port, vm_port, backlog, address)
    if operation == ACCEPT:
        return Accept(*_fields("<Ii", payload))
    if operation == RELEASE:
        return Release(*_fields("<II", payload))
    raise MessageError(f"expected an operation from {CREATE} to {RELEASE} with a request, found {operation}")


def result(error: int) -> bytes:
    """Return the reply to CONNECT, LISTEN and ACCEPT; `error` is 0 or an errno of Linux."""
    return struct.pack("<i", -error)


def name(address: Address | None) -> bytes:
    """Return the reply to GETNAME; None says that there is no such socket."""
    packed = address.pack() if address is not None else b""
    error = 0 if address is not None else errno.EINVAL
    return struct.pack("<iI", -error, len(packed)) + packed.ljust(ADDRESS_SIZE, b"\0")


def _fields(form: str, payload: bytes) -> tuple[int, ...]:
    if len(payload) != struct.calcsize(form):
        raise MessageError(f"expected a request of {struct.calcsize(form)} bytes, found {len(payload)}")
    return struct.unpack(form, payload)


def _with_address(form: str, payload: bytes) -> tuple[tuple[int, ...], Address]:
    start = struct.calcsize(form) + 4
    if len(payload) != start + ADDRESS_SIZE:
        raise MessageError(f"expected a request of {start + ADDRESS_SIZE} bytes, found {len(payload)}")
    *numbers, length = struct.unpack_from(f"{form}I", payload)
    return tuple(numbers), _address(length, payload[start:])


def _address(length: int, field: bytes) -> Address:
    (family,) = struct.unpack_from("<H", field)
    sizes = {INET: 16, INET6: 28}
    if sizes.get(family) != length:
        raise MessageError(
            f"expected an address of IPv4 (16 bytes) or IPv6 (28), found family {family}, {length} bytes"
        )
    if any(field[length:]):
        raise MessageError("expected nothing but zeros behind the address, found memory of the guest's")
    (port,) = struct.unpack_from(">H", field, 2)
    if family == INET:
        return Address(socket.inet_ntop(socket.AF_INET, field[4:8]), port)
    (flow,) = struct.unpack_from(">I", field, 4)
    (scope,) = struct.unpack_from("<I", field, 24)
    return Address(socket.inet_ntop(socket.AF_INET6, field[8:24]), port, flow & 0xFFFFF, scope)
