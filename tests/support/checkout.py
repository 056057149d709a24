"""Copies of the checkout, to build from and to change."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from scripts.asset_build.lock import LOCK_NAME, Lock, format_lock
from supermachine_kernel._version import VERSION


def copy(project: Path, destination: Path) -> Path:
    """The files git knows, or would take, as they are in the working tree, in `destination`."""
    listed = ["git", "-C", str(project), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        if (project / name).is_file():  # deleted in the working tree, still in the index
            (destination / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(project / name, destination / name)
    return destination


def unlock(checkout: Path) -> Path:
    """Leave the lock of `checkout` without a set, as it is before the release of a version."""
    (checkout / LOCK_NAME).write_text(format_lock(Lock(VERSION, {})), encoding="utf-8")
    return checkout
