"""AF_TSI with a host that misbehaves, and with none; the cases are the faults in tests/guest/tsi/."""

from __future__ import annotations

import errno
import functools
import random
import re
import socket
import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from scripts.guest import packet, qemu, tsi_messages
from scripts.guest.device import GUEST_CID, Device
from scripts.guest.packet import HOST_CID, Header
from scripts.guest.tsi import Host
from scripts.guest.tsi_messages import CONNECT, GETNAME, LISTEN
from tests.guest.test_tsi import DEBUGGED, SOURCES
from tests.support import guest, transport_reset
from tests.support.guest import Container, assert_ended_well, configuration, said
from tests.support.native_agent import wait_until
from tests.support.tsi_host import Servers

pytestmark = pytest.mark.slow

LIMIT = 400.0
FAULTS = [name for source in SOURCES for name in re.findall(r"^FAULT\((\w+)\)", source.read_text(), re.MULTILINE)]
REFUSALS = ("EPERM", "EADDRINUSE", "EAFNOSUPPORT", "EACCES")
SEED = 20261125


class BadHost:
    """A host and the fault it has at the moment."""

    def __init__(self, device: Device, qmp: Path) -> None:
        self.device, self.qmp, self.fault = device, qmp, "none"
        self.host = Host(device.link, on_reply=self.reply)
        self.random = random.Random(SEED)
        self.refusals = 0

    def act(self, fault: str) -> None:
        """For the servers' thread."""
        if fault.startswith("transport"):
            self.refusals = 2 if "in use for a while" in fault else 0
            self.device.call(self.forget_all)
            transport_reset.reset_transport(self.device, self.qmp)
        elif fault == "wait until nothing is accepted":
            wait_until(lambda: not self.host.accepted)
        elif fault in ("packets", "reset streams", "stranger"):
            self.device.call(getattr(self, fault.replace(" ", "_")))
        else:
            self.fault = fault

    def forget_all(self) -> None:
        """As a host that knows nothing of a guest that was restored."""
        self.device.link.close_streams()

    def reply(self, port: int, operation: int, request: tsi_messages.Request, reply: bytes) -> list[bytes]:
        """What is sent in place of `reply`."""
        name = operation == GETNAME
        family = struct.pack("<iI", 0, 16) + b"\1\0".ljust(128, b"x")
        length = struct.pack("<iI", 0, 0xFFFFFFFF) + reply[8:]
        faults = {
            "silent": [],
            "short": [reply[:2]],
            "empty": [b""],
            "positive": [struct.pack("<i", 1)],
            "out of range": [struct.pack("<i", -70000)],
            "twice": [reply, reply],
            "lie": [tsi_messages.result(0) if operation == CONNECT else reply],
            "junk": [self.random.randbytes(3732)],
            "nameless": [tsi_messages.name(None) if name else reply],
            "family": [family if name else reply],
            "length": [length if name else reply],
        }
        if operation == LISTEN and (refused := self.refused(request)):
            return [tsi_messages.result(refused)]
        if self.fault in ("EINPROGRESS", "ECONNRESET") and operation == CONNECT:
            return [tsi_messages.result(getattr(errno, self.fault))]
        if self.fault == "late":
            self.device.link.loop.call_later(1, self.host.send_reply, port, operation, reply)
            return []
        return faults.get(self.fault, [reply])

    def refused(self, request: tsi_messages.Request) -> int:
        """Why this host does not listen, as an errno; 0: it does."""
        assert isinstance(request, tsi_messages.Listen)
        name, _, family = self.fault.partition(" of ")
        if self.refusals:
            self.refusals, error = self.refusals - 1, errno.EADDRINUSE
        elif name in REFUSALS and (not family or request.address.family == socket.AF_INET6):
            error = getattr(errno, name)
        else:
            return 0
        self.host.forget(request.port)
        return error

    def stranger(self) -> None:
        """Ask for a stream to each listener of the guest's, for no connection."""
        for port, found in self.host.sockets.items():
            if found.listeners:
                self.inject(Header(HOST_CID, GUEST_CID, 4000, port, 0, 1, packet.REQUEST, 0, 1 << 16, 0))

    def reset_streams(self) -> None:
        """Reset all but the one over which the guest asks for it, which is the last."""
        for stream in list(self.device.link.streams.values())[:-1]:
            stream.reset()

    def packets(self) -> None:
        """Any packets: some of them nearly right."""
        choose = self.random.choice
        keys = [*self.device.link.streams, (620, 1), *((620, port) for port in self.host.sockets)]
        for _ in range(300):
            host_port, port = choose(keys)
            payload = self.random.randbytes(choose([0, 0, 4, 136, 3000]))
            self.inject(
                Header(
                    choose([HOST_CID, HOST_CID, GUEST_CID, self.random.getrandbits(64)]),
                    choose([GUEST_CID, GUEST_CID, HOST_CID, self.random.getrandbits(64)]),
                    choose([host_port, *range(1023, 1033), self.random.getrandbits(32)]),
                    choose([port, port, port + 1, port - 1, self.random.getrandbits(32)]) & 0xFFFFFFFF,
                    choose([len(payload), len(payload), 0, 0xFFFFFFFF, 5000]),
                    choose([1, 1, 1, 3, 3, 2, self.random.getrandbits(16)]),
                    choose([*range(9), self.random.getrandbits(16)]),
                    choose([0, 1, 2, 3, self.random.getrandbits(32)]),
                    choose([0, 1 << 16, 0xFFFFFFFF, self.random.getrandbits(32)]),
                    choose([0, 1, 0xFFFFFFFF, self.random.getrandbits(32)]),
                ),
                payload,
            )

    def inject(self, header: Header, payload: bytes = b"") -> None:
        """Send it as it is."""
        self.device.link.send(header, payload)


@pytest.fixture(scope="module")
def seen(built_set: Path, tmp_path_factory: pytest.TempPathFactory) -> qemu.Boot:
    """One boot in which all faults occur."""
    return run_faults(built_set, tmp_path_factory.mktemp("faults"))


def run_faults(assets: Path, scratch: Path, *before: str, memory: str = qemu.MEMORY, limit: float = LIMIT) -> qemu.Boot:
    """Boot a guest of `assets` that runs all faults; `before` are the words before theirs on its command line."""
    with tempfile.TemporaryDirectory(prefix="qmp-") as folder, Device() as device:  # a socket's path must be short
        bad = BadHost(device, Path(folder, "socket"))
        with Servers(functools.partial(bad.host.wait_for_listener, timeout=20), bad.act) as servers:
            arguments = [*servers.arguments, *FAULTS]
            extra = transport_reset.arguments(bad.qmp)
            return run(assets, scratch, device, arguments, extra, before=before, memory=memory, limit=limit)


def run(
    built_set: Path,
    scratch: Path,
    device: Device | None,
    arguments: list[str],
    extra: list[str] | None = None,
    switch: str = " tsi_hijack",
    before: Sequence[str] = (),
    memory: str = qemu.MEMORY,
    limit: float = LIMIT,
) -> qemu.Boot:
    container = Container()
    container.file("bin/cases", guest.compile_guest_program("tsi/*.c", scratch), 0o755)
    container.file("bin/debugged", DEBUGGED, 0o755)
    line = qemu.COMMAND_LINE + switch
    config = configuration(*before, "cases", *arguments)
    with guest.running(
        built_set, scratch, config, container, vsock=device, memory=memory, command_line=line, extra=extra or []
    ) as machine:
        return machine.wait(limit)


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_borne(seen: qemu.Boot, fault: str) -> None:
    assert said(seen, f"case {fault}: ") == ["ok"]


def test_the_guest_powers_off_without_a_warning(seen: qemu.Boot) -> None:
    assert_ended_well(seen)
    assert not re.search(r"WARNING|BUG|Oops|Call trace|rcu:.*stall", seen.text)


@pytest.mark.parametrize("switch", [" tsi_hijack=0", ""])
def test_switched_off_nothing_connects(built_set: Path, tmp_path: Path, switch: str) -> None:
    """The negative control, also where nothing is said and the device does not offer datagrams."""
    with Device() as device:
        host = Host(device.link)
        with Servers(lambda port: host.wait_for_listener(port, 1)) as servers:
            seen = run(built_set, tmp_path, device, [*servers.arguments, *OUTSIDE, *INSIDE], switch=switch)
        assert device.complaints == []
    assert_ended_well(seen)
    assert all(said(seen, f"case {case}: ") != ["ok"] for case in OUTSIDE)
    assert [said(seen, f"case {case}: ") for case in INSIDE] == [["ok"]] * len(INSIDE)


OUTSIDE = ["connect_ipv4", "connect_ipv6", "accept_ipv4", "datagram_and_its_answer", "connected_datagrams"]
INSIDE = ["connect_to_nobody_is_refused", "shutdown_before_connect", "datagram_server_in_the_guest_is_woken"]


def test_no_device_and_switched_on(built_set: Path, tmp_path: Path) -> None:
    """INET within the guest is what it always was."""
    seen = run(built_set, tmp_path, None, ["1", "2", "3", "4", "5", *OUTSIDE, *INSIDE])
    assert_ended_well(seen)
    assert all(said(seen, f"case {case}: ") != ["ok"] for case in OUTSIDE)
    assert [said(seen, f"case {case}: ") for case in INSIDE] == [["ok"]] * len(INSIDE)


@pytest.mark.parametrize(
    ("switch", "addresses"), [("", ["127.0.0.1/8"]), (" tsi_hijack", ["127.0.0.1/8", "203.0.113.1/32"])]
)
def test_guest_has_no_network_device(built_set: Path, tmp_path: Path, switch: str, addresses: list[str]) -> None:
    """Nothing but loopback and the dummy that the kernel always makes. No route leads through that."""
    script = "echo devices: $(ls /sys/class/net); ip -4 -o address | sed 's/.* inet \\([^ ]*\\).*/address: \\1/'"
    script += "; ip route | sed 's/^/route: /'"
    seen = guest.boot(
        built_set, tmp_path, configuration("sh", "-c", script), Container(), command_line=qemu.COMMAND_LINE + switch
    )
    assert said(seen, "devices: ") == ["dummy0 lo"]
    assert said(seen, "address: ") == addresses
    assert said(seen, "route: ") == []
