"""Boot a set without init-oci as its host does: an init of the host's own makes the root, and the agent is PID 1 in it.

What runs there is started through the agent, over a vsock device.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from scripts.guest import qemu
from scripts.guest.agent import Agent, AgentError
from scripts.guest.agent_frames import PORT
from scripts.guest.debian_root import debian_root, squashfs
from scripts.guest.device import Device
from scripts.guest.initramfs import Initramfs
from scripts.guest.network_boot import FILES, PACKAGES, PROOFS, served
from scripts.guest.stages import Stage
from scripts.guest.tsi import Host
from scripts.machine.errors import SetupError

_MAGIC, _MAGIC_AT = b"HdrS", 0x202
HOST_INIT = Path(__file__).with_name("host-init.sh")
AGENT = "/supermachine-agent"
LISTENING = rf"^supermachine-agent: listening on vsock port {PORT}$"
_ROOT = (
    Stage("kernel", r"Linux version \S+"),
    Stage("squashfs", r"^init: squashfs of /dev/vda$"),
    Stage("overlay root", r"^init: overlay root, upper tmpfs$"),
    Stage("PID 1", r"^supermachine-agent: PID 1 of guest contract 2$"),
    Stage("agent", LISTENING),
)
_SELFTEST = (
    Stage("entrypoint", r"^selftest: pid1: ok: .*"),
    Stage("writable root", r"^selftest: root: ok: .*"),
    Stage("vsock loopback", r"^selftest: agent: ok: .*"),
)
_END = (Stage("exit status", r"^host: exit status 0$"), Stage("power off", r"reboot: Restarting system"))
SELFTEST = (*_ROOT, *_SELFTEST, *_END)
NETWORK = (*_ROOT, *(Stage(name, proof) for name, proof in PROOFS.items()), *_END)


class How(NamedTuple):
    """What such a guest is given: `memory` as QEMU has it, `limit` in seconds; `on_line` sees each console line."""

    cpus: int
    memory: str
    limit: float
    on_line: Callable[[qemu.Line], None]


def check_kernel(kernel: Path) -> None:
    """Raises SetupError for a file that is no bzImage (the kernel's Documentation/arch/x86/boot.rst)."""
    with kernel.open("rb") as file:
        head = file.read(_MAGIC_AT + len(_MAGIC))
    if head[_MAGIC_AT:] != _MAGIC:
        found = "an arm64 Image" if head[56:60] == b"ARM\x64" else "an ELF file" if head[:4] == b"\x7fELF" else "none"
        expected = "a bzImage, with HdrS at byte 514"
        raise SetupError(str(kernel), expected, found, "give the kernel of the x86_64 set")


def make_initramfs(folder: Path) -> Initramfs:
    """The initramfs that the host generates: agent, busybox and its init."""
    initramfs = Initramfs()
    initramfs.file("init", HOST_INIT.read_bytes(), 0o755)
    initramfs.file("bin/busybox", (folder / "busybox").read_bytes(), 0o755)
    initramfs.file(AGENT[1:], (folder / "supermachine-agent").read_bytes(), 0o755)
    return initramfs


def boot_selftest(folder: Path, scratch: Path, how: How) -> qemu.Boot:
    """Boot such a guest on a root with busybox alone; the agent's selftest is what runs. Raises SetupError."""
    root = scratch / "root"
    (root / "bin").mkdir(parents=True)
    shutil.copy(folder / "busybox", root / "bin" / "sh")
    image = squashfs(root, scratch / "root.squashfs")
    return _boot(
        folder, scratch, image, f"{AGENT} selftest pid1 root agent", Device(), qemu.X86_64.host_command_line, how
    )


def boot_network(folder: Path, scratch: Path, how: How) -> qemu.Boot:
    """Boot such a guest on a root of Debian's packages, with AF_TSI and no network device. Raises SetupError."""
    root = debian_root(PACKAGES, FILES, architecture="amd64")
    device = Device()
    command_line = f"{qemu.X86_64.host_command_line} tsi_hijack"
    with served(Host(device.link)):
        return _boot(folder, scratch, root, "network", device, command_line, how)


def _boot(
    folder: Path, scratch: Path, root: Path, command: str, device: Device, command_line: str, how: How
) -> qemu.Boot:
    """Boot, run the shell command with the console as its output, and power off, all but the boot through the agent."""
    initramfs = scratch / "initramfs.cpio.gz"
    initramfs.write_bytes(make_initramfs(folder).pack())
    with (
        device,
        qemu.Machine(
            folder / "kernel",
            initramfs,
            emulator=qemu.X86_64,
            cpus=how.cpus,
            memory=how.memory,
            command_line=command_line,
            vsock=device,
            extra=[*qemu.root_disk(root), *qemu.acceleration(qemu.X86_64, folder / "kernel")],
            on_line=how.on_line,
        ) as machine,
    ):
        try:
            machine.wait_for(LISTENING, how.limit)
            _run(Agent(lambda: device.connect(PORT)), command, how.limit)
        except (TimeoutError, AgentError, ConnectionError):
            machine.end()
        return machine.wait(how.limit)


def _run(agent: Agent, command: str, limit: float) -> None:
    words = f"exec > /dev/console 2>&1; {command}"
    done = agent.exec("/bin/sh", "-c", words, timeout=limit)
    kind, value = done.status
    status = value if kind == 0 else 128 + value
    agent.exec("/bin/sh", "-c", f"echo 'host: exit status {status}' > /dev/console", timeout=limit)
    agent.power_off()
