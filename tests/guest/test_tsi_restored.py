"""AF_TSI in a guest that is parked through the agent, and finds a host that knows nothing of it when it goes on.

QEMU saves no guest that has a vhost-user device, and AF_TSI needs one. So QEMU does not end here: the device does. It
loses every stream and socket while the guest stands still, begins anew, and sends the event that a restored guest gets.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
import threading
from pathlib import Path
from typing import NamedTuple

import pytest

from scripts.guest import qemu
from scripts.guest.agent import Agent
from scripts.guest.behaviour import LIBKRUN
from scripts.guest.device import Device
from scripts.guest.monitor import Monitor, MonitorError
from scripts.guest.tsi import Host
from tests.support import guest, transport_reset
from tests.support.guest import Container, assert_ended_well, configuration, said
from tests.support.native_agent import wait_until
from tests.support.tsi_host import Servers

pytestmark = pytest.mark.slow

CASE = "transport_that_is_reset"
"""In tests/guest/tsi/faults.c: two streams, one of them waiting in recv, and a listener."""


class Rebuilt(NamedTuple):
    """A host that can forget all it knows, and QEMU's monitor."""

    device: Device
    host: Host
    agent: Agent
    qmp: Path

    def restore(self) -> None:
        """What a host does from PARK to UNPARK, as far as the guest sees it."""
        self.agent.park()
        with Monitor(self.qmp) as monitor:
            monitor("stop")
            assert_cannot_be_saved(monitor)
            wait_until(lambda: not self.device.link.streams and not self.host.sockets)
            monitor("cont")
        transport_reset.reset_transport(self.device, self.qmp)
        wait_until(self.is_told)
        assert self.agent.status().parked == 1
        self.agent.unpark()

    def is_told(self) -> bool:
        """Whether RESTORED came through: a connection from before the guest has seen the event is reset."""
        with contextlib.suppress(ConnectionError):
            self.agent.restored()
            return True
        return False


def assert_cannot_be_saved(monitor: Monitor) -> None:
    """Once a QEMU can, this test must end it and restore the guest in a new one."""
    with pytest.raises(MonitorError, match=r"non-migratable device .*vhost-user-vsock"):
        monitor.migrate("exec:cat > /dev/null")


def test_streams_are_told_broken_and_listeners_are_announced_again(built_set: Path, tmp_path: Path) -> None:
    container = Container()
    container.file("bin/cases", guest.compile_guest_program("tsi/*.c", tmp_path), 0o755)
    asked = threading.Event()

    def act(name: str) -> None:
        if name == "transport":
            asked.set()

    with tempfile.TemporaryDirectory(prefix="qmp-") as folder, Device(LIBKRUN) as device:
        host, qmp = Host(device.link), Path(folder, "socket")
        rebuilt = Rebuilt(device, host, Agent(lambda: device.connect(777, timeout=120)), qmp)
        with Servers(lambda port: host.wait_for_listener(port, 60), act) as servers:
            config = configuration("cases", *servers.arguments, CASE)
            line, extra = f"{qemu.COMMAND_LINE} tsi_hijack", transport_reset.arguments(qmp)
            with guest.running(
                built_set, tmp_path, config, container, cpus=4, vsock=device, command_line=line, extra=extra
            ) as machine:
                assert asked.wait(guest.LIMIT)
                rebuilt.restore()
                seen = machine.wait(guest.LIMIT)
        assert device.complaints == []
    assert_ended_well(seen)
    assert said(seen, f"case {CASE}: ") == ["ok"]
    assert not re.search(r"WARNING|BUG|Oops|Call trace|rcu:.*stall", seen.text)
