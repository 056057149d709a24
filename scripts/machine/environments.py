"""The project's own virtual environments: kept in the user's cache folder, one for each purpose and Python."""

from __future__ import annotations

import ast
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from ..asset_build.paths import PROJECT
from .cache import cache_home, locked, why_others_can_write
from .errors import SetupError
from .packages import install_packages
from .program import log

LOCKS = PROJECT / "scripts" / "machine" / "requirements"
"""Of each environment all packages, by version and SHA-256; scripts/lock_dependencies.py writes them."""

_VENV = ("-I", "-m", "venv")
_KEPT_PIP_OPTIONS = {
    *("index-url", "extra-index-url", "find-links", "no-index", "trusted-host", "proxy", "cert", "client-cert"),
    *("timeout", "default-timeout", "retries", "cache-dir", "no-cache-dir", "keyring-provider"),
}
"""The user's options for pip that say where packages come from; no other may change what is installed where."""


def ensure(group: str, python: str = sys.executable) -> Path:
    """The interpreter of the environment `group`: "build", "index", "module" or "test".

    It has the dependency group of that name in pyproject.toml, as LOCKS has it. An environment that was not made
    whole, whose Python has gone, or to which somebody else can write is made anew. Raises SetupError.
    """
    folder = cache_home() / "venv" / f"{group}-{_key(group, python)}"
    interpreter = folder / "bin" / "python"
    complete = folder / "complete"
    with locked(folder.with_suffix(".lock")):
        if not complete.exists() or why_others_can_write(folder) or not _runs(interpreter):
            shutil.rmtree(folder, ignore_errors=True)
            log(f"making the {group} environment for {_version(python)} (once)")
            _make(folder, interpreter, group, python)
            try:
                complete.touch()
            except OSError as error:
                raise SetupError(str(complete), "to be written", error.strerror or str(error)) from error
    return interpreter


def variables(python: Path) -> dict[str, str]:
    """This process's variables for a child that must find what an environment of ours has, and no more.

    Python's own (PYTHONPATH, PYTHONHOME and the like) are left out. Of pip's, and of its configuration files, only
    those are left that say where packages come from: indexes, proxies, certificates. `python` has the pip that reads
    them. Raises SetupError.
    """
    inherited = without_pythons_own(os.environ)
    listed = _run([str(python), "-I", "-m", "pip", "config", "list"], inherited)
    options: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
    for line in listed.splitlines():
        name, equals, value = line.partition("=")
        section, _, option = name.rpartition(".")
        if equals and section in options and option in _KEPT_PIP_OPTIONS:
            options[section][option] = ast.literal_eval(value)
    kept = {option: value for section in options.values() for option, value in section.items()}
    named = {f"PIP_{option.upper().replace('-', '_')}": value for option, value in kept.items()}
    return {**without_pips(inherited), **named, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def without_pythons_own(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables but those that change what any Python does."""
    return {name: value for name, value in environ.items() if not name.startswith("PYTHON")}


def without_pips(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables but those that change what pip does, and with no configuration file of pip."""
    left = {name: value for name, value in environ.items() if not name.startswith("PIP_")}
    return {**left, "PIP_CONFIG_FILE": os.devnull}


def _make(folder: Path, interpreter: Path, group: str, python: str) -> None:
    venv = [python, *_VENV]
    inherited = without_pythons_own(os.environ)
    created = _finished([*venv, str(folder)], inherited)
    if created.returncode and "ensurepip" in created.stdout + created.stderr:  # Debian keeps it in a package
        install_packages([f"python{_version(python).rpartition('.')[0]}-venv"])
        _run([*venv, "--clear", str(folder)], inherited)
    elif created.returncode:
        raise SetupError(str(folder), "a virtual environment", created.stderr.strip() or created.stdout.strip())
    install = [str(interpreter), "-I", "-m", "pip", "install", "--quiet", "--require-hashes", "--no-deps"]
    _run([*install, "-r", str(_lock(group))], variables(interpreter))


def _lock(group: str) -> Path:
    return LOCKS / f"{group}.txt"


def _key(group: str, python: str) -> str:
    return hashlib.sha256(_lock(group).read_bytes() + _version(python).encode()).hexdigest()[:16]


def _version(python: str) -> str:
    return _run([python, "-I", "-c", "import platform; print(platform.python_version())"]).strip()


def _runs(interpreter: Path) -> bool:
    """Say whether the interpreter starts: it is a link to a Python that may have been removed or replaced since."""
    try:
        return subprocess.run([interpreter, "-I", "-c", ""], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _run(command: list[str], environ: dict[str, str] | None = None) -> str:
    done = _finished(command, environ)
    if done.returncode:
        said = (done.stdout + done.stderr).strip()
        raise SetupError(" ".join(command), "to succeed", f"exit status {done.returncode} and:\n{said}")
    return done.stdout


def _finished(command: list[str], environ: dict[str, str] | None) -> subprocess.CompletedProcess[str]:
    try:
        # With this umask nobody else can write to what is installed, whatever the user's own is.
        return subprocess.run(command, env=environ, capture_output=True, text=True, check=False, umask=0o022)
    except OSError as error:
        raise SetupError(command[0], "a program that can be run", error.strerror or str(error)) from error
