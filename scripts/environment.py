"""The project's own virtual environments: in the user's cache folder, one a purpose and Python, made once."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Callable, NoReturn

from scripts.asset_build.errors import BuildError
from scripts.asset_build.fetch.cache import user_cache
from scripts.asset_build.file_lock import file_lock

PROJECT = Path(__file__).resolve().parents[1]
PIP = "pip==26.0.1"
"""The first step of every environment: a pip that knows dependency groups (PEP 735), on Python 3.9 too."""


class SetupError(Exception):
    """What this machine lacks, and the one command that mends it."""


def cache_home() -> Path:
    """The project's folder in the user's cache. Raises SetupError where there is no home folder."""
    try:
        return user_cache(os.environ)
    except BuildError as error:
        raise SetupError(str(error)) from error


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
            say(f"making the {group} environment for {_version(python)} (once)")
            _make(folder, interpreter, group, python)
            complete.touch()
    return interpreter


def install_system_tools(commands: dict[str, str]) -> None:
    """Install with apt the packages of those commands (command: Debian package) that are not on the PATH.

    Raises SetupError, with the command to run, where apt or the right to use it is missing.
    """
    missing = sorted({package for command, package in commands.items() if shutil.which(command) is None})
    if missing:
        apt_install(missing)


def apt_install(packages: list[str]) -> None:
    """Install Debian packages, as root or through sudo. Raises SetupError with the command to run instead."""
    install = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
    by_hand = f"run: sudo {' '.join(install)}"
    if shutil.which("apt-get") is None:
        raise SetupError(f"expected {', '.join(packages)} to be installed, and there is no apt-get here; install them")
    prefix = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if prefix and shutil.which("sudo") is None:
        raise SetupError(f"{', '.join(packages)} missing, and no right to install it; {by_hand}")
    say(f"installing {', '.join(packages)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with locked(cache_home() / "apt.lock"):  # of the lists apt keeps a lock that it does not wait for
        for command in (["apt-get", "update"], [*install, "-o", "DPkg::Lock::Timeout=300"]):
            done = subprocess.run([*prefix, *command], env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["no message"])[-1]
                raise SetupError(f"{', '.join(packages)}: apt-get ended with {done.returncode}: {last}; {by_hand}")


def finish(main: Callable[[], int]) -> NoReturn:
    """End the program with what `main` returns; neither an interrupt nor a reader that has gone is a traceback.

    Told to end by a signal, it first ends what it started and removes what it has half done.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    try:
        status = main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        say("interrupted")
        status = 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still buffered must not fail once more at the end
        status = 1
    sys.exit(status)


def _end(number: int, _: object) -> NoReturn:
    say(f"ended by {signal.Signals(number).name}")
    sys.exit(128 + number)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of that file, alone on this machine. Raises SetupError if the file cannot be made.

    Where the file system has no locks, the work goes on after a line that says so.
    """
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            not_held = stack.enter_context(file_lock(path))
        except OSError as error:
            raise SetupError(
                f"{path.parent}: expected a cache folder to write to, found: {error.strerror}; "
                "set XDG_CACHE_HOME to one"
            ) from error
        if not_held:
            say(f"warning: {path}: cannot be locked ({not_held}); run one program of this project at a time")
        yield


def say(message: str) -> None:
    """Progress, on standard error: standard output is for results."""
    print(message, file=sys.stderr, flush=True)


def _make(folder: Path, interpreter: Path, group: str, python: str) -> None:
    created = subprocess.run([python, "-m", "venv", str(folder)], capture_output=True, text=True, check=False)
    if created.returncode and "ensurepip" in created.stdout + created.stderr:  # Debian keeps it in a package
        apt_install([f"python{_version(python).rpartition('.')[0]}-venv"])
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
