"""Debian's arm64 packages, as an image to boot or as single files; apt fetches them once, into the user's cache.

Apt gets a state of its own, so that the machine needs no foreign architecture.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

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


def layer(*packages: str) -> Path:
    """The same as a tar, for a layer of an OCI image."""
    names = sorted({*BASE, *packages})
    return _kept("layer-" + _digest(names), ".tar", lambda scratch: _make_layer(scratch, names))


def file(package: str, path: str) -> Path:
    """One file of a package, `path` being relative to the root."""
    return _kept("file-" + _digest([package, path]), "", lambda scratch: _fetch_file(scratch, package, path))


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


def _make_layer(scratch: Path, names: list[str]) -> Path:
    root, made = _make_root(scratch, names), scratch / "layer.tar"
    subprocess.run(
        ["tar", "--create", "--numeric-owner", "--file", str(made), "--directory", str(root), "."], check=True
    )
    return made


def _make_root(scratch: Path, names: list[str]) -> Path:
    root = scratch / "root"
    for name in _MERGED:
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    _apt(scratch, "install", "--yes", "--download-only", "--no-install-recommends", *names)
    for package in sorted((scratch / "cache" / "archives").glob("*.deb")):
        _unpack(package, root)
    for master in (root / "usr/share/base-passwd").glob("*.master"):
        shutil.copy(master, root / "etc" / master.stem)
    return root


def _fetch_file(scratch: Path, package: str, path: str) -> Path:
    _apt(scratch, "download", package)
    (archive,) = scratch.glob("*.deb")
    _unpack(archive, scratch / "root", f"./{path}")
    return scratch / "root" / path


def _unpack(package: Path, root: Path, *members: str) -> None:
    root.mkdir(exist_ok=True)
    # Not dpkg-deb --extract: it would put a folder in the place of the link /lib.
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE) as archive:
        tar = ["tar", "--extract", "--keep-directory-symlink", "--numeric-owner", "--directory", str(root), *members]
        subprocess.run(tar, stdin=archive.stdout, check=True)
    assert archive.returncode == 0, package.name


def _apt(scratch: Path, *command: str) -> None:
    """Run apt-get with its state in `scratch`, as if on an arm64 machine with no package installed."""
    (scratch / "state" / "lists" / "partial").mkdir(parents=True)
    (scratch / "cache" / "archives" / "partial").mkdir(parents=True)
    (scratch / "status").touch()
    options = [f"Dir::State={scratch}/state", f"Dir::State::status={scratch}/status", f"Dir::Cache={scratch}/cache"]
    options += ["APT::Architecture=arm64", "APT::Architectures::=arm64", "APT::Sandbox::User=root"]
    apt = ["apt-get", "-qq", *(word for option in options for word in ("-o", option))]
    inside = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update"], list(command)):
        done = subprocess.run([*apt, *words], cwd=scratch, env=inside, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"apt-get {' '.join(words)}:\n{done.stdout}{done.stderr}"
