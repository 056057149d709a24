"""The project's own virtual environments: kept in the user's cache folder, one for each purpose and Python."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from ..asset_build.paths import PROJECT
from .cache import cache_home, locked
from .errors import SetupError
from .packages import install_packages
from .program import log

PIP = "pip==26.0.1"
"""The first package of every environment: a pip that knows dependency groups (PEP 735), on Python 3.9 too."""


def ensure(group: str, python: str = sys.executable) -> Path:
    """The interpreter of an environment with the dependency group `group` of pyproject.toml.

    The groups "build" and "test" have what pyproject.toml's build-system requires as well. Raises SetupError.
    """
    folder = cache_home() / "venv" / f"{group}-{_key(python)}"
    interpreter = folder / "bin" / "python"
    complete = folder / "complete"
    with locked(folder.with_suffix(".lock")):
        if not complete.exists():
            shutil.rmtree(folder, ignore_errors=True)
            log(f"making the {group} environment for {_version(python)} (once)")
            _make(folder, interpreter, group, python)
            complete.touch()
    return interpreter


def _make(folder: Path, interpreter: Path, group: str, python: str) -> None:
    created = subprocess.run([python, "-m", "venv", str(folder)], capture_output=True, text=True, check=False)
    if created.returncode and "ensurepip" in created.stdout + created.stderr:  # Debian keeps it in a package
        install_packages([f"python{_version(python).rpartition('.')[0]}-venv"])
        _run([python, "-m", "venv", "--clear", str(folder)])
    elif created.returncode:
        raise SetupError(f"{folder}: no virtual environment: {created.stderr.strip() or created.stdout.strip()}")
    pip = [str(interpreter), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([*pip, PIP])
    _run([*pip, "--group", f"{PROJECT / 'pyproject.toml'}:{group}"])
    if group in ("build", "test"):
        _run([*pip, *_build_requires(interpreter)])


def _build_requires(interpreter: Path) -> list[str]:
    program = "import build, sys; print(*sorted(build.ProjectBuilder(sys.argv[1]).build_system_requires), sep='\\n')"
    return _run([str(interpreter), "-c", program, str(PROJECT)]).split()


def _key(python: str) -> str:
    pyproject = (PROJECT / "pyproject.toml").read_bytes()
    return hashlib.sha256(b"\0".join((pyproject, _version(python).encode()))).hexdigest()[:16]


def _version(python: str) -> str:
    return _run([python, "-c", "import platform; print(platform.python_version())"]).strip()


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SetupError(f"{' '.join(command)}: ended with {done.returncode}:\n{done.stdout}{done.stderr}".rstrip())
    return done.stdout
