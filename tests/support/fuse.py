"""File systems of FUSE, mounted where only one process and its children see them, and gone with them."""

from __future__ import annotations

import atexit
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import pytest

from . import child, disk

SOURCE = Path(__file__).with_name("odd_fuse.c")


def odd(folder: Path, mounted: Path, **manners: object) -> str:
    """The command that shows `folder` at `mounted` with odd manners: `direct=1` is FUSE_DIRECT (odd_fuse.c)."""
    settings = [f"FUSE_{name.upper()}={value}" for name, value in manners.items()]
    return shlex.join(["env", *settings, str(_program()), str(folder), str(mounted)])


def fat(image: Path, mounted: Path) -> str:
    """The command that mounts a new FAT of 256 MB."""
    _format(image, disk.tool("mkfs.vfat", "dosfstools"))
    return shlex.join([disk.tool("fusefat", "fusefat"), "-o", "rw+", str(image), str(mounted)])


def exfat(image: Path, mounted: Path) -> str:
    """The command that mounts a new exFAT of 256 MB; its driver asks for a block device."""
    _format(image, disk.tool("mkfs.exfat", "exfatprogs"))
    driver = shlex.quote(disk.tool("mount.exfat-fuse", "exfat-fuse"))
    loop = f'loop=$(losetup --find --show {shlex.quote(str(image))}); {driver} "$loop" {shlex.quote(str(mounted))}'
    return f'{loop}; losetup --detach "$loop"'  # it goes when the driver closes it


def python(mount: str, code: str, *arguments: object, site: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `code` after the shell command `mount`; `site` is where it finds the module, else where this process does."""
    return _run(mount, ["-c", code, *map(str, arguments)], site)


def command_line(mount: str, *arguments: object, site: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the module's command line after the shell command `mount`."""
    return _run(mount, ["-m", "supermachine_kernel", *map(str, arguments)], site)


def _run(mount: str, arguments: list[str], site: Path | None) -> subprocess.CompletedProcess[str]:
    if not Path("/dev/fuse").exists():
        disk.skip_or_fail("there is no /dev/fuse: modprobe fuse")
    disk.need_root("only root may mount here")
    # The first process of a PID namespace takes every other with it, the file system's own too, and so the mount.
    command = [
        "unshare",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "sh",
        "-ec",
        f'{{ {mount}; }} >&2; exec "$@"',
        "sh",
    ]
    return subprocess.run(
        [*command, sys.executable, *arguments],
        env=child.environment_with(site, {}),
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def _format(image: Path, mkfs: str) -> None:
    with image.open("wb") as file:
        file.truncate(256 << 20)
    subprocess.run([mkfs, image], check=True, stdout=subprocess.DEVNULL)


@cache
def _program() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="supermachine-kernel-fuse-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    program = folder / "odd_fuse"
    if not Path("/usr/include/fuse3/fuse.h").exists():
        pytest.fail("fuse.h is missing: apt-get install libfuse3-dev, or run scripts/test.py, which does")
    compiler = [disk.tool("gcc", "gcc"), "-O1", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([*compiler, "-o", program, SOURCE, "-lfuse3"], check=True, env={**os.environ, "LC_ALL": "C"})
    return program
