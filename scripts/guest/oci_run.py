"""Run an OCI image in a guest: its layers as block devices, its configuration as init-oci.conf, its output and status.

This is the host that the tests use, and a developer's way to look at a guest. QEMU emulates the machine, so it is slow.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.guest import qemu
from scripts.guest.device import Device
from scripts.guest.initramfs import Initramfs
from scripts.guest.oci_image import Image, ImageError
from scripts.guest.oci_layers import write_layers
from scripts.guest.tsi import Host

OUTPUT, ERRORS = "[stdout] ", "[stderr] "
"""What init-oci begins a line of the image's output, or of its errors, with."""
_FOR_EVER = float(threading.TIMEOUT_MAX)
_STATUS = re.compile(r"init-oci: exit status (\d+)")


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


def run_image(
    image: Image,
    assets: Path,
    run: Run,
    scratch: Path,
    *,
    on_output: Callable[[str], None],
    on_error: Callable[[str], None],
    on_console: Callable[[str], None],
) -> int:
    """Run `image` until it ends; return its exit status. `assets` is a folder with a set.

    The guest's network is the loopback of this machine, by AF_TSI.

    The lines of the image's output, of its errors, and all others of the console go to the three functions, as they
    come. Raises ImageError for an image that cannot be run, and TimeoutError after `run.limit` seconds.
    """
    settings = configuration(image.config, run)
    layers = write_layers(image, scratch, on_console)
    initramfs = scratch / "initramfs.cpio.gz"
    initramfs.write_bytes(_initramfs(assets, _format([*_disk_settings(layers, run.volumes), *settings])))
    status: list[int] = []

    def on_line(line: qemu.Line) -> None:
        if line.text.startswith(OUTPUT):
            on_output(line.text[len(OUTPUT) :])
        elif line.text.startswith(ERRORS):
            on_error(line.text[len(ERRORS) :])
        else:
            status.extend(int(found[1]) for found in [_STATUS.fullmatch(line.text)] if found)
            on_console(line.text)

    device = Device()
    Host(device.link, ports=run.ports)
    machine = qemu.Machine(
        assets / "kernel",
        initramfs,
        cpus=run.cpus,
        memory=run.memory,
        command_line="console=ttyAMA0 quiet tsi_hijack",
        vsock=device,
        extra=_drives(layers, run.volumes),
        on_line=on_line,
    )
    with device, machine:
        ended = machine.wait(run.limit if run.limit is not None else _FOR_EVER)
    if ended.status is None:
        raise TimeoutError(f"the image ran longer than {run.limit:g} s")
    if not status:
        last = next((line.text for line in reversed(ended.lines) if "error" in line.text), "no exit status")
        raise ImageError("the guest", "the image's exit status on the console", last, "look at the console: --verbose")
    return status[0]


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
    return [*settings, ("stdout_prefix", OUTPUT), ("stderr_prefix", ERRORS)]


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
    devices = [f"/dev/vd{chr(ord('a') + number)}" for number in range(len(layers) + len(volumes))]
    lower = [("lower", device) for device in devices[: len(layers)]]
    mounts = [
        ("mount", f"{device}:{volume.path}:{'ro' if volume.read_only else 'rw'}")
        for device, volume in zip(devices[len(layers) :], volumes)
    ]
    return [*lower, ("fstype", "squashfs"), *mounts]


def _format(settings: Sequence[tuple[str, str]]) -> str:
    """The lines of init-oci.conf, by the escapes of docs/guest-contract.md."""
    escaped = [(key, value.replace("\\", "\\\\").replace("\n", "\\n")) for key, value in settings]
    return "".join(f"{key}={value}\n" for key, value in escaped)


def _initramfs(assets: Path, config: str) -> bytes:
    initramfs = Initramfs()
    initramfs.file("init", (assets / "init-oci").read_bytes(), 0o755)
    initramfs.file("supermachine-smpark.ko", (assets / "smpark.ko").read_bytes())
    initramfs.file("supermachine-agent", (assets / "supermachine-agent").read_bytes(), 0o755)
    initramfs.file("init-oci.conf", config.encode())
    return initramfs.pack()


def _drives(layers: Sequence[Path], volumes: Sequence[Volume]) -> list[str]:
    """QEMU's arguments for virtio-blk devices, /dev/vda first."""
    disks = [(path, "on") for path in layers]
    disks += [(volume.file, "on" if volume.read_only else "off") for volume in volumes]
    arguments = []
    for number, (file, read_only) in enumerate(disks):
        name = str(file).replace(",", ",,")
        drive = f"if=none,id=disk{number},format=raw,file={name},readonly={read_only}"
        arguments += ["-drive", drive, "-device", f"virtio-blk-device,drive=disk{number},bus=virtio-mmio-bus.{number}"]
    return arguments
