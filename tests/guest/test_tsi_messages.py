"""The control messages of AF_TSI as bytes, and a host that is sent any."""

from __future__ import annotations

import errno
import ipaddress
import os
import resource
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.guest import packet, tsi_messages
from scripts.guest.packet import HOST_CID, Header
from scripts.guest.tsi import Host
from scripts.guest.tsi_messages import (
    Accept,
    Address,
    Connect,
    Create,
    GetName,
    Listen,
    MessageError,
    Release,
    SendToAddress,
    parse,
)
from tests.guest.test_virtqueue import CID, Guest

IPV4 = bytes.fromhex("0200 1f90 7f000001 0000000000000000")
IPV6 = bytes.fromhex("0a00 1f90 00000000 00000000000000000000000000000001 02000000")
DATA, CONTROL = 0x1234, 0x4321
HERE = Address("127.0.0.1", 8080)


def field(sockaddr: bytes) -> bytes:
    return struct.pack("<I", len(sockaddr)) + sockaddr.ljust(128, b"\0")


@pytest.mark.parametrize(
    ("operation", "payload", "request_"),
    [
        (1024, struct.pack("<IHH", DATA, 10, 2), Create(DATA, 10, 2)),
        (1025, struct.pack("<I", DATA) + field(IPV4), Connect(DATA, HERE)),
        (1025, struct.pack("<I", DATA) + field(IPV6), Connect(DATA, Address("::1", 8080, 0, 2))),
        (1026, struct.pack("<III", DATA, 620, 1), GetName(DATA, 620, 1)),
        (1027, struct.pack("<I", DATA) + field(IPV4), SendToAddress(DATA, HERE)),
        (1029, struct.pack("<III", DATA, 77, 128) + field(IPV4), Listen(DATA, 77, 128, HERE)),
        (1030, struct.pack("<Ii", DATA, 0x802), Accept(DATA, 0x802)),
        (1031, struct.pack("<II", DATA, 620), Release(DATA, 620)),
    ],
)
def test_a_request_is_parsed_at_its_exact_length_only(
    operation: int, payload: bytes, request_: tsi_messages.Request
) -> None:
    assert parse(operation, payload) == request_
    for wrong in (payload[:-1], payload + b"\0", b""):
        with pytest.raises(MessageError, match=f"of {len(payload)} bytes, found {len(wrong)}"):
            parse(operation, wrong)


@pytest.mark.parametrize(
    ("length", "sockaddr", "message"),
    [
        (16, IPV4.ljust(127, b"\0") + b"x", "expected nothing but zeros behind the address"),
        (15, IPV4, "found family 2, 15 bytes"),
        (28, IPV4, "found family 2, 28 bytes"),
        (110, b"\1\0/socket", "found family 1, 110 bytes"),
        (0xFFFFFFFF, IPV6, "found family 10, 4294967295 bytes"),
    ],
)
def test_address_that_is_none(length: int, sockaddr: bytes, message: str) -> None:
    with pytest.raises(MessageError, match=message):
        parse(1025, struct.pack("<II", DATA, length) + sockaddr.ljust(128, b"\0"))


@given(st.ip_addresses(), st.integers(0, 65535), st.integers(0, 0xFFFFF), st.integers(0, 2**32 - 1))
def test_addresses_come_back(
    host: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int, flow: int, scope: int
) -> None:
    if host.version == 6:
        address = Address(socket.inet_ntop(socket.AF_INET6, host.packed), port, flow, scope)
    else:
        address = Address(str(host), port)
    assert parse(1027, struct.pack("<I", DATA) + field(address.pack())) == SendToAddress(DATA, address)
    assert tsi_messages.name(address) == struct.pack("<i", 0) + field(address.pack())


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.255.0.9", True),
        ("0.0.0.0", True),
        ("::", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("::ffff:10.0.0.1", False),
        ("10.0.0.1", False),
        ("128.0.0.1", False),
        ("fe80::1", False),
    ],
)
def test_loopback_and_unspecified_addresses_mean_this_machine(host: str, loopback: bool) -> None:
    assert Address(host, 1).is_loopback is loopback


def test_replies_are_packed_as_specified() -> None:
    assert tsi_messages.result(0) == b"\0\0\0\0"
    assert tsi_messages.result(errno.ECONNREFUSED) == b"\x91\xff\xff\xff"
    assert tsi_messages.name(None) == struct.pack("<i", -errno.EINVAL) + bytes(132)


@given(st.integers(0, 2000), st.binary(max_size=200))
def test_any_bytes_are_a_request_or_an_error(operation: int, payload: bytes) -> None:
    with suppress(MessageError):
        parse(operation, payload)


PORTS = st.sampled_from([DATA, DATA + 1, 620, 0])
SOCKADDRS = st.sampled_from([IPV4, IPV6, IPV4[:2] + b"\0\0" + IPV4[4:], b"", IPV4[:4] + b"\x0a\0\0\1" + bytes(8)])
PAYLOADS = st.one_of(
    st.binary(max_size=200),
    st.builds(
        lambda port, more: struct.pack("<IHH", port, *more), PORTS, st.sampled_from([(2, 1), (10, 2), (2, 2), (1, 7)])
    ),
    st.builds(lambda port, sockaddr: struct.pack("<I", port) + field(sockaddr), PORTS, SOCKADDRS),
    st.builds(lambda port, sockaddr: struct.pack("<III", port, port, 9) + field(sockaddr), PORTS, SOCKADDRS),
    st.builds(lambda port, other: struct.pack("<II", port, other), PORTS, PORTS),
    st.builds(lambda port, other: struct.pack("<III", port, other, 1), PORTS, PORTS),
)


@pytest.mark.slow
@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.integers(1024, 1031) | st.integers(0, 2000), PORTS, PAYLOADS), max_size=10))
def test_any_datagrams_are_borne_by_the_host(datagrams: list[tuple[int, int, bytes]]) -> None:
    with closing(Guest()) as guest:
        host = Host(guest.link)
        guest.rx.receive_into([300] * 200)
        for port, source, payload in datagrams:
            sent = Header(CID, HOST_CID, source, port, len(payload), packet.DATAGRAM, packet.RW, 0, 0, 0)
            guest.tx.send(sent.pack(), payload)
            guest.run()
        assert len(host.sockets) <= 4


def test_socket_that_connects_is_told_and_forgotten() -> None:
    """CREATE, CONNECT, GETNAME, the stream, RELEASE, byte by byte."""
    with closing(Guest()) as guest, socket.create_server(("127.0.0.1", 0)) as server:
        host = Host(guest.link)
        here = Address("127.0.0.1", server.getsockname()[1])
        guest.rx.receive_into([300] * 20)

        def say(operation: int, payload: bytes) -> list[bytes]:
            sent = Header(CID, HOST_CID, CONTROL, operation, len(payload), packet.DATAGRAM, packet.RW, 0, 0, 0)
            guest.tx.send(sent.pack(), payload)
            guest.run()
            guest.run()
            replies = guest.rx.used()
            for reply in replies:
                header = Header.unpack(reply)
                assert header == Header(HOST_CID, CID, operation, CONTROL, len(reply) - 44, 3, packet.RW, 0, 0, 0)
            return [reply[44:] for reply in replies]

        assert say(1025, struct.pack("<I", DATA) + field(here.pack())) == [struct.pack("<i", -errno.ECONNREFUSED)]
        assert say(1024, struct.pack("<IHH", DATA, 2, 1)) == []
        assert say(1025, struct.pack("<I", DATA) + field(here.pack())) == [struct.pack("<i", 0)]
        assert say(1026, struct.pack("<III", DATA, 620, 1)) == [struct.pack("<i", 0) + field(here.pack())]
        assert say(1026, struct.pack("<III", DATA, 621, 1)) == [struct.pack("<i", -errno.EINVAL) + bytes(132)]
        guest.tx.send(Header(CID, HOST_CID, DATA, 620, 0, 1, packet.REQUEST, 0, 1 << 18, 0).pack())
        guest.run()
        assert [Header.unpack(reply).op for reply in guest.rx.used()] == [packet.RESPONSE]
        assert say(1031, struct.pack("<II", DATA, 620)) == []
        assert host.sockets == {}
        assert guest.link.complaints == []


@contextmanager
def without_descriptors() -> Iterator[None]:
    """This process has no file descriptor left, as when a process in the guest has opened as many sockets."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_more_sockets_than_this_machine_gives_end_nobody_elses() -> None:
    """The device ended, and with it the network of the whole guest."""
    with closing(Guest()) as guest:
        host = Host(guest.link)
        for number in (0, 1):
            payload = struct.pack("<IHH", DATA + number, 2, 1)
            sent = Header(CID, HOST_CID, CONTROL, 1024, len(payload), packet.DATAGRAM, packet.RW, 0, 0, 0)
            guest.tx.send(sent.pack(), payload)
            if number:
                guest.run()
                assert [*host.sockets] == [DATA, DATA + 1]
            else:
                with without_descriptors():
                    guest.run()
                assert guest.link.complaints == [
                    "AF_TSI: a socket that this machine does not give: Too many open files"
                ]
                guest.tx.send(sent.pack(), payload)
                guest.run()


def test_a_connection_that_this_machine_cannot_accept_yet_is_accepted_later() -> None:
    with closing(Guest()) as guest, socket.socket() as caller:
        host = Host(guest.link)
        guest.rx.receive_into([300] * 20)
        create, listen = struct.pack("<IHH", DATA, 2, 1), struct.pack("<III", DATA, 77, 9) + field(IPV4)
        for operation, payload in ((1024, create), (1029, listen)):
            sent = Header(CID, HOST_CID, CONTROL, operation, len(payload), packet.DATAGRAM, packet.RW, 0, 0, 0)
            guest.tx.send(sent.pack(), payload)
            guest.run()
        guest.rx.used()
        caller.connect(host.wait_for_listener(HERE.port, 0))
        with without_descriptors():
            guest.run()
        end = time.monotonic() + 30
        while not (replies := guest.rx.used()) and time.monotonic() < end:
            guest.run()
        assert [Header.unpack(reply).op for reply in replies] == [packet.REQUEST]
