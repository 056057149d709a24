"""The wheel of the other set, for what a wheel and its tools do with more than one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def other_wheel(x86_64_set: Path, project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished wheel of the x86_64 set, built as for a checkout before its version is released."""
    out = tmp_path_factory.mktemp("other")
    command = [sys.executable, str(project / "scripts" / "wheel.py"), "--set", "x86_64", "--out", str(out)]
    inside = {**os.environ, "SUPERMACHINE_ASSETS_DIR": str(x86_64_set)}
    subprocess.run(command, env=inside, capture_output=True, check=True)
    (built,) = out.glob("*.whl")
    return built
