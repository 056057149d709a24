"""Debian's packages for any architecture, downloaded and unpacked on a machine of any architecture.

Apt gets a state of its own, as if no package were installed, so that the machine needs no foreign architecture.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from scripts.machine.errors import SetupError


def download_with_dependencies(scratch: Path, packages: list[str], architecture: str = "arm64") -> list[Path]:
    """Download these packages and all that they depend on; return the files, by name. Raises SetupError."""
    _apt_get(scratch, architecture, "install", "--yes", "--download-only", "--no-install-recommends", *packages)
    return sorted((scratch / "cache" / "archives").glob("*.deb"))


def download(scratch: Path, package: str, architecture: str = "arm64") -> Path:
    """Download one package; return its file. Raises SetupError."""
    _apt_get(scratch, architecture, "download", package)
    (archive,) = scratch.glob("*.deb")
    return archive


def unpack(package: Path, root: Path, *members: str) -> None:
    """Unpack a package, or these members of it ("./usr/bin/x"), into the folder `root`. Raises SetupError."""
    root.mkdir(exist_ok=True)
    tar = ["tar", "--extract", "--keep-directory-symlink", "--numeric-owner", "--directory", str(root), *members]
    # Not dpkg-deb --extract, which would put a folder in the place of a link such as /lib.
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE) as archive:
        done = subprocess.run(tar, stdin=archive.stdout, capture_output=True, text=True, check=False)
    if done.returncode or archive.returncode:
        raise SetupError(
            str(package), "a package that can be unpacked", done.stderr.strip(), "remove it, and try again"
        )


def _apt_get(scratch: Path, architecture: str, *command: str) -> None:
    (scratch / "state" / "lists" / "partial").mkdir(parents=True)
    (scratch / "cache" / "archives" / "partial").mkdir(parents=True)
    (scratch / "status").touch()
    options = [f"Dir::State={scratch}/state", f"Dir::State::status={scratch}/status", f"Dir::Cache={scratch}/cache"]
    options += [f"APT::Architecture={architecture}", f"APT::Architectures::={architecture}", "APT::Sandbox::User=root"]
    options += ["Debug::NoLocking=true"]
    apt = ["apt-get", "-qq", *(word for option in options for word in ("-o", option))]
    inside = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update"], list(command)):
        done = subprocess.run([*apt, *words], cwd=scratch, env=inside, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise SetupError(
                f"apt-get {' '.join(words)}", f"Debian's packages for {architecture}", last, "see that apt works here"
            )
