"""What an index and its tools ask of a package: twine, check-wheel-contents and pyroma find nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest


def run(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    program = [sys.executable, "-m", *map(str, command)]
    return subprocess.run(program, env={**outside, **environment}, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_twine_finds_nothing_wrong(wheel: Path, sdist: Path) -> None:
    done = run("twine", "--no-color", "check", "--strict", wheel, sdist)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("PASSED") == 2


def test_check_wheel_contents_finds_nothing_wrong(wheel: Path, project: Path) -> None:
    done = run("check_wheel_contents", "--config", project / "pyproject.toml", wheel)
    assert done.returncode == 0, done.stdout
    assert done.stdout.strip().endswith(": OK")


def test_check_wheel_contents_is_told_to_overlook_one_file_only(wheel: Path) -> None:
    done = run("check_wheel_contents", "--no-config", wheel)
    findings = done.stdout.split(": ", 1)[1].split()
    assert (
        findings[0] == "W004:" and findings.count("supermachine_kernel/_pyinstaller/hook-supermachine_kernel.py") == 1
    )
    assert done.stdout.count("W0") == 1 and done.stdout.count(".py") == 1


@pytest.mark.slow
def test_pyroma_gives_the_full_rating(sdist: Path, built_set: Path) -> None:
    """The full rating, of the very archive that is published."""
    environment = {"SUPERMACHINE_ASSETS_DIR": str(built_set), "SUPERMACHINE_CROSS_BUILD": "1"}
    done = run("pyroma", "-n", "10", "-f", sdist, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Final rating: 10/10" in done.stdout


def test_the_address_is_one_an_index_takes(wheel: Path) -> None:
    """Indexes refuse the domains that RFC 2606 reserves."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        metadata = message_from_bytes(archive.read(name))
    address = metadata["Author-email"]
    assert address.rpartition(".")[2].rstrip(">") not in {"invalid", "test", "example", "localhost"}


def test_the_metadata_links_to_source_and_issues(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        metadata = message_from_bytes(archive.read(name))
    labels = {value.partition(",")[0] for value in metadata.get_all("Project-URL", [])}
    assert {"Source", "Issues"} <= labels
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert not [value for value in metadata.get_all("Classifier", []) if value.startswith("License ::")], "PEP 639"
