"""The agent's host without vsock: virtio-serial ports, each led to the agent by `port-bridge.c` in the guest.

QEMU 7.2 saves no guest that has a vhost-user device, so a guest that is to be saved has ports in its place.
"""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path

from scripts.machine.packages import install_commands, install_packages

PORTS = 4
TIMEOUT = 300.0
"""Seconds until the guest must have answered at a port."""
_SOURCE = Path(__file__).with_name("port-bridge.c")


class Ports:
    """The ports of a guest: each takes one connection at a time."""

    def __init__(self, scratch: Path) -> None:
        """The sockets will be in the folder `scratch`."""
        self.paths = [str(scratch / f"port{number}") for number in range(1, PORTS + 1)]
        self._taken: dict[str, _Port] = {}

    @property
    def arguments(self) -> list[str]:
        """QEMU's arguments."""
        made = ["-device", f"virtio-serial-device,max_ports={PORTS + 1}"]
        for number, path in enumerate(self.paths, 1):
            made += ["-chardev", f"socket,id=port{number},path={path},server=on,wait=off"]
            made += ["-device", f"virtserialport,chardev=port{number},nr={number}"]
        return made

    def connect(self) -> socket.socket:
        """A connection through the port that was used the longest ago, once the guest has seen that it is a new one.

        Raises TimeoutError.
        """
        free = [path for path in self.paths if path not in self._taken or self._taken[path].fileno() < 0]
        path = next((path for path in free if path not in self._taken), None) or next(
            path for path in self._taken if path in free
        )
        end, patience = time.monotonic() + TIMEOUT, 2.0
        while True:
            port = _Port(socket.AF_UNIX)
            port.settimeout(patience)
            port.connect(path)
            try:
                if port.recv(1) == b"!":
                    port.settimeout(TIMEOUT)
                    break
            except TimeoutError as error:
                if time.monotonic() > end:
                    raise TimeoutError(f"the guest does not answer at {path}") from error
            port.close()
            patience *= 1.5
            time.sleep(0.3)
        self._taken.pop(path, None)
        self._taken[path] = port
        return port


class _Port(socket.socket):
    """A connection through a port, which has no half close: who is done closes."""

    def shutdown(self, how: int) -> None:
        raise OSError("a port has no half close")


def agent_with_ports(agent: Path, scratch: Path) -> bytes:
    """The program to start in place of `agent`: it serves the ports and becomes the agent. Raises SetupError."""
    install_commands(["aarch64-linux-gnu-gcc"])
    if not Path("/usr/aarch64-linux-gnu/lib/libc.a").exists():
        install_packages(["libc6-dev-arm64-cross"])
    program = scratch / "agent-with-ports"
    gcc = ["aarch64-linux-gnu-gcc", "-std=gnu11", "-Os", "-Wall", "-Wextra", "-Werror", "-static", "-s"]
    subprocess.run([*gcc, f'-DAGENT="{agent}"', str(_SOURCE), "-o", str(program)], check=True)
    return program.read_bytes()
