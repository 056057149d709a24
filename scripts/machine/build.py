"""Build the assets and the wheel of this checkout."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from ..asset_build.paths import PROJECT
from .errors import WheelError
from .program import log


def build_assets() -> None:
    """Build the four assets of kernel-build/ from source; a set that was built before comes out of the cache.

    Raises WheelError.
    """
    log("building the assets from source")
    script = PROJECT / "kernel-build" / "scripts" / "build.sh"
    done = subprocess.run(["bash", str(script)], stdout=sys.stderr, check=False)
    if done.returncode:
        raise WheelError(f"{script.relative_to(PROJECT)} ended with {done.returncode}; its message is above")


def checked_wheel(out: Path) -> dict[str, Any]:
    """Run scripts/wheel.py, which builds the wheel into `out` and checks it; its report. Raises WheelError."""
    command = [sys.executable, str(PROJECT / "scripts" / "wheel.py"), "--json", "--out", str(out)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise WheelError(f"scripts/wheel.py ended with {done.returncode}; its message is above")
    report: dict[str, Any] = json.loads(done.stdout)
    return report
