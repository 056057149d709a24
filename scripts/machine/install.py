"""Install a wheel into a folder, on any machine, as pip does on a machine that the wheel is for."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from .environments import without_pips
from .errors import WheelError


def install(python: Path, wheel: Path, target: Path) -> None:
    """Install the wheel, without a network, into the folder `target` with the pip of that Python. Raises WheelError."""
    command = [str(python), "-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    platforms = [f"--platform={tag}" for tag in wheel.stem.rpartition("-")[2].split(".")]
    command += ["--no-deps", "--only-binary=:all:", *platforms, "--target", str(target), str(wheel)]
    inside = without_pips(os.environ)
    done = subprocess.run(command, env=inside, capture_output=True, text=True, check=False)
    if done.returncode:
        raise WheelError(wheel.name, "a wheel that pip installs", done.stderr.strip())
