"""Build the assets and the wheel of this checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from ..asset_build.paths import PROJECT
from .environments import without_pythons_own
from .errors import WheelError
from .program import log

BUILD_SCRIPT = "kernel-build/scripts/build.sh"


def build_assets(guest_set: str) -> None:
    """Build the assets of one set from source (kernel-build/); a set that was built before comes out of the cache.

    Raises WheelError.
    """
    log(f"building the assets of {guest_set} from source")
    done = _run_build_script("--set", guest_set, stdout=2)
    if done.returncode:
        raise WheelError(BUILD_SCRIPT, "to succeed", f"exit status {done.returncode}", "its message is above")


def inputs_digest(guest_set: str) -> str:
    """The digest, in hexadecimal, of all that the assets of a set are built from. Raises WheelError."""
    done = _run_build_script("--set", guest_set, "--print-digest", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    digest = done.stdout.strip()
    if done.returncode or len(digest) != 64:
        found = done.stderr.strip() or f"exit status {done.returncode} and {digest!r}"
        raise WheelError(f"{BUILD_SCRIPT} --print-digest", "a digest", found)
    return digest


def _run_build_script(*options: str, stdout: int, stderr: int | None = None) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(PROJECT / BUILD_SCRIPT), *options]
    try:
        return subprocess.run(command, stdout=stdout, stderr=stderr, text=True, check=False)
    except OSError as error:
        found, cure = error.strerror or str(error), f"{BUILD_SCRIPT} needs bash on the PATH"
        raise WheelError("bash", "a program that can be run", found, cure) from error


def checked_wheel(out: Path, guest_set: str) -> dict[str, Any]:
    """Run scripts/wheel.py, which builds the wheel of a set into `out` and checks it; its report. Raises WheelError."""
    command = [sys.executable, str(PROJECT / "scripts" / "wheel.py"), "--set", guest_set, "--json", "--out", str(out)]
    inside = without_pythons_own(os.environ)
    done = subprocess.run(command, env=inside, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise WheelError("scripts/wheel.py", "to succeed", f"exit status {done.returncode}", "its message is above")
    report: dict[str, Any] = json.loads(done.stdout)
    return report
