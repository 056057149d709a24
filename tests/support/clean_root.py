"""A Debian with nothing but Python and pip: made once by debootstrap, kept in the cache, run in by chroot."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from scripts.machine.cache import cache_home, locked
from tests.support import disk
from tests.support.examples import run

SUITE, PYTHON = "bookworm", "3.11"
PACKAGES = ("python3", "python3-pip")
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def unpack(root: Path, *packages: str, suite: str = SUITE) -> Path:
    """Make `root`, a fresh clean root of a suite of Debian in which apt has installed those packages too."""
    disk.need_root("only root may change the root folder")
    archive = _archive((*PACKAGES, *sorted(packages)), suite)
    root.mkdir()
    subprocess.run(["tar", "-xpf", archive, "-C", root], check=True)
    return root


def run_in(root: Path, *command: str, **environment: str) -> str:
    """Run a command in `root`, with /proc and /dev that only it sees; what it printed."""
    # The root is a mount point, so that what runs in it can have mounts of its own as well.
    mounts = 'mount --rbind "$0" "$0"; cd "$0"; mount -t proc proc proc; mount --rbind /dev dev; exec chroot . "$@"'
    isolated = ["unshare", "--mount", "sh", "-ec", mounts, str(root), *command]
    return run(isolated, {"PATH": PATH, "HOME": "/root", **environment}, root)


def wheelhouse(requirement: str, *, sdist: bool = False) -> Path:
    """A folder with what the root's pip needs to install that, from this machine's index.

    `sdist` takes the requirement as an sdist, with what it builds with, and without anything it depends on.
    """
    inputs = [PYTHON, requirement, str(sdist)]
    return _once("wheels", inputs, lambda folder: _download(requirement, folder / "wheels", sdist=sdist))


def _archive(packages: tuple[str, ...], suite: str) -> Path:
    """The root as a tar."""
    options = ["--variant=minbase", f"--include={','.join(packages)}"]
    return _once("root.tar", [suite, *options], lambda folder: _bootstrap(options, suite, folder / "root.tar"))


def _once(name: str, inputs: list[str], make: Callable[[Path], None]) -> Path:
    """`name` in the cache, by the inputs it was made of; the first test that wants it makes it."""
    key = hashlib.sha256("\0".join([os.uname().machine, *inputs]).encode()).hexdigest()[:16]
    made = cache_home() / "clean-root" / f"{key}-{name}"
    with locked(made.with_suffix(".lock")), tempfile.TemporaryDirectory(dir=made.parent) as folder:
        if not made.exists():
            make(Path(folder))
            (Path(folder) / name).rename(made)
    return made


def _download(requirement: str, folder: Path, *, sdist: bool) -> None:
    wheels = ["--only-binary=:all:", "--python-version", PYTHON]
    wanted = [[*wheels, requirement]]
    if sdist:
        wanted = [
            ["--no-binary=:all:", "--no-build-isolation", "--no-deps", requirement],
            [*wheels, "setuptools", "wheel"],
        ]
    for options in wanted:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(folder), *options]
        done = subprocess.run(pip, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"pip download ended with {done.returncode}:\n{done.stdout}{done.stderr}"


def _bootstrap(options: list[str], suite: str, archive: Path) -> None:
    root = archive.with_name("root")
    # In a namespace of its own, where debootstrap's mounts end with it.
    bootstrap = ["unshare", "--mount", disk.tool("debootstrap", "debootstrap"), *options, suite, str(root)]
    done = subprocess.run([*bootstrap, *_mirror()], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"debootstrap ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr}"
    left_out = ["--exclude=./dev/*", "--exclude=./proc/*", "--exclude=./sys/*", "--exclude=./var/cache/apt/*"]
    subprocess.run(["tar", "-cpf", archive, *left_out, "-C", root, "."], check=True)


def _mirror() -> list[str]:
    """The mirror that this machine's apt takes the suite from; debootstrap's own where it takes none."""
    wanted = ["--format", "$(REPO_URI)", "Created-By: Packages", f"Codename: {SUITE}"]
    listed = subprocess.run(["apt-get", "indextargets", *wanted], capture_output=True, text=True, check=True)
    return listed.stdout.split()[:1]
