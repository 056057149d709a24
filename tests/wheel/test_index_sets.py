"""The line of requirements in docs/embedding.md gives each host its own set, from one index, with pip and with uv."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.asset_build.guest_sets import set_of_this_machine
from supermachine_kernel._version import VERSION
from tests.support import index
from tests.support.index import Done, good, pip, uv
from tests.support.mac import AS_ON_A_MAC

pytestmark = [
    pytest.mark.slow,  # a server
    pytest.mark.skipif(
        set_of_this_machine() != "x86_64", reason="the host of the one set is here, of the other asked for"
    ),
]


@pytest.fixture(scope="module")
def url(custom_wheel: Path, native_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An index with the wheels of both sets."""
    folder = tmp_path_factory.mktemp("index")
    (folder / "packages").mkdir()
    for each in (custom_wheel, native_wheel):
        shutil.copy(each, folder / "packages")
    with index.serve(folder / "packages", folder / "log") as url:
        yield url


@pytest.fixture(scope="module")
def requirements(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    page = (project / "docs" / "embedding.md").read_text()
    (line,) = re.findall(r"^    (supermachine-kernel==.*;.*)$", page, re.MULTILINE)
    path: Path = tmp_path_factory.mktemp("requirements") / "requirements.txt"
    path.write_text(f"{line}\n")
    assert f"=={VERSION};" in line
    return path


def set_in(target: Path, done: Done) -> str:
    good(done)
    (manifest,) = target.glob("supermachine_kernel/_manifest.py")
    (found,) = re.findall(r"'set': '(\w+)'", manifest.read_text())
    return str(found)


def test_pip_takes_the_set_of_this_machine_unasked(url: str, requirements: Path, tmp_path: Path) -> None:
    done = pip(url, "install", "--target", tmp_path, "-r", requirements)
    assert set_in(tmp_path, done) == set_of_this_machine()


def test_uv_takes_the_set_of_this_machine_unasked(url: str, requirements: Path, tmp_path: Path) -> None:
    done = uv(url, "pip install", "--target", tmp_path, "-r", requirements)
    assert set_in(tmp_path, done) == set_of_this_machine()


def test_pip_on_a_mac_takes_the_other(url: str, requirements: Path, tmp_path: Path) -> None:
    done = pip(url, "install", *AS_ON_A_MAC, "--target", tmp_path, "-r", requirements, on_a_mac=True)
    assert set_in(tmp_path, done) == "aarch64"


def test_uv_for_a_mac_takes_the_other(url: str, requirements: Path, tmp_path: Path) -> None:
    asked = ("--python-platform", "aarch64-apple-darwin", "--target", tmp_path)
    assert set_in(tmp_path, uv(url, "pip install", *asked, "-r", requirements)) == "aarch64"


@pytest.mark.skipif(sys.platform != "linux", reason="the marker is judged for another machine by uv alone")
def test_a_machine_that_is_no_host_gets_none(url: str, requirements: Path, tmp_path: Path) -> None:
    asked = ("--python-platform", "aarch64-unknown-linux-gnu", "--target", tmp_path)
    good(uv(url, "pip install", *asked, "-r", requirements))
    assert not list(tmp_path.glob("supermachine*"))
