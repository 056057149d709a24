"""Run an example as its README says, and look at the assets that came out of it."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

from scripts.machine.cache import cache_home
from tests.support.mac import AS_ON_A_MAC_VARIABLES

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
MODES = {"kernel": 0o644, "init-oci": 0o755, "supermachine-agent": 0o755, "smpark.ko": 0o644}


def run_example(name: str, folder: Path, *options: str, wheel: Path, home: Path) -> str:
    """Run examples/NAME/run.sh into `folder`; what it printed."""
    command = ["bash", str(EXAMPLES / name / "run.sh"), str(folder), *options]
    return run(command, {**author(wheel, home), "PYTHONPATH": os.environ["PYTHONPATH"]}, home)


def run(command: list[str], environment: dict[str, str], folder: Path) -> str:
    """Run a command in `folder` with nothing but that environment; its output. Fails with everything it said."""
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, umask=0o022)
    assert done.returncode == 0, f"{' '.join(command)}: ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout


def author(wheel: Path, home: Path) -> dict[str, str]:
    """The environment of an app's author: a home folder, a Python with the freezers, a pip that finds the wheel."""
    return {
        **user(home),
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
        "NUITKA_CACHE_DIR": str(cache_home() / "nuitka"),  # ccache's; everything is still compiled and linked
        "PIP_FIND_LINKS": str(wheel.parent),
        "PIP_NO_INDEX": "1",
        **AS_ON_A_MAC_VARIABLES,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }


def user(home: Path) -> dict[str, str]:
    """The environment of an app's user: a home folder, and no trace of Python's module."""
    return {"HOME": str(home), "PATH": os.defpath}


def digests_in(wheel: Path) -> dict[str, str]:
    """SHA-256 by asset's name, from the wheel's own bytes."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: hashlib.sha256(archive.read(f"supermachine_kernel/assets/{name}")).hexdigest() for name in MODES}


def assert_is_the_set(folder: Path, wheel: Path) -> None:
    """The four files are in `folder` with the bytes of the wheel's and their modes."""
    found = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in MODES}
    assert found == digests_in(wheel)
    assert {name: stat.S_IMODE((folder / name).stat().st_mode) for name in MODES} == MODES
