"""A storm of datagrams between a guest and a server here, counted on both sides of the guest's device."""

from __future__ import annotations

import re
from typing import NamedTuple

from scripts.guest import packet
from scripts.guest.packet import Header
from tests.support.network_guest import NetworkGuest
from tests.support.tsi_host import Servers

_CONTROL = range(1024, 1032)


class Storm(NamedTuple):
    """How many datagrams the guest's program sent and received, and its kernel counted as dropped."""

    sent: int
    received: int
    dropped: int


def storm(booted: NetworkGuest, servers: Servers, number: int) -> Storm:
    """Have /tmp/load send so many; nothing may be lost between the program and the device uncounted."""
    link = booted.device.link
    seen = given = 0
    take, fill = link.on_datagram, link.fill

    def counted_take(source: int, port: int, payload: bytes) -> None:
        nonlocal seen
        seen += port not in _CONTROL
        take(source, port, payload)

    def counted_fill(header: Header) -> None:
        nonlocal given
        given += header.type == packet.DATAGRAM
        fill(header)

    link.on_datagram, link.fill = counted_take, counted_fill  # type: ignore[method-assign]
    try:
        said = booted.run(f"/tmp/load storm {servers.udp_port} {number}", timeout=900)
    finally:
        link.on_datagram, link.fill = take, fill  # type: ignore[method-assign]
    match = re.fullmatch(r"sent (\d+) received (\d+) dropped (\d+)\n", said)
    assert match, said
    found = Storm(*map(int, match.groups()))
    assert found.sent == seen == number, f"{found}, and the device saw {seen}"
    assert found.received + found.dropped == given, f"{found}, and the device gave {given}"
    assert found.received > 0
    return found
