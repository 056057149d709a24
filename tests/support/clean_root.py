"""A Debian with nothing but Python and pip: made once by debootstrap, kept in the cache, run in by chroot."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from scripts.environment import cache_home
from tests.support import disk
from tests.support.examples import run

SUITE = "bookworm"
BOOTSTRAP = ["--variant=minbase", "--include=python3,python3-pip"]
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def unpack(root: Path) -> Path:
    """Make `root`, a fresh clean root."""
    if os.geteuid() != 0:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("only root may change the root folder")
    archive = _archive()
    root.mkdir()
    subprocess.run(["tar", "-xpf", archive, "-C", root], check=True)
    return root


def run_in(root: Path, *command: str, **environment: str) -> str:
    """Run a command in `root`, with /proc and /dev that only it sees; what it printed."""
    mounts = 'cd "$0"; mount -t proc proc proc; mount --rbind /dev dev; exec chroot . "$@"'
    isolated = ["unshare", "--mount", "sh", "-ec", mounts, str(root), *command]
    return run(isolated, {"PATH": PATH, "HOME": "/root", **environment}, root)


def _archive() -> Path:
    """The root as a tar, made by the first test that wants it."""
    key = hashlib.sha256(" ".join([SUITE, os.uname().machine, *BOOTSTRAP]).encode()).hexdigest()[:16]
    archive = cache_home() / "clean-root" / f"{key}.tar"
    archive.parent.mkdir(parents=True, exist_ok=True)
    with archive.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not archive.exists():
            _make(archive)
    return archive


def _make(archive: Path) -> None:
    with tempfile.TemporaryDirectory(dir=archive.parent) as folder:
        root, packed = Path(folder) / "root", Path(folder) / archive.name
        # In a namespace of its own, where debootstrap's mounts end with it.
        bootstrap = ["unshare", "--mount", disk.tool("debootstrap", "debootstrap"), *BOOTSTRAP, SUITE, str(root)]
        done = subprocess.run([*bootstrap, *_mirror()], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"debootstrap ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr}"
        left_out = ["--exclude=./dev/*", "--exclude=./proc/*", "--exclude=./sys/*", "--exclude=./var/cache/apt/*"]
        subprocess.run(["tar", "-cpf", packed, *left_out, "-C", root, "."], check=True)
        packed.rename(archive)


def _mirror() -> list[str]:
    """The mirror that this machine's apt takes the suite from; debootstrap's own where it takes none."""
    wanted = ["--format", "$(REPO_URI)", "Created-By: Packages", f"Codename: {SUITE}"]
    listed = subprocess.run(["apt-get", "indextargets", *wanted], capture_output=True, text=True, check=True)
    return listed.stdout.split()[:1]
