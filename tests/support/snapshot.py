"""Guests that are saved, ended, and restored in a new QEMU: the machine's monitor, and one guest from a file.

QEMU saves no guest that has a vhost-user device, so the host has virtio-serial ports in place of vsock here, and
tests/guest/port-bridge.c leads each of them to the agent over vsock loopback. For the same reason what goes to the
host by TCP goes through virtio-net and QEMU's user network, not by AF_TSI.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import socketserver
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from scripts.guest import qemu
from scripts.guest.agent import Agent
from scripts.machine.packages import install_commands
from tests.support import debian, guest
from tests.support.guest import Container, configuration

WORKLOAD = "port-bridge & exec snapshot-load run /data $(cat /etc/echo-port)"
PORTS = 4
TIMEOUT = 300.0


class Monitor:
    """QEMU's machine protocol (QMP), on a Unix socket."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(TIMEOUT)
        end = time.monotonic() + TIMEOUT
        while True:
            try:
                self._socket.connect(str(path))
                break
            except (FileNotFoundError, ConnectionRefusedError):
                assert time.monotonic() < end
                time.sleep(0.02)
        self._stream = self._socket.makefile("rw")
        self._stream.readline()
        self("qmp_capabilities")

    def __call__(self, command: str, **arguments: Any) -> Any:
        """Run a command. Raises AssertionError with QEMU's word if it fails."""
        self._stream.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._stream.flush()
        while True:
            answer = json.loads(self._stream.readline())
            assert "error" not in answer, answer
            if "return" in answer:
                return answer["return"]

    def human(self, line: str) -> str:
        """A line of the human monitor, and what it says."""
        return str(self("human-monitor-command", **{"command-line": line}))

    def close(self) -> None:
        self._stream.close()
        self._socket.close()


class Port(socket.socket):
    """A connection through a port, which has no half close: who is done closes."""

    def shutdown(self, how: int) -> None:
        raise OSError("a port has no half close")


class Ports:
    """The ports of a guest: each takes one connection at a time."""

    def __init__(self, scratch: Path) -> None:
        self.paths = [str(scratch / f"port{number}") for number in range(1, PORTS + 1)]
        self._taken: dict[str, Port] = {}

    @property
    def arguments(self) -> list[str]:
        """QEMU's arguments."""
        made = ["-device", f"virtio-serial-device,max_ports={PORTS + 1}"]
        for number, path in enumerate(self.paths, 1):
            made += ["-chardev", f"socket,id=port{number},path={path},server=on,wait=off"]
            made += ["-device", f"virtserialport,chardev=port{number},nr={number}"]
        return made

    def connect(self) -> socket.socket:
        """A connection through the port that was used the longest ago, once the guest has seen that it is a new one."""
        free = [path for path in self.paths if path not in self._taken or self._taken[path].fileno() < 0]
        path = next((path for path in free if path not in self._taken), None) or next(
            path for path in self._taken if path in free
        )
        end, patience = time.monotonic() + TIMEOUT, 2.0
        while True:
            port = Port(socket.AF_UNIX)
            port.settimeout(patience)
            port.connect(path)
            try:
                if port.recv(1) == b"!":
                    port.settimeout(TIMEOUT)
                    break
            except TimeoutError:
                assert time.monotonic() < end, f"{path}: the guest does not answer"
            port.close()
            patience *= 1.5
            time.sleep(0.3)
        self._taken.pop(path, None)
        self._taken[path] = port
        return port


class Guest(NamedTuple):
    """A guest that runs."""

    machine: qemu.Machine
    agent: Agent
    monitor: Monitor

    def save(self, path: Path, kind: str) -> None:
        """Park through the agent, save ("migrate" to the file, or "savevm" into the disk), and end QEMU."""
        self.agent.park()
        self.monitor("stop")
        if kind == "migrate":
            self.monitor("migrate", uri=f"exec:cat > {path}")
            while (status := self.monitor("query-migrate")["status"]) != "completed":
                assert status in ("setup", "active", "device"), status
                time.sleep(0.05)
        else:
            said = self.monitor.human("savevm parked")
            assert not said, said
        self.monitor("quit")
        self.machine.wait(TIMEOUT)

    def registers(self) -> list[str]:
        """What each CPU has in its registers, while the machine stands still."""
        return re.split(r"(?m)^CPU#\d+\n", self.monitor.human("info registers -a").replace("\r", ""))[1:]


def make_disk(scratch: Path) -> Path:
    """An empty ext4 file system in a qcow2 image."""
    install_commands(["mkfs.ext4", "qemu-img"])
    raw, disk = scratch / "disk.raw", scratch / "disk.qcow2"
    subprocess.run(["mkfs.ext4", "-q", str(raw), "32m"], check=True)
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", str(raw), str(disk)], check=True)
    return disk


class Echo(socketserver.BaseRequestHandler):
    """Sends back what comes, until the guest's QEMU ends."""

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            while data := self.request.recv(4096):
                self.request.sendall(data)


@contextlib.contextmanager
def echo_server() -> Iterator[int]:
    """A server on this machine's loopback; its port."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def container(scratch: Path, echo_port: int) -> Container:
    """What lies over Debian's sqlite3: the work that snapshots interrupt, and where its echo is."""
    made = Container()
    made.file("etc/echo-port", str(echo_port))
    for program in ("snapshot-load", "port-bridge"):
        made.file(f"bin/{program}", guest.compile_guest_program(f"{program}.c", scratch), 0o755)
    return made


@contextlib.contextmanager
def running(
    assets: Path, scratch: Path, image: Container, disk: Path, cpus: int, saved: Path | None = None, kind: str = ""
) -> Iterator[Guest]:
    """A guest that boots, or goes on from what was saved; it stands still then until the monitor's `cont`."""
    monitor = scratch / "monitor"
    extra = ["-qmp", f"unix:{monitor},server=on,wait=off"]
    extra += [*guest.disks(debian.image("sqlite3")), "-drive", f"file={disk},format=qcow2,if=none,id=data"]
    extra += ["-device", "virtio-blk-device,drive=data"]
    extra += ["-netdev", "user,id=network", "-device", "virtio-net-device,netdev=network"]
    if saved is not None:
        extra += ["-S", "-incoming", f"exec:cat {saved}"] if kind == "migrate" else ["-S", "-loadvm", "parked"]
    config = configuration(
        "sh",
        "-c",
        WORKLOAD,
        lower=["/dev/vdb", "/container"],
        mount="/dev/vda:/data",
        address="eth0=10.0.2.15/24",
    )
    ports = Ports(scratch)
    for path in (monitor, *map(Path, ports.paths)):
        path.unlink(missing_ok=True)
    with guest.running(assets, scratch, config, image, cpus=cpus, extra=[*extra, *ports.arguments]) as machine:
        connected = Monitor(monitor)
        try:
            while connected("query-status")["status"] == "inmigrate":
                time.sleep(0.02)
            yield Guest(machine, Agent(ports.connect), connected)
        finally:
            connected.close()
