"""The first start and an extraction on each file system, beside the best way by hand with the same promises.

The file systems lie in files of this machine's disk, and the module is installed in each of them, so that a file can be
cloned where the file system does that. The turns of both ways alternate, and the median of their ratios counts.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from scripts.benchmarks.figure import MIB, BenchError, Figure
from scripts.machine import environments
from scripts.machine.build import checked_wheel
from scripts.machine.install import install
from scripts.machine.packages import install_commands
from scripts.machine.program import log

_MAKE = {
    "ext4": ("mkfs.ext4", "-q", "-F"),
    "XFS": ("mkfs.xfs", "-q", "-f", "-m", "reflink=1"),
    "XFS without reflink": ("mkfs.xfs", "-q", "-f", "-m", "reflink=0"),
    "btrfs": ("mkfs.btrfs", "-q", "-f"),
}
_CLONES = {"XFS", "btrfs"}
_NAMES = (*_MAKE, "tmpfs", "overlayfs")
_SIZE = 1024 * MIB
TURNS_A_ROUND = 5

_PROGRAM = """\
import fcntl, hashlib, json, os, shutil, sys, time
from pathlib import Path
import supermachine_kernel as kernel

FICLONE = 0x40049409

def clone_or_copy(source, target):
    with open(source, "rb") as old, open(target, "wb") as new:
        try:
            fcntl.ioctl(new, FICLONE, old.fileno())
        except OSError:
            shutil.copyfileobj(old, new, 1 << 20)
        os.fchmod(new.fileno(), 0o755 if os.access(source, os.X_OK) else 0o644)
        new.flush()
        os.fsync(new.fileno())

def flush(path):
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)

def first_start_by_hand(folder):
    folder.mkdir()
    for asset in kernel.ASSETS:
        assert hashlib.sha256(asset.path.read_bytes()).hexdigest() == asset.sha256
        clone_or_copy(asset.path, folder / "temporary")
        (folder / "temporary").rename(folder / asset.name)
    flush(folder)
    flush(folder.parent)

def copy_by_hand(folder):
    folder.mkdir()
    for asset in kernel.ASSETS:
        shutil.copyfile(asset.path, folder / "temporary")
        flush(folder / "temporary")
        (folder / "temporary").rename(folder / asset.name)

WAYS = {
    "by hand": first_start_by_hand,
    "ensure": kernel.ensure_assets,
    "copy": copy_by_hand,
    "extract": kernel.extract_all_to,
}
took = {name: [] for name in WAYS}
base = Path(sys.argv[1])
for turn in range(int(sys.argv[2]) + 1):
    # The first turn warms up. Every other turn goes backwards, so that no way always follows the same one.
    for name in sorted(WAYS, reverse=turn % 2 == 1):
        os.sync()
        started = time.perf_counter()
        WAYS[name](base / name)
        seconds = time.perf_counter() - started
        shutil.rmtree(base / name)
        if turn:
            took[name].append(seconds)
print(json.dumps(took))
"""


def file_systems(rounds: int) -> list[Figure]:
    """The first start and an extraction on ext4, XFS, btrfs, tmpfs and overlayfs, beside the best way by hand."""
    if os.geteuid() != 0:
        raise BenchError("file-systems", "root, who may mount file systems", f"user {os.geteuid()}", "run it as root")
    install_commands([command[0] for command in _MAKE.values()])
    python = environments.ensure("build")
    figures = []
    with tempfile.TemporaryDirectory(prefix="supermachine-kernel-bench-") as folder:
        wheel = Path(checked_wheel(Path(folder), "aarch64")["wheel"])
        for name in _NAMES:
            log(f"{name}")
            with _mounted(name, Path(folder)) as place:
                install(python, wheel, place / "site")
                figures += _figures(name, _run(python, place, TURNS_A_ROUND * rounds))
    return figures


def _figures(name: str, took: dict[str, list[float]]) -> list[Figure]:
    first = [ensure / by_hand for ensure, by_hand in zip(took["ensure"], took["by hand"])]
    extract = [extract / copy for extract, copy in zip(took["extract"], took["copy"])]
    return [
        Figure(f"{name}: ensure_assets(), the first time", 1000 * statistics.median(took["ensure"]), "ms"),
        Figure.ratio(f"{name}: the first start / by hand", first, 1.05),
        Figure.ratio(f"{name}: extract_all_to() / a copy", extract, 0.02 if name in _CLONES else 1.05),
    ]


def _run(python: Path, place: Path, turns: int) -> dict[str, list[float]]:
    command = [str(python), "-c", _PROGRAM, str(place), str(turns)]
    inside = {**os.environ, "PYTHONPATH": str(place / "site")}
    done = subprocess.run(command, cwd=place, env=inside, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(str(place), "the program to succeed", done.stderr.strip())
    took: dict[str, list[float]] = json.loads(done.stdout)
    return took


@contextlib.contextmanager
def _mounted(name: str, folder: Path) -> Iterator[Path]:
    """A new file system, mounted for as long as the context lasts."""
    place = folder / "mounted"
    with contextlib.ExitStack() as mounts:
        if name == "tmpfs":
            options = ["-t", "tmpfs", "-o", f"size={_SIZE}", "tmpfs"]
        elif name == "overlayfs":
            below = mounts.enter_context(_mounted("ext4", folder / "below"))
            for part in ("lower", "upper", "work"):
                (below / part).mkdir()
            layers = f"lowerdir={below}/lower,upperdir={below}/upper,workdir={below}/work"
            options = ["-t", "overlay", "-o", layers, "overlay"]
        else:
            image = folder / "image"
            image.parent.mkdir(parents=True, exist_ok=True)
            with image.open("wb") as file:
                file.truncate(_SIZE)
            _command([*_MAKE[name], str(image)])
            options = ["-o", "loop", str(image)]
        place.mkdir(parents=True)
        _command(["mount", *options, str(place)])
        try:
            yield place
        finally:
            _command(["umount", str(place)])
            place.rmdir()


def _command(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(" ".join(command), "to succeed", done.stderr.strip())
