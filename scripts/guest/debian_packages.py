"""Debian's packages for any architecture, downloaded and unpacked on a machine of any architecture.

Apt gets a state of its own, as if no package were installed, so that the machine needs no foreign architecture.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from scripts.machine.errors import SetupError


def download_with_dependencies(
    scratch: Path, packages: list[str], architecture: str = "arm64", suite: str | None = None
) -> list[Path]:
    """Download these packages and all that they depend on; return the files, by name. Raises SetupError.

    They are those of `suite` ("sid"), or of the suites that this machine uses.
    """
    options = _updated(scratch, architecture)
    if suite:
        options += _other_suite(scratch, options, suite)
        _apt_get(scratch, options, "update")
    install = ["install", "--yes", "--download-only", "--no-install-recommends"]
    _apt_get(scratch, options, *install, *packages)
    return sorted((scratch / "cache" / "archives").glob("*.deb"))


def download(scratch: Path, package: str, architecture: str = "arm64") -> Path:
    """Download one package; return its file. Raises SetupError."""
    _apt_get(scratch, _updated(scratch, architecture), "download", package)
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


def _updated(scratch: Path, architecture: str) -> list[str]:
    """Have apt fetch its lists into the folder `scratch`; return the options that make it use them."""
    (scratch / "state" / "lists" / "partial").mkdir(parents=True)
    (scratch / "cache" / "archives" / "partial").mkdir(parents=True)
    (scratch / "status").touch()
    options = [f"Dir::State={scratch}/state", f"Dir::State::status={scratch}/status", f"Dir::Cache={scratch}/cache"]
    options += [f"APT::Architecture={architecture}", f"APT::Architectures::={architecture}", "APT::Sandbox::User=root"]
    options += ["Debug::NoLocking=true"]
    _apt_get(scratch, options, "update")
    return options


def _other_suite(scratch: Path, options: list[str], suite: str) -> list[str]:
    """The options that have apt use only that suite, of the archive of Debian that this machine uses."""
    targets = ["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Label: Debian"]
    archives = _apt_get(scratch, options, *targets).split()
    if not archives:
        raise SetupError("apt's sources", "an archive of Debian", "none", "add one there")
    sources = scratch / "sources.list"
    sources.write_text(f"deb {archives[0]} {suite} main\n")
    return [f"Dir::Etc::SourceList={sources}", "Dir::Etc::SourceParts=/dev/null"]


def _apt_get(scratch: Path, options: list[str], *command: str) -> str:
    """What apt-get says on its standard output. Raises SetupError."""
    apt = ["apt-get", "-qq", *(word for option in options for word in ("-o", option)), *command]
    inside = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(apt, cwd=scratch, env=inside, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise SetupError(f"apt-get {' '.join(command)}", "Debian's packages", last, "see that apt works here")
    return done.stdout
