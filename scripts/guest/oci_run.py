"""Run an OCI image in a guest: its layers as block devices, its configuration as init-oci.conf, its output and status.

This is the host that the tests use, and a developer's way to look at a guest. QEMU emulates the machine, so it is slow.
"""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import ascii_lowercase
from typing import Any

from scripts.guest import qemu
from scripts.guest.agent import Agent
from scripts.guest.agent_frames import PORT
from scripts.guest.device import Device
from scripts.guest.initramfs import guest_initramfs
from scripts.guest.oci_image import Image, ImageError
from scripts.guest.oci_layers import write_layers
from scripts.guest.tsi import Host

OUTPUT, ERRORS = "[stdout] ", "[stderr] "
"""What init-oci begins a line of the image's output, or of its errors, with."""
COMMAND_LINE = "console=ttyAMA0 quiet"
STOP_SECONDS = 10.0
FOR_EVER = float(threading.TIMEOUT_MAX)
_MOST_DISKS = 31
"""QEMU's machine has 32 places for virtio devices, and vsock takes one."""
_EXPOSED = re.compile(r"([0-9]{1,5})(?:/(tcp|udp|sctp))?")
_STATUS = re.compile(r"init-oci: exit status (\d+)")
_OFF = re.compile(r"init-oci: the image (powers off|restarts)")
"""An image that does so by itself, such as one with systemd, has no exit status."""


@dataclass(frozen=True)
class Volume:
    """A file with an ext4 or XFS file system, and where the image finds it."""

    file: Path
    path: str
    read_only: bool = False


@dataclass(frozen=True)
class Run:
    """What to run and on what machine.

    `command` stands in for the image's Cmd. `ports` maps a port at which the guest listens to one of this machine's.
    """

    command: Sequence[str] = ()
    volumes: Sequence[Volume] = ()
    ports: Mapping[int, int] = field(default_factory=dict)
    cpus: int = 1
    memory: str = qemu.MEMORY
    limit: float | None = None


class Show:
    """Where the lines of the console go, as they come: the image's output, its errors, and all others."""

    def __init__(
        self, output: Callable[[str], None], errors: Callable[[str], None], console: Callable[[str], None]
    ) -> None:
        self.console = console
        self._output, self._errors = output, errors
        self._status: int | None = None

    def line(self, line: qemu.Line) -> None:
        """Take a line of the console."""
        found = _STATUS.fullmatch(line.text)
        if _OFF.fullmatch(line.text) and self._status is None:
            self._status = 0
        if line.text.startswith(OUTPUT):
            self._output(line.text[len(OUTPUT) :])
        elif line.text.startswith(ERRORS):
            self._errors(line.text[len(ERRORS) :])
        else:
            self._status = int(found[1]) if found else self._status
            self.console(line.text)

    def status(self, machine: qemu.Machine, limit: float | None) -> int:
        """Wait until the guest ends; the image's exit status.

        Raises TimeoutError after `limit` seconds, and ImageError if the guest ends without a status.
        """
        ended = machine.wait(limit if limit is not None else FOR_EVER)
        if ended.status is None:
            raise TimeoutError(f"the image ran longer than {limit:g} s")
        if self._status is None:
            last = next((line.text for line in reversed(ended.lines) if "error" in line.text), "no exit status")
            expected = "the image's exit status on the console"
            raise ImageError("the guest", expected, last, "look at the console: --verbose")
        return self._status


@dataclass(frozen=True)
class Disk:
    """A block device of the guest: a part of a file, or all of it if `size` is None."""

    file: Path
    read_only: bool
    offset: int = 0
    size: int | None = None


def run_image(
    image: Image,
    assets: Path,
    run: Run,
    scratch: Path,
    show: Show,
) -> int:
    """Run `image` until it ends; return its exit status. `assets` is a folder with a set.

    The guest's network is the loopback of this machine, by AF_TSI. Ctrl-C sends the image its StopSignal, and ends the
    guest after STOP_SECONDS.

    Raises ImageError for an image that cannot be run, and TimeoutError after `run.limit` seconds.
    """
    stop = stop_signal(image.config)
    layers, initramfs = prepare(image, assets, run, scratch, show.console)
    device = Device()
    Host(device.link, ports=run.ports)
    machine = qemu.Machine(
        assets / "kernel",
        initramfs,
        cpus=run.cpus,
        memory=run.memory,
        command_line=f"{COMMAND_LINE} tsi_hijack",
        vsock=device,
        extra=drives(disks(layers, run.volumes)),
        on_line=show.line,
    )
    with device, machine:
        try:
            return show.status(machine, run.limit)
        except KeyboardInterrupt:
            return _stop(machine, Agent(lambda: device.connect(PORT)), stop, show)


def _stop(machine: qemu.Machine, agent: Agent, number: int, show: Show) -> int:
    """Send the image a signal, and end it if that does not, as container runtimes do; its exit status."""
    try:
        agent.signal(number)
        return show.status(machine, machine.ms / 1000 + STOP_SECONDS)
    except (OSError, TimeoutError):
        return 128 + signal.SIGKILL


def stop_signal(config: Mapping[str, Any]) -> int:
    """The number of the image's StopSignal, or that of SIGTERM. Raises ImageError if there is no such signal."""
    (text,) = _texts({"StopSignal": [config.get("StopSignal") or "SIGTERM"]}, "StopSignal")
    found = re.fullmatch(r"(?:SIG)?(?:([A-Z][A-Z0-9]*?)(?:\+(\d{1,2}))?|(\d{1,2}))", text)
    name, more, number = found.groups() if found else (None, None, None)
    value = int(number or 0) if name is None else int(getattr(signal, f"SIG{name}", 0)) + int(more or 0)
    if not 1 <= value <= 64:
        raise ImageError("the image: StopSignal", "a signal", ascii(text)[:100], "make the image again")
    return value


def prepare(
    image: Image,
    assets: Path,
    run: Run,
    scratch: Path,
    progress: Callable[[str], None],
    agent: bytes | None = None,
) -> tuple[list[Path], Path]:
    """Write the layers and the initramfs into `scratch`; `agent` takes the place of the set's. Raises ImageError."""
    settings = configuration(image.config, run)
    layers = write_layers(image, scratch, progress, declared_volumes(image.config))
    initramfs = scratch / "initramfs.cpio.gz"
    config = _format([*_disk_settings(layers, run.volumes), *settings])
    initramfs.write_bytes(guest_initramfs(assets, config, agent=agent).pack())
    return layers, initramfs


def configuration(config: Mapping[str, Any], run: Run) -> list[tuple[str, str]]:
    """The process of init-oci.conf from the image's configuration (OCI image specification, config.md).

    Raises ImageError where the image has nothing to run.
    """
    arguments = [*_texts(config, "Entrypoint"), *(run.command or _texts(config, "Cmd"))]
    if not arguments:
        raise ImageError("the image", "an Entrypoint or a Cmd", "neither", "name a command after --")
    settings = [("arg", argument) for argument in arguments]
    settings += [("env", variable) for variable in _texts(config, "Env") if "=" in variable]
    for key, name in (("cwd", "WorkingDir"), ("user", "User")):
        if config.get(name):
            settings += [(key, text) for text in _texts({name: [config[name]]}, name)]
    # As container runtimes have it: init systems want to be PID 1, and an entrypoint expects to be.
    return [*settings, ("pid1", "yes"), ("stdout_prefix", OUTPUT), ("stderr_prefix", ERRORS)]


def declared_volumes(config: Mapping[str, Any]) -> list[str]:
    """The paths of the image's Volumes. Raises ImageError."""
    found = config.get("Volumes") or {}
    if not isinstance(found, dict):
        raise ImageError("the image: Volumes", "an object", ascii(found)[:100], "make the image again")
    paths = _texts({"Volumes": list(found)}, "Volumes")
    if not all(path.startswith("/") for path in paths):
        raise ImageError("the image: Volumes", "absolute paths", ascii(paths)[:100], "make the image again")
    return paths


def unpublished_ports(config: Mapping[str, Any], published: Container[int]) -> list[str]:
    """What to tell about the image's ExposedPorts that are not among `published`, in sentences. Raises ImageError."""
    found = config.get("ExposedPorts") or {}
    if not isinstance(found, dict):
        raise ImageError("the image: ExposedPorts", "an object", ascii(found)[:100], "make the image again")
    ports = sorted({_exposed_port(text) for text in found})
    tcp = [number for number, protocol in ports if protocol == "tcp" and number not in published]
    others = [f"{number}/{protocol}" for number, protocol in ports if protocol != "tcp"]
    told = [f"the image exposes {number}/tcp: --port HOST:{number} publishes it" for number in tcp]
    return told + [f"the image exposes {', '.join(others)}: --port publishes TCP alone"] * bool(others)


def _exposed_port(text: str) -> tuple[int, str]:
    """A number and a protocol from "80", "80/tcp" or "80/udp"; Docker has SCTP too. Raises ImageError."""
    match = _EXPOSED.fullmatch(text)
    if not match or not 1 <= int(match[1]) <= 65535:
        expected = "ports from 1 to 65535, such as 80/tcp"
        raise ImageError("the image: ExposedPorts", expected, ascii(text)[:100], "make the image again")
    return int(match[1]), match[2] or "tcp"


def _texts(config: Mapping[str, Any], name: str) -> list[str]:
    """A list of texts that a process can be given, or none. Raises ImageError."""
    found = config.get(name) or []
    if not isinstance(found, list) or not all(isinstance(each, str) and _can_be_passed(each) for each in found):
        raise ImageError(f"the image: {name}", "texts", ascii(found)[:100], "make the image again")
    return found


def _can_be_passed(text: str) -> bool:
    """Whether execve(2) takes the text: without a NUL, and of characters."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def _disk_settings(layers: Sequence[Path], volumes: Sequence[Volume]) -> list[tuple[str, str]]:
    count = len(layers) + len(volumes)
    if count > _MOST_DISKS:
        cure = "make the image again of fewer layers"
        raise ImageError("the image", f"at most {_MOST_DISKS} layers and volumes, for QEMU", str(count), cure)
    devices = [_device(number) for number in range(count)]
    lower = [("lower", device) for device in devices[: len(layers)]]
    mounts = [
        ("mount", f"{device}:{volume.path}:{'ro' if volume.read_only else 'rw'}")
        for device, volume in zip(devices[len(layers) :], volumes)
    ]
    return [*lower, ("fstype", "squashfs"), *mounts]


def _device(number: int) -> str:
    """The guest's name of a virtio-blk device: vda to vdz, then vdaa and so on."""
    first, second = divmod(number, len(ascii_lowercase))
    return f"/dev/vd{ascii_lowercase[first - 1] if first else ''}{ascii_lowercase[second]}"


def _format(settings: Sequence[tuple[str, str]]) -> str:
    """The lines of init-oci.conf, by the escapes of docs/guest-contract.md."""
    escaped = [(key, value.replace("\\", "\\\\").replace("\n", "\\n")) for key, value in settings]
    return "".join(f"{key}={value}\n" for key, value in escaped)


def disks(layers: Sequence[Path], volumes: Sequence[Volume]) -> list[Disk]:
    """The guest's block devices, in order."""
    return [*(Disk(path, True) for path in layers), *(Disk(each.file, each.read_only) for each in volumes)]


def drives(wanted: Sequence[Disk]) -> list[str]:
    """QEMU's arguments for virtio-blk devices, /dev/vda first."""
    arguments = []
    for number, disk in enumerate(wanted):
        drive = f"if=none,id=disk{number},format=raw,readonly={'on' if disk.read_only else 'off'}"
        drive += f",offset={disk.offset},size={disk.size}" if disk.size is not None else ""
        drive += f",file={str(disk.file).replace(',', ',,')}"
        arguments += ["-drive", drive, "-device", f"virtio-blk-device,drive=disk{number},bus=virtio-mmio-bus.{number}"]
    return arguments
