"""Install a wheel into a folder, on any machine, as pip does on a Mac with Apple Silicon."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from ..asset_build.guest_sets import wheel_row
from .environments import without_pips
from .errors import WheelError

AS_ON_A_MAC = ("--platform", wheel_row().platform_tag, "--only-binary=:all:")
"""pip's options that take the wheel of a Mac; pip wants `--target` or `--dest` beside them."""
AS_ON_A_MAC_VARIABLES = {"PIP_PLATFORM": wheel_row().platform_tag, "PIP_ONLY_BINARY": ":all:", "PIP_NO_DEPS": "1"}
"""The same as the environment of a pip that something else starts."""


def install(python: Path, wheel: Path, target: Path) -> None:
    """Install the wheel, without a network, into the folder `target` with the pip of that Python. Raises WheelError."""
    command = [str(python), "-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    command += ["--no-deps", *AS_ON_A_MAC, "--target", str(target), str(wheel)]
    inside = without_pips(os.environ)
    done = subprocess.run(command, env=inside, capture_output=True, text=True, check=False)
    if done.returncode:
        raise WheelError(wheel.name, "a wheel that pip installs", done.stderr.strip())
