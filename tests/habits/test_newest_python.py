"""The module's tests on the newest Python, which only Debian's unstable suite has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from scripts.machine.environments import LOCKS
from tests.support import checkout, clean_root

VERSION = "3.14"
TOOLS = ("e2fsprogs", "gcc", "git", "libc6-dev", "strace")
"""The packages of what the module's tests run beside Python."""


@pytest.fixture(scope="module")
def root(project: Path, wheel: Path, installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean root with that Python, the checkout in /src, and the wheel installed as for a Mac in /site."""
    folder = tmp_path_factory.mktemp("newest")
    packages = (f"python{VERSION}", f"python{VERSION}-venv", *TOOLS)
    root = clean_root.unpack(folder / "root", *packages, suite="sid")
    checkout.copy(project, root / "src")
    subprocess.run(["cp", "-r", str(installed), str(root / "site")], check=True)
    subprocess.run(["cp", str(wheel), str(root / wheel.name)], check=True)
    lock = str(LOCKS / "module.txt")
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "-r", lock]
    options = ["--only-binary=:all:", "--python-version", VERSION, "--dest", str(root / "wheels")]
    subprocess.run([*download, *options], check=True)
    clean_root.run_in(root, f"python{VERSION}", "-m", "venv", "/venv")
    install = [
        "/venv/bin/python",
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--find-links",
        "/wheels",
    ]
    clean_root.run_in(root, *install, "--require-hashes", "-r", "/src/scripts/machine/requirements/module.txt")
    return root


@pytest.mark.slow
@pytest.mark.ondemand  # a suite that changes every day, and minutes of fetching
def test_the_modules_tests_pass_on_the_newest_python(root: Path, wheel: Path) -> None:
    tests = ["cd /src && exec /venv/bin/python -m pytest -q -p no:cacheprovider -n 2 -m 'not slow' tests/module"]
    where = {"SUPERMACHINE_TEST_WHEEL": f"/{wheel.name}", "SUPERMACHINE_TEST_INSTALLED": "/site", "CI": "true"}
    said = clean_root.run_in(root, "sh", "-c", *tests, **where)
    assert " passed" in said
    assert clean_root.run_in(root, "/venv/bin/python", "--version").startswith(f"Python {VERSION}.")
