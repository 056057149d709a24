"""A process whose system calls answer as other file systems and hostile neighbours do (odd_system.c says how)."""

from __future__ import annotations

import os
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from . import child, disk

SOURCE = Path(__file__).with_name("odd_system.c")


def python(code: str, *arguments: object, site: Path | None = None, **odd: object) -> subprocess.CompletedProcess[str]:
    """Run `code` where the system is odd: `path="assets/", read=5` is ODD_PATH and ODD_READ."""
    return child.python(code, *arguments, site=site, **_environment(odd))


def command_line(*arguments: object, site: Path | None = None, **odd: object) -> subprocess.CompletedProcess[str]:
    """Run the module's command line where the system is odd."""
    return child.command_line(*arguments, site=site, **_environment(odd))


def variables(**odd: object) -> dict[str, str]:
    """What makes the system odd for a process of any kind."""
    return _environment(odd)


def _environment(odd: dict[str, object]) -> dict[str, str]:
    return {"LD_PRELOAD": str(_library()), **{f"ODD_{name.upper()}": str(value) for name, value in odd.items()}}


@cache
def _library() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="supermachine-kernel-odd-"))
    import atexit
    import shutil

    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    library = folder / "odd_system.so"
    compiler = [disk.tool("gcc", "gcc"), "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([*compiler, "-o", library, SOURCE, "-ldl"], check=True, env={**os.environ, "LC_ALL": "C"})
    return library
