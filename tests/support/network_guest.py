"""A guest with programs of Debian's packages, which has nothing but AF_TSI for a network; its agent runs commands."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from scripts.guest import qemu
from scripts.guest.agent import Agent
from scripts.guest.behaviour import STANDARD, Behaviour
from scripts.guest.debian_root import debian_root
from scripts.guest.device import Device
from scripts.guest.tsi import Host
from tests.support import guest

FOUND = 200.0
"""Seconds after which a server of the guest must listen."""


class NetworkGuest(NamedTuple):
    """`host` finds the guest's listeners; `redirects` of it lead the guest's ports to others here."""

    machine: qemu.Machine
    device: Device
    host: Host
    agent: Agent

    def run(self, script: str, timeout: float = 120.0) -> str:
        """What a shell in the guest prints; it must end with status 0."""
        done = self.agent.exec("sh", "-c", f"exec 2>&1\n{script}", timeout=timeout)
        output = done.stdout.decode("utf-8", "replace")
        assert done.status == (0, 0), f"status {done.status}:\n{script}\n{output}"
        return output

    def start(self, script: str, port: int) -> str:
        """Start a server that stays, and say where its port is found here, as HOST:PORT."""
        self.agent.exec("sh", "-c", f"({script}) > /tmp/log.{port} 2>&1 < /dev/null &")
        try:
            host, found = self.host.wait_for_listener(port, FOUND)
        except TimeoutError as error:
            raise AssertionError(f"{error}:\n{self.run(f'cat /tmp/log.{port}')}") from error
        return f"[{host}]:{found}" if ":" in host else f"{host}:{found}"


@contextlib.contextmanager
def network_guest(
    built_set: Path,
    scratch: Path,
    packages: Sequence[str],
    files: dict[str, str] | None = None,
    behaviour: Behaviour = STANDARD,
    memory: str = "1G",
) -> Iterator[NetworkGuest]:
    """A guest that runs until the end of the context, and then powers off in good order."""
    root = debian_root(packages, files)
    device = Device(behaviour)
    host = Host(device.link)
    config = guest.configuration("sleep", "1000000", lower="/dev/vda")
    line, disk = f"{qemu.COMMAND_LINE} tsi_hijack", qemu.root_disk(root)
    with (
        device,
        guest.running(
            built_set, scratch, config, vsock=device, memory=memory, command_line=line, extra=disk
        ) as machine,
    ):
        machine.wait_for("listening on vsock port 777", guest.LIMIT)
        agent = Agent(lambda: device.connect(777))
        yield NetworkGuest(machine, device, host, agent)
        agent.power_off()
        seen = guest.ended(machine)
    assert device.complaints == []
    guest.assert_ended_well(seen)
    assert "Call trace" not in seen.text
