"""Run an OCI image in a guest that can be saved in a file, and go on with it later, in a new QEMU."""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
from collections.abc import Iterator
from pathlib import Path

from scripts.guest import qemu, snapshot_file
from scripts.guest.agent import Agent
from scripts.guest.monitor import Monitor, MonitorError
from scripts.guest.oci_image import Image
from scripts.guest.oci_run import COMMAND_LINE, FOR_EVER, Disk, Run, Show, disks, drives, prepare
from scripts.guest.ports import Ports, agent_with_ports
from scripts.guest.snapshot_file import Snapshot, SnapshotError

_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_AGENT = (MonitorError, OSError)
"""When a guest can be told nothing: TimeoutError and ConnectionError are OSErrors."""


def run_and_save(image: Image, assets: Path, run: Run, file: Path, scratch: Path, show: Show) -> int:
    """Run `image` until it ends, or until Ctrl-C, which saves the guest in `file`, ends it, and returns 0.

    The guest has no network. Raises ImageError, TimeoutError, and SnapshotError if the guest cannot be saved.
    """
    agent = agent_with_ports(assets / "supermachine-agent", scratch)
    layers, initramfs = prepare(image, assets, run, scratch, show.console, agent)
    devices = drives(disks(layers, run.volumes))
    with _machine(assets, initramfs, run, devices, scratch, show) as (machine, monitor, ports):
        try:
            return show.status(machine, run.limit)
        except KeyboardInterrupt:
            show.console(f"saving the guest in {file}")
            _save(machine, monitor, Agent(ports.connect), assets, run, layers, file)
            return 0


def restore(file: Path, assets: Path, run: Run, scratch: Path, show: Show) -> int:
    """Go on with the guest in `file` until it ends; the image's exit status. CPUs and memory are those of the guest.

    Raises SnapshotError if it cannot go on here, ImageError and TimeoutError as `run_image`.
    """
    saved = snapshot_file.read(file, assets / "kernel", run.volumes)
    layers = [Disk(file, True, offset, size) for offset, size in saved.layers]
    stream = f"exec:tail -c +{saved.stream + 1} {shlex.quote(str(file.absolute()))}"
    devices = [*drives([*layers, *disks([], run.volumes)]), "-S", "-incoming", stream]
    run = Run((), run.volumes, cpus=saved.cpus, memory=saved.memory, limit=run.limit)
    with _machine(assets, None, run, devices, scratch, show) as (machine, monitor, ports):
        try:
            monitor.wait_for_incoming()
            monitor("cont")
            agent = Agent(ports.connect)
            agent.restored()
            agent.unpark()
        except _NO_AGENT as error:
            last = machine.lines[-1].text if machine.lines else str(error)
            raise SnapshotError(str(file), "a guest that goes on", last, "save the guest again") from error
        return show.status(machine, run.limit)


@contextlib.contextmanager
def _machine(
    assets: Path, initramfs: Path | None, run: Run, devices: list[str], scratch: Path, show: Show
) -> Iterator[tuple[qemu.Machine, Monitor, Ports]]:
    """A guest with a monitor and ports, made of the same arguments each time."""
    socket, ports = scratch / "monitor", Ports(scratch)
    extra = [*devices, *ports.arguments, "-qmp", f"unix:{socket},server=on,wait=off"]
    started = qemu.Machine(
        assets / "kernel",
        initramfs,
        cpus=run.cpus,
        memory=run.memory,
        command_line=COMMAND_LINE,
        extra=extra,
        on_line=show.line,
    )
    with started as machine, Monitor(socket, lambda: machine.runs) as monitor:
        yield machine, monitor, ports


def _save(
    machine: qemu.Machine, monitor: Monitor, agent: Agent, assets: Path, run: Run, layers: list[Path], file: Path
) -> None:
    """Park, write the file beside its place, end the guest, and put the file into its place. Raises SnapshotError.

    The file has all that was in the guest's memory, so it is for its owner alone. Where somebody else may write to the
    folder, they may put a link in the place of its name: the shell writes to the very file that was made here.
    """
    beside = file.with_name(f".{secrets.token_hex(16)}.tmp")
    try:
        agent.park()
        with open(os.open(beside, _CREATE, 0o600), "w+b") as written:
            place = Path(f"/proc/{os.getpid()}/fd/{written.fileno()}")
            places = snapshot_file.begin(written, layers)
            stream = written.tell()
            monitor("stop")
            monitor.migrate(f"exec:cat >> {shlex.quote(str(place if place.exists() else beside.absolute()))}")
            monitor("quit")
            machine.wait(FOR_EVER)
            snapshot = Snapshot(
                format=snapshot_file.FORMAT,
                qemu=snapshot_file.qemu_version(),
                kernel=snapshot_file.kernel_digest(assets / "kernel"),
                cpus=run.cpus,
                memory=run.memory,
                layers=places,
                volumes=[snapshot_file.as_it_is(volume) for volume in run.volumes],
                stream=stream,
                size=os.fstat(written.fileno()).st_size,
            )
            snapshot_file.finish(written, snapshot)
        beside.replace(file)
    except _NO_AGENT as error:
        found = str(error) or type(error).__name__
        raise SnapshotError(str(file), "to save the guest", found, "run the image again") from error
    finally:
        beside.unlink(missing_ok=True)
