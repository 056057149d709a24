"""Debian packages: the tools that tests and programs run beside Python, and how apt installs them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from .cache import cache_home, locked
from .errors import SetupError
from .program import log

LIST = Path(__file__).with_name("debian-packages.txt")
"""The Debian packages of a machine that builds and tests: one a line, and the commands of it that are run here.

The name of a header, where a package has no command, is an absolute path.
"""
PACKAGE_OF = {
    command: package
    for package, *commands in (line.split() for line in LIST.read_text().splitlines())
    for command in commands
}
"""The package of each of those commands."""


def install_commands(commands: Iterable[str] = PACKAGE_OF) -> None:
    """Install with apt the packages of those commands that are not on the PATH. Raises SetupError."""
    missing = sorted({PACKAGE_OF[command] for command in commands if not _is_there(command)})
    if missing:
        install_packages(missing)


def _is_there(command: str) -> bool:
    return os.path.exists(command) if os.path.isabs(command) else shutil.which(command) is not None


def install_packages(packages: list[str]) -> None:
    """Install Debian packages, as root or through sudo. Raises SetupError with the command to run instead."""
    install = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
    subject, expected, by_hand = ", ".join(packages), "to be installed", f"run: sudo {' '.join(install)}"
    if shutil.which("apt-get") is None:
        raise SetupError(subject, expected, "no apt-get that could do it", "install them by hand")
    prefix = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if prefix and shutil.which("sudo") is None:
        raise SetupError(subject, expected, "no right to do it, and no sudo", by_hand)
    log(f"installing {', '.join(packages)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    # apt itself waits for dpkg's lock, and not for the lock of its package lists.
    with locked(cache_home() / "apt.lock"):
        for command in (["apt-get", "update"], [*install, "-o", "DPkg::Lock::Timeout=300"]):
            done = subprocess.run([*prefix, *command], env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["no message"])[-1]
                raise SetupError(subject, expected, f"that apt-get ended with {done.returncode}: {last}", by_hand)
