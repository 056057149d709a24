"""A guest to test in: Debian's arm64 busybox in a container, booted with the configuration a test wants."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.guest import qemu
from scripts.guest.device import Device
from scripts.guest.initramfs import Initramfs
from scripts.machine.cache import cache_home
from scripts.machine.packages import install_commands, install_packages
from tests.support import debian

SOURCES = Path(__file__).resolve().parents[1] / "guest"
LIMIT = 300.0
"""Seconds a boot may take; far more than it does, for a machine that does many things at once."""

APPLETS = [
    "cat",
    "cut",
    "date",
    "df",
    "dmesg",
    "echo",
    "env",
    "grep",
    "head",
    "hexdump",
    "hostname",
    "id",
    "ip",
    "ls",
    "mkdir",
    "mv",
]
APPLETS += ["init", "mount", "nc", "poweroff", "ps", "pwd", "readlink", "reboot", "rm", "sed", "seq", "sh", "sleep"]
APPLETS += ["sort", "su", "sync", "tail", "touch", "tr", "true", "tty", "umount", "wc", "xargs", "yes"]
PASSWD = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/home/app:/bin/sh\n"
GROUP = "root:x:0:\napp:x:1000:\nstaff:x:50:app\nvideo:x:44:app\n"


class Container:
    """The files of an image: for a folder of the initramfs, or for a folder to make a file system from."""

    def __init__(self) -> None:
        self.files = {"bin/busybox": (busybox(), 0o4755)}  # su is busybox too
        self.links = {f"bin/{applet}": "busybox" for applet in APPLETS}
        self.file("etc/passwd", PASSWD)
        self.file("etc/group", GROUP)

    def file(self, name: str, data: bytes | str, mode: int = 0o644) -> None:
        self.files[name] = (data.encode() if isinstance(data, str) else data, mode)

    def into_initramfs(self, initramfs: Initramfs, folder: str) -> None:
        for name, (data, mode) in self.files.items():
            initramfs.file(f"{folder}/{name}", data, mode)
        for name, target in self.links.items():
            initramfs.link(f"{folder}/{name}", target)

    def into_folder(self, folder: Path) -> None:
        for name, (data, mode) in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            path.chmod(mode)
        for name, target in self.links.items():
            (folder / name).symlink_to(target)


def configuration(*argv: str, **keys: str | Sequence[str]) -> str:
    """An init-oci.conf: what to run, with the container as the image unless a key says otherwise."""
    pairs = [("arg", word) for word in argv]
    for key, value in {"lower": "/container", **keys}.items():
        pairs += [(key, one) for one in ([value] if isinstance(value, str) else value)]
    escaped = [(key, value.replace("\\", "\\\\").replace("\n", "\\n")) for key, value in pairs]
    return "".join(f"{key}={value}\n" for key, value in escaped)


def scripted(assets: Path, script: str) -> Container:
    """A container with tests/guest/`script` and the agent, which is a caller too."""
    container = Container()
    container.file(f"bin/{script}", (SOURCES / script).read_bytes(), 0o755)
    container.file("bin/supermachine-agent", (assets / "supermachine-agent").read_bytes(), 0o755)
    return container


def disks(*images: Path) -> list[str]:
    """Arguments for QEMU: the images as /dev/vda and on."""
    arguments = []
    # QEMU's machine numbers its slots from the other end
    for number, image in reversed(list(enumerate(images))):
        # several guests may have the same image, as long as none can write to it
        mode = "on" if image.suffix in (".squashfs", ".erofs") else "off"
        arguments += ["-drive", f"file={image},format=raw,if=none,id=disk{number},readonly={mode}"]
        arguments += ["-device", f"virtio-blk-device,drive=disk{number}"]
    return arguments


@contextlib.contextmanager
def running(
    assets: Path,
    scratch: Path,
    config: str | None,
    container: Container | None = None,
    *,
    folders: Mapping[str, Container] | None = None,
    cpus: int = 2,
    without: Sequence[str] = (),
    instead: Mapping[str, bytes] | None = None,
    vsock: Device | None = None,
    memory: str = qemu.MEMORY,
    command_line: str = qemu.COMMAND_LINE,
    extra: Sequence[str] = (),
    typed: Mapping[str, bytes] | None = None,
) -> Iterator[qemu.Machine]:
    """A guest of `assets` with this init-oci.conf (None: without one) and the container in the folder /container.

    `folders` are more such folders, `without` names assets to leave out, `instead` gives others in place of them,
    `vsock` is a device by which the test talks with the guest, `extra` are arguments for QEMU, `typed` is what to type
    on the console once a line is on it.
    """
    install_commands([qemu.PROGRAM])
    initramfs = Initramfs()
    for name, place, mode in (
        ("init-oci", "init", 0o755),
        ("smpark.ko", "supermachine-smpark.ko", 0o644),
        ("supermachine-agent", "supermachine-agent", 0o755),
    ):
        if name not in without:
            initramfs.file(place, (instead or {}).get(name, (assets / name).read_bytes()), mode)
    if container is not None:
        container.into_initramfs(initramfs, "container")
    for name, files in (folders or {}).items():
        files.into_initramfs(initramfs, name)
    appended = Initramfs()  # an archive of its own, as the contract has it for a host with many guests
    if config is not None:
        appended.file("init-oci.conf", config.encode())
    path = scratch / "initramfs.cpio.gz"
    path.write_bytes(initramfs.pack() + appended.pack())
    keyboard, typist = os.pipe()

    def type_after(line: qemu.Line) -> None:
        os.write(typist, (typed or {}).get(line.text, b""))

    try:
        with qemu.Machine(
            assets / "kernel",
            path,
            cpus=cpus,
            memory=memory,
            command_line=command_line,
            vsock=vsock,
            extra=extra,
            on_line=type_after,
            keyboard=keyboard,
        ) as machine:
            yield machine
    finally:
        os.close(keyboard)
        os.close(typist)


def boot(
    assets: Path,
    scratch: Path,
    config: str | None,
    container: Container | None = None,
    *,
    limit: float = LIMIT,
    **options: Any,
) -> qemu.Boot:
    """Boot such a guest until it ends by itself, for `limit` seconds at most; `options` are those of `running`."""
    with running(assets, scratch, config, container, **options) as machine:
        return machine.wait(limit)


def ended(machine: qemu.Machine) -> qemu.Boot:
    """What was seen of a guest that is about to power off; it may have run for hours, and Machine.wait counts them."""
    machine.wait_for("reboot: Power down", LIMIT)
    return machine.wait(100_000.0)


def assert_ended_well(seen: qemu.Boot) -> None:
    """The guest powered off by itself: no hang, no panic."""
    last = "\n".join(line.text for line in seen.lines[-20:])
    assert seen.status == 0, f"QEMU's status {seen.status} after {seen.ms} ms; the console's last lines:\n{last}"
    assert "reboot: Power down" in seen.text, last
    assert "Kernel panic" not in seen.text, last


def said(seen: qemu.Boot, prefix: str) -> list[str]:
    """The lines that begin with `prefix`, without it."""
    return [line.text[len(prefix) :] for line in seen.lines if line.text.startswith(prefix)]


def busybox() -> bytes:
    """Debian's static busybox for arm64."""
    return debian.file("busybox-static", "bin/busybox").read_bytes()


def compile_guest_program(source: str, scratch: Path) -> bytes:
    """A static arm64 program from tests/guest/`source`, which may be a pattern of several files."""
    install_commands(["aarch64-linux-gnu-gcc"])
    if not Path("/usr/aarch64-linux-gnu/lib/libc.a").exists():
        install_packages(["libc6-dev-arm64-cross"])
    program = scratch / "program"
    gcc = ["aarch64-linux-gnu-gcc", "-std=gnu11", "-Os", "-Wall", "-Wextra", "-Werror", "-static", "-s", "-pthread"]
    subprocess.run([*gcc, *map(str, sorted(SOURCES.glob(source))), "-o", str(program)], check=True)
    return program.read_bytes()


def assemble(source: str, scratch: Path, *definitions: str) -> bytes:
    """The machine code of tests/guest/`source`, and nothing around it; `definitions` are NAME=VALUE for its names."""
    install_commands(["aarch64-linux-gnu-gcc"])
    linked, code = scratch / "linked", scratch / "code"
    gcc = ["aarch64-linux-gnu-gcc", "-nostdlib", "-static", "-Wl,--build-id=none", str(SOURCES / source)]
    subprocess.run([*gcc, *(f"-D{each}" for each in definitions), "-o", str(linked)], check=True)
    subprocess.run(["aarch64-linux-gnu-objcopy", "-O", "binary", "-j", ".text", str(linked), str(code)], check=True)
    return code.read_bytes()


def compile_with_musl(source: str, scratch: Path) -> bytes:
    """A static arm64 program from tests/guest/`source` with musl, as the kernel build compiles its own."""
    compile_guest_program(source, scratch)  # has the compiler installed
    (package,) = build_cache().glob("musl-arm64/musl-dev_*.deb")
    subprocess.run(["dpkg-deb", "-x", str(package), str(scratch / "musl")], check=True)
    scripts = SOURCES.parents[1] / "kernel-build" / "scripts"
    script = 'COMPILER=aarch64-linux-gnu MUSL=aarch64-linux-musl; . "$1/recipe.sh"; . "$1/programs.sh"'
    script += '; compile_program "$2" "$3" /usr/aarch64-linux-gnu/include "$4"'
    program = scratch / "program.musl"
    arguments = map(str, (scripts, program, scratch / "musl", SOURCES / source))
    subprocess.run(["bash", "-euc", script, "bash", *arguments], check=True)
    return program.read_bytes()


def build_cache() -> Path:
    """Where the kernel build keeps what it fetched."""
    own = os.environ.get("SUPERMACHINE_BUILD_CACHE")
    return Path(own) if own else cache_home() / "build"
