#!/usr/bin/env python3
"""Check everything: style, types, the tests on a real wheel, and the module's tests on every Python found."""

from __future__ import annotations

import runpy

if not __package__:
    runpy.run_path(f"{__file__.rpartition('/')[0]}/_path.py")

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from scripts.asset_build.guest_sets import GUEST_SETS, set_of_this_machine
from scripts.asset_build.lock import read_lock
from scripts.asset_build.paths import PROJECT
from scripts.asset_build.wheel.sources import NoSourceError, resolve
from scripts.machine import environments
from scripts.machine.build import build_assets, checked_wheel
from scripts.machine.errors import SetupError, WheelError
from scripts.machine.install import install
from scripts.machine.packages import install_commands
from scripts.machine.program import log, run_program

SET = "aarch64"
"""The set that all tests are run with which would say the same of any."""
QUICK = ("-m", "not slow and not whole_run", "--durations=5", "--durations-min=1")
"""Whoever adds a test that takes a second sees it."""
OTHER_PYTHONS = ("-m", "not slow")
SUPPORTED = ("3.9", "3.10", "3.11", "3.12", "3.13", "3.14")

EPILOG = """\
steps: ruff, mypy, the assets from source (cached), the wheel, pytest, and the tests of the installed module
(tests/module) on every other supported Python that is found. Arguments after -- go to pytest.

examples:
  python3 scripts/test.py                       everything
  python3 scripts/test.py --quick               the inner loop: nothing that boots, freezes or takes seconds
  python3 scripts/test.py -- -k extract -x
"""


class StepError(Exception):
    """A step failed. The text is its name; its output has been shown."""


def main(arguments: list[str] | None = None) -> int:
    """Run the steps; the exit status: 0 all good, 1 a step failed, 2 usage."""
    options = _parser().parse_args(arguments)
    started = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="supermachine-kernel-test-") as folder:
            run(Path(folder), quick=options.quick, pytest_arguments=options.pytest)
    except (SetupError, WheelError) as error:
        print(f"test.py: {error}", file=sys.stderr)
        return 1
    except StepError as failed:
        print(f"test.py: {failed} failed after {time.monotonic() - started:.0f} s", file=sys.stderr)
        return 1
    print(f"test.py: all good in {time.monotonic() - started:.0f} s", file=sys.stderr)
    return 0


def run(folder: Path, *, quick: bool, pytest_arguments: list[str]) -> None:
    """The steps, in order. Raises StepError, SetupError or WheelError."""
    if not quick and sys.platform == "linux":
        install_commands()
    python = environments.ensure("test")
    _run_step("ruff format", python, ["ruff", "format", "--check", "--quiet", "."])
    _run_step("ruff", python, ["ruff", "check", "--quiet", "."])
    _run_step("mypy", python, ["mypy"])
    if sys.platform == "linux":
        for guest_set in [SET] if quick else GUEST_SETS:
            build_assets(guest_set)
    else:
        _require_assets()
    installed = _installed(python, folder)
    if not quick and set_of_this_machine() != SET:
        installed["SUPERMACHINE_TEST_NATIVE_WHEEL"] = checked_wheel(folder, set_of_this_machine())["wheel"]
    select = QUICK if quick else ()
    _run_step("pytest", python, ["pytest", "-n", "2", "--dist", "loadgroup", *select, *pytest_arguments], installed)
    if not quick:
        for version, other in other_pythons().items():
            module = environments.ensure("module", other)
            _run_step(
                f"module on {version}",
                module,
                ["pytest", "-n", "2", "--dist", "loadgroup", *OTHER_PYTHONS, "tests/module"],
                installed,
            )


def _require_assets() -> None:
    """Raise WheelError where there are no assets to test with: they are built on Linux, and fetched once released."""
    if read_lock(PROJECT).set(SET) is None:
        try:
            resolve(PROJECT, {**os.environ, "SUPERMACHINE_SET": SET}, local_only=True)
        except NoSourceError as error:
            cure = "run scripts/container.sh bash kernel-build/scripts/build.sh, or set SUPERMACHINE_ASSETS_DIR to a "
            cure += "folder with the files of supermachine_kernel/assets in a wheel"
            expected = f"the assets of {SET}, which are built on Linux alone"
            raise WheelError("kernel-build/out", expected, "none", cure) from error


def other_pythons() -> dict[str, str]:
    """The supported Pythons of this machine but the running one: on the PATH, or installed by pyenv."""
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    found = {}
    for version in SUPPORTED:
        candidates = [*sorted(pyenv.glob(f"{version}.*/bin/python")), shutil.which(f"python{version}")]
        works = [str(candidate) for candidate in candidates if candidate and _is(str(candidate), version)]
        if works and version != running:
            found[version] = works[0]
        elif version != running:
            log(f"Python {version} is not on this machine: its module tests are left to another")
    return found


def _is(python: str, version: str) -> bool:
    """Say whether `python` is of that version; a pyenv shim is on the PATH even where it leads to nothing."""
    program = "import sys; print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run([python, "-I", "-c", program], capture_output=True, text=True, check=False)
    return done.returncode == 0 and done.stdout.strip() == version


def _installed(python: Path, folder: Path) -> dict[str, str]:
    """Build the wheel and install it as on the Mac; the environment that lets tests find both."""
    report = checked_wheel(folder, SET)
    site = folder / "site"
    install(python, Path(report["wheel"]), site)
    log(json.dumps({key: report[key] for key in ("version", "sha256", "set_digest")}))
    return {"SUPERMACHINE_TEST_WHEEL": report["wheel"], "SUPERMACHINE_TEST_INSTALLED": str(site)}


def _run_step(name: str, python: Path, arguments: Sequence[str], extra: dict[str, str] | None = None) -> None:
    log(f"--- {name}")
    started = time.monotonic()
    inside = {**environments.variables(python), **(extra or {})}
    done = subprocess.run([str(python), "-m", *arguments], cwd=PROJECT, env=inside, check=False)
    if done.returncode:
        raise StepError(name)
    log(f"--- {name}: {time.monotonic() - started:.0f} s")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="leave out what boots, freezes or needs the network")
    parser.add_argument("pytest", nargs="*", metavar="PYTEST_ARGUMENT", help="passed on to pytest, after --")
    return parser


if __name__ == "__main__":
    run_program(main)
