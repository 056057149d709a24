"""The next version: docs/maintaining.md followed up to the commit, and the tests hold there too."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from supermachine_kernel._version import VERSION

NEXT = "98.7.6"
TESTS = ["audit", "audit_any_content", "cache_key", "docs", "editable", "examples", "lock", "rebuild", "release"]
TESTS += ["release_build", "release_refused", "sbom", "source_archive", "sources", "wheel"]
"""Those that read the version or the lock of the checkout."""


def raise_version(checkout: Path) -> None:
    """Write the next version into each file that docs/maintaining.md names for it."""
    (sentence,) = re.findall(
        r"Set the version in .*?show it", (checkout / "docs/maintaining.md").read_text(), re.DOTALL
    )
    for name in re.findall(r"`([^`]+)`", sentence):
        text = (checkout / name).read_text()
        assert VERSION in text, name
        (checkout / name).write_text(text.replace(VERSION, NEXT))


def test_the_version_stands_where_maintainers_look_for_it(copy_of_checkout: Path) -> None:
    raise_version(copy_of_checkout)
    left_alone = {"CHANGELOG.md", "assets.lock.json"}
    files = [path for path in copy_of_checkout.rglob("*") if path.is_file() and "tests" not in path.parts]
    assert [
        str(path.relative_to(copy_of_checkout))
        for path in files
        if path.name not in left_alone and VERSION.encode() in path.read_bytes()
    ] == []


@pytest.mark.slow
def test_the_tests_hold_once_it_is_locked(copy_of_checkout: Path, built_set: Path, x86_64_set: Path) -> None:
    raise_version(copy_of_checkout)
    for folder in (built_set, x86_64_set):
        shutil.copytree(folder, copy_of_checkout / "kernel-build/out" / folder.name)
    run(copy_of_checkout, "git", "init", "--quiet")  # the tests copy what git knows
    run(copy_of_checkout, sys.executable, "scripts/release.py", "stage", "--out", "dist/release")
    files = [str(path) for name in TESTS for path in (copy_of_checkout / "tests").glob(f"*/test_{name}.py")]
    assert len(files) == len(TESTS)
    quick = ["-m", "not slow and not ondemand"]  # docs/maintaining.md has the maintainer run all of them
    run(copy_of_checkout, sys.executable, "-m", "pytest", "-q", *quick, *files)


def run(checkout: Path, *command: str) -> None:
    inside = {name: value for name, value in os.environ.items() if not name.startswith(("SUPERMACHINE_", "PYTEST_"))}
    inside.pop("PYTHONPATH", None)
    done = subprocess.run(command, cwd=checkout, env=inside, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: ended with {done.returncode}:\n{done.stdout}{done.stderr}"
