"""Guests that are saved, ended, and restored in a new QEMU: the machine's monitor, and one guest from a file.

QEMU saves no guest that has a vhost-user device, so the host has virtio-serial ports in place of vsock here. For
the same reason what goes to the host by TCP goes through virtio-net and QEMU's user network; what AF_TSI
does is tested in test_tsi_restored.py.
"""

from __future__ import annotations

import contextlib
import re
import socketserver
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from scripts.guest import qemu
from scripts.guest.agent import Agent
from scripts.guest.monitor import Monitor
from scripts.guest.ports import Ports, agent_with_ports
from scripts.machine.packages import install_commands
from tests.support import debian, guest
from tests.support.guest import Container, configuration
from tests.support.native_agent import wait_until

WORKLOAD = "exec snapshot-load run /data $(cat /etc/echo-port)"
TIMEOUT = 300.0


class Guest(NamedTuple):
    """A guest that runs."""

    machine: qemu.Machine
    agent: Agent
    monitor: Monitor

    def save(self, path: Path, kind: str) -> None:
        """Park through the agent, save ("migrate" to the file, or "savevm" into the disk), and end QEMU."""
        self.agent.park()
        self.monitor("stop")
        self.save_parked(path, kind)

    def save_parked(self, path: Path, kind: str) -> None:
        """Save a guest that is parked and stands still, and end QEMU."""
        if kind == "migrate":
            self.monitor.migrate(f"exec:cat > {path}")
        else:
            said = self.monitor.human("savevm parked")
            assert not said, said
        self.monitor("quit")
        self.machine.wait(TIMEOUT)

    def registers(self) -> list[str]:
        """What each CPU has in its registers, while the machine stands still."""
        return re.split(r"(?m)^CPU#\d+\n", self.monitor.human("info registers -a").replace("\r", ""))[1:]


def registers_later(running: Guest) -> list[str]:
    """Those of the parked CPUs, after a while. The guest stands still then."""
    running.monitor("cont")
    time.sleep(0.3)
    running.monitor("stop")
    return running.registers()[1:]


def registers_at_rest(running: Guest) -> list[str]:
    """Those at two looks in a row: a CPU that just answers an interrupt has others."""
    looks = [registers_later(running), registers_later(running)]
    while looks[-1] != looks[-2]:
        assert len(looks) < 100
        looks.append(registers_later(running))
    return looks[-1]


def wait_for_load(running: Guest) -> None:
    """Wait until the work has begun."""
    running.machine.wait_for("listening on vsock port 777", guest.LIMIT)
    wait_until(lambda: running.agent.exec("snapshot-load", "check").status == (0, 0), guest.LIMIT)


def assert_goes_on(running: Guest) -> None:
    """Every counter moves, and nothing went wrong: CPUs, timers, TCP, memory, a disk with fsync, a database."""
    done = running.agent.exec("snapshot-load", "check", timeout=guest.LIMIT)
    assert (done.stdout, done.status) == (b"", (0, 0))


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
    made.file("bin/snapshot-load", guest.compile_guest_program("snapshot-load.c", scratch), 0o755)
    made.file("bin/draws", guest.compile_guest_program("draws.c", scratch), 0o755)
    return made


@contextlib.contextmanager
def running(
    assets: Path,
    scratch: Path,
    image: Container,
    disk: Path,
    cpus: int,
    saved: Path | None = None,
    kind: str = "",
    extra: Sequence[str] = (),
) -> Iterator[Guest]:
    """A guest that boots, or goes on from what was saved, with that work; `extra` are arguments for QEMU."""
    extra = [*extra, *guest.disks(debian.image("sqlite3")), "-drive", f"file={disk},format=qcow2,if=none,id=data"]
    extra += ["-device", "virtio-blk-device,drive=data"]
    # Without the last option, QEMU has the guest announce itself after a migration, by interrupts that tell of the
    # device's configuration. Such a device keeps its line high until Linux has acknowledged all that it told, while
    # `virt` declares the line as one of edges. So what is told between Linux's reading and its acknowledging leaves
    # the line high, and the device has no interrupt any more.
    extra += ["-netdev", "user,id=network", "-device", "virtio-net-device,netdev=network,guest_announce=off"]
    config = configuration(
        "sh",
        "-c",
        WORKLOAD,
        lower=["/dev/vdb", "/container"],
        mount="/dev/vda:/data",
        address="eth0=10.0.2.15/24",
    )
    with running_with(assets, scratch, config, image, cpus, saved, kind, extra) as started:
        yield started


@contextlib.contextmanager
def running_with(
    assets: Path,
    scratch: Path,
    config: str,
    image: Container,
    cpus: int,
    saved: Path | None,
    kind: str,
    extra: Sequence[str],
) -> Iterator[Guest]:
    """A guest that boots with this init-oci.conf, or goes on; it stands still then until the monitor's `cont`."""
    monitor = scratch / "monitor"
    extra = [*extra, "-qmp", f"unix:{monitor},server=on,wait=off"]
    if saved is not None:
        extra += ["-S", "-incoming", f"exec:cat {saved}"] if kind == "migrate" else ["-S", "-loadvm", "parked"]
    ports = Ports(scratch)
    for path in (monitor, *map(Path, ports.paths)):
        path.unlink(missing_ok=True)
    extra += ports.arguments
    instead = {"supermachine-agent": agent_with_ports(assets / "supermachine-agent", scratch)}
    started = guest.running(assets, scratch, config, image, cpus=cpus, extra=extra, instead=instead)
    with started as machine, Monitor(monitor) as connected:
        connected.wait_for_incoming()
        yield Guest(machine, Agent(ports.connect), connected)
