"""The x86_64 set in a guest like its host's: an init of the host's, an overlay root, and the agent as PID 1 in it."""

from __future__ import annotations

import contextlib
import errno
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.guest import qemu, switched_boot
from scripts.guest.agent import Agent, AgentError, State, finish
from scripts.guest.agent_frames import PORT, Kind, command
from scripts.guest.debian_root import squashfs
from scripts.guest.device import Device
from scripts.machine.packages import install_commands
from tests.support.native_agent import wait_until

BOOT = Path(__file__).resolve().parents[2] / "scripts" / "boot.py"
LIMIT = 600.0
pytestmark = pytest.mark.slow


class Guest:
    """A guest that runs, and its agent."""

    def __init__(self, machine: qemu.Machine, device: Device) -> None:
        self.machine = machine
        self.agent = Agent(lambda: device.connect(PORT))

    def shell(self, script: str) -> str:
        """What a command of a caller says."""
        done = self.agent.exec("/bin/sh", "-c", script, timeout=LIMIT)
        assert done.status == (0, 0), done
        return done.stdout.decode()


@pytest.fixture(scope="module")
def guest(x86_64_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    install_commands([qemu.X86_64.program])
    scratch = tmp_path_factory.mktemp("x86_64")
    (scratch / "root/bin").mkdir(parents=True)
    shutil.copy(x86_64_set / "busybox", scratch / "root/bin/busybox")
    for applet in ("sh", "cat", "ls", "sleep", "setsid"):
        (scratch / "root/bin" / applet).symlink_to("busybox")
    image = squashfs(scratch / "root", scratch / "root.squashfs")
    initramfs = scratch / "initramfs"
    initramfs.write_bytes(switched_boot.make_initramfs(x86_64_set).pack())
    device = Device()
    with (
        device,
        qemu.Machine(
            x86_64_set / "kernel",
            initramfs,
            emulator=qemu.X86_64,
            cpus=2,
            command_line=qemu.X86_64.host_command_line,
            vsock=device,
            extra=qemu.root_disk(image),
        ) as machine,
    ):
        machine.wait_for(f"listening on vsock port {PORT}", LIMIT)
        yield Guest(machine, device)


def test_the_agent_is_pid_1_after_the_init_of_the_host(guest: Guest) -> None:
    mounts = {line.split()[1]: line.split()[2] for line in guest.shell("cat /proc/mounts").splitlines()}
    wanted = {"/": "overlay", "/dev": "devtmpfs", "/proc": "proc", "/sys": "sysfs", "/dev/pts": "devpts"}
    wanted |= {"/dev/shm": "tmpfs", "/dev/mqueue": "mqueue", "/sys/fs/cgroup": "cgroup2"}
    assert {path: mounts.get(path) for path in wanted} == wanted
    assert guest.shell("cat /proc/1/comm") == "supermachine-ag\n"
    assert guest.shell("cat /sys/class/net/lo/flags") == "0x9\n", "up, and a loopback"


def test_the_machine_is_known_without_acpi_and_without_pci(guest: Guest) -> None:
    assert guest.shell("ls /sys/bus").split().count("pci") == 0
    assert guest.shell("cat /sys/devices/system/cpu/online") == "0-1\n"
    assert "virtio_mmio.device=" in guest.shell("cat /proc/cmdline")
    console = "\n".join(line.text for line in guest.machine.lines)
    assert "Intel MultiProcessor Specification" in console


def test_orphans_are_reaped(guest: Guest) -> None:
    """Each shell leaves a child behind that ends after it."""
    guest.shell("for n in 1 2 3 4 5; do setsid sh -c 'sleep 0 & exec sleep 0' < /dev/null > /dev/null 2>&1 & done")
    wait_until(lambda: " Z " not in guest.shell("cat /proc/[0-9]*/stat 2> /dev/null || true"), LIMIT)


def test_a_signal_to_pid_1_comes_to_the_commands_of_callers(guest: Guest) -> None:
    script = "trap 'echo got it; exit 3' USR1; echo ready; while :; do sleep 1; done"
    with guest.agent.call(Kind.EXEC, command("/bin/sh", "-c", script)) as call:
        _kind, payload = next(frame for frame in call.frames() if frame[0] == Kind.STDOUT)
        assert payload == b"ready\n"
        state = guest.agent.status()
        assert state.workload == 2
        assert guest.shell(f"cat /proc/{state.pid}/comm") == "sh\n"
        guest.shell("trap '' USR1; kill -USR1 1")  # this shell gets it too
        done = finish(call)
    assert done.stdout == b"got it\n"
    assert done.status == (0, 3)


def test_signal_goes_to_the_commands_of_callers(guest: Guest) -> None:
    with pytest.raises(AgentError) as none:
        guest.agent.signal(signal.SIGTERM)
    assert none.value.errno == errno.ESRCH
    with guest.agent.call(Kind.EXEC, command("/bin/sleep", "1000")) as call:
        wait_until(lambda: guest.agent.status().workload == 2, LIMIT)
        guest.agent.signal(signal.SIGTERM)
        assert finish(call).status == (1, signal.SIGTERM)
    assert guest.agent.status()[:1] == State(4, 0, 0, 0, 0, 0, 0)[:1]


def test_two_cpus_cannot_park_without_smpark(guest: Guest) -> None:
    with pytest.raises(AgentError) as refused:
        guest.agent.park()
    assert refused.value.errno == errno.ENODEV


def test_an_agent_that_is_killed_starts_again(guest: Guest) -> None:
    seen = len(guest.machine.lines)
    with contextlib.suppress(ConnectionError, AgentError):
        guest.agent.exec("/bin/sh", "-c", "kill -9 -1")
    guest.machine.wait_for("the agent ended with status 137; starting it again", LIMIT, seen)
    guest.machine.wait_for(f"listening on vsock port {PORT}", LIMIT, seen)
    assert guest.shell("echo here") == "here\n"


def test_power_off_ends_the_guest(guest: Guest) -> None:
    guest.agent.power_off()
    boot = guest.machine.wait(LIMIT)
    assert boot.status == 0
    assert "supermachine-agent: powering off" in boot.text
    assert "reboot: Restarting system" in boot.text


def test_the_set_starts_on_a_machine_of_another_make(x86_64_set: Path, tmp_path: Path) -> None:
    """A q35, with the firmware, tables and clock of a PC. It has no virtio-mmio, and so the agent is the init."""
    initramfs = tmp_path / "initramfs"
    initramfs.write_bytes(switched_boot.make_initramfs(x86_64_set).pack())
    q35 = qemu.X86_64._replace(machine=("-M", "q35", "-cpu", "max"))
    command_line = f"{q35.host_command_line} rdinit={switched_boot.AGENT}"
    with qemu.Machine(x86_64_set / "kernel", initramfs, emulator=q35, cpus=2, command_line=command_line) as machine:
        machine.wait_for("^supermachine-agent: PID 1 of guest contract 2$", LIMIT)
        machine.wait_for(f"listening on vsock port {PORT}", LIMIT)


def boot(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BOOT), *map(str, arguments)], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("options", [(), ("--network",)], ids=["stages", "network"])
def test_the_set_passes_every_stage(options: tuple[str, ...], x86_64_set: Path) -> None:
    done = boot(x86_64_set, "--json", "--cpus", 1, *options)
    report = json.loads(done.stdout)
    assert (done.returncode, report["failure"]) == (0, None), done.stdout
    stages = switched_boot.NETWORK if options else switched_boot.SELFTEST
    assert [stage["name"] for stage in report["stages"]] == [stage.name for stage in stages]


@pytest.mark.parametrize(
    ("content", "found"),
    [(bytes(56) + b"ARM\x64" + bytes(600), "an arm64 Image"), (b"\x7fELF" + bytes(600), "an ELF file"), (b"", "none")],
    ids=["arm64-image", "vmlinux", "empty"],
)
def test_another_kernel_is_refused(content: bytes, found: str, x86_64_set: Path, tmp_path: Path) -> None:
    for name in ("busybox", "supermachine-agent"):
        shutil.copy(x86_64_set / name, tmp_path)
    (tmp_path / "kernel").write_bytes(content)
    done = boot(tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(
        f"boot.py: {tmp_path}/kernel: expected a bzImage, with HdrS at byte 514, found {found}"
    )
    assert done.stderr.count("\n") == 1
