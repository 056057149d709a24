"""Debian's arm64 packages, as an image to boot or as single files; apt fetches them once, into the user's cache.

A single file may be that of another architecture.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from scripts.guest.debian_packages import download, download_with_dependencies, unpack
from scripts.machine.cache import cache_home, locked
from scripts.machine.packages import install_commands

BASE = ("base-files", "base-passwd", "bash", "coreutils", "dash", "libc-bin", "mount", "procps", "sed", "grep")
"""What every image has beside the packages that a test asks for."""
_MERGED = ("bin", "sbin", "lib")
"""Folders that are links into /usr in Debian; without them a package's /lib would hide the linker's /usr/lib."""


def image(*packages: str) -> Path:
    """A squashfs with those packages, all that they depend on, and a shell.

    The packages are only unpacked: their installation scripts are not run, so there are no alternatives, no users but
    those of base-passwd, and no services.
    """
    install_commands(["mksquashfs"])
    names = sorted({*BASE, *packages})
    return _kept("image-" + _digest(names), ".squashfs", lambda scratch: _make_image(scratch, names))


def layer(*packages: str, suite: str | None = None) -> Path:
    """The same as a tar, for a layer of an OCI image; the packages may be those of another suite of Debian."""
    names = sorted({*BASE, *packages})
    key = _digest([*names, *([suite] if suite else [])])
    return _kept(f"layer-{key}", ".tar", lambda scratch: _make_layer(scratch, names, suite))


def file(package: str, path: str, architecture: str = "arm64") -> Path:
    """One file of a package, `path` being relative to the root."""
    name = "file-" + _digest([package, path, architecture])
    return _kept(name, "", lambda scratch: _fetch_file(scratch, package, path, architecture))


def _digest(names: list[str]) -> str:
    return hashlib.sha256("\0".join(names).encode()).hexdigest()[:16]


def _kept(name: str, suffix: str, make: Callable[[Path], Path]) -> Path:
    kept = cache_home() / "test" / f"{name}{suffix}"
    with locked(kept.with_suffix(".lock")):
        if not kept.exists():
            with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
                make(Path(scratch)).rename(kept)
    return kept


def _make_image(scratch: Path, names: list[str]) -> Path:
    root, made = _make_root(scratch, names), scratch / "image.squashfs"
    squash = ["mksquashfs", str(root), str(made), "-quiet", "-no-progress", "-comp", "zstd", "-Xcompression-level", "3"]
    subprocess.run(squash, check=True, stdout=subprocess.DEVNULL)
    return made


def _make_layer(scratch: Path, names: list[str], suite: str | None) -> Path:
    root, made = _make_root(scratch, names, suite), scratch / "layer.tar"
    subprocess.run(
        ["tar", "--create", "--numeric-owner", "--file", str(made), "--directory", str(root), "."], check=True
    )
    return made


def _make_root(scratch: Path, names: list[str], suite: str | None = None) -> Path:
    root = scratch / "root"
    for name in _MERGED:
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for package in download_with_dependencies(scratch, names, suite=suite):
        unpack(package, root)
    for master in (root / "usr/share/base-passwd").glob("*.master"):
        shutil.copy(master, root / "etc" / master.stem)
    return root


def _fetch_file(scratch: Path, package: str, path: str, architecture: str) -> Path:
    unpack(download(scratch, package, architecture), scratch / "root", f"./{path}")
    return scratch / "root" / path
