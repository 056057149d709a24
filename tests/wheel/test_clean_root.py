"""A Debian with only Python and pip installs the wheel and runs each example that examples/README.md names for it."""

from __future__ import annotations

import hashlib
import re
import shutil
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support import clean_root, dockerfile
from tests.support.examples import EXAMPLES, assert_is_the_set, digests_in
from tests.support.mac import AS_ON_A_MAC, AS_ON_A_MAC_VARIABLES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = Path(__file__).parents[2]
EXAMPLES_PAGE = (PROJECT / "examples" / "README.md").read_text()
FREEZERS = {"pex": "pex", "shiv": "shiv", "cx_freeze": "cx_Freeze", "pyinstaller": "pyinstaller", "nuitka": "nuitka"}
"""What pip calls each; Nuitka is published as an sdist alone."""
PIP = {
    "PIP_NO_INDEX": "1",
    "PIP_FIND_LINKS": "/wheels",
    **AS_ON_A_MAC_VARIABLES,
}
LINK = re.compile(r"\]\((\w+)/\)")
PACKAGE = re.compile(r"`([\w-]+)`")


def _section(heading: str) -> str:
    found = re.search(rf"^## {heading}\n(.*?)(?=^##|\Z)", EXAMPLES_PAGE, re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


WITH_PYTHON_AND_PIP = LINK.findall(_section("With Python and pip alone"))
WITH_A_FREEZER = {
    LINK.findall(line)[0]: PACKAGE.findall(line)
    for line in _section("With a freezer").splitlines()
    if LINK.search(line)
}
"""The Debian packages that each wants, by example."""
ON_A_MAC = LINK.findall(_section("On a Mac"))
PACKAGES = sorted({package for packages in WITH_A_FREEZER.values() for package in packages})


def test_the_page_of_the_examples_names_each_of_them() -> None:
    there = {path.name for path in EXAMPLES.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert sorted([*WITH_PYTHON_AND_PIP, *WITH_A_FREEZER, *ON_A_MAC]) == sorted(there)
    assert {"build_time", "run_time", "vmm_view", "container", "read_only_store", "zipapp"} == set(WITH_PYTHON_AND_PIP)
    assert set(FREEZERS) == set(WITH_A_FREEZER)
    assert set(ON_A_MAC) == {"py2app", "briefcase"}


@pytest.fixture(scope="module")
def root(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean root with the examples and the wheel, which its own pip has installed into a folder."""
    return _with_the_wheel(clean_root.unpack(tmp_path_factory.mktemp("clean") / "root"), wheel)


@pytest.fixture(scope="module")
def root_with_packages(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same after apt has installed the packages that examples/README.md names beside the freezers."""
    return _with_the_wheel(clean_root.unpack(tmp_path_factory.mktemp("clean") / "root", *PACKAGES), wheel)


def _with_the_wheel(root: Path, wheel: Path) -> Path:
    shutil.copytree(EXAMPLES, root / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "wheels").mkdir()
    shutil.copy(wheel, root / "wheels")
    target = [*AS_ON_A_MAC, "--target", "/opt/site"]
    install = ["python3", "-m", "pip", "install", "--no-deps", "--no-index", *target, f"/wheels/{wheel.name}"]
    clean_root.run_in(root, *install)
    return root


@pytest.mark.slow
def test_nothing_but_python_and_pip_is_there(root: Path) -> None:
    listed = clean_root.run_in(root, "python3", "-m", "pip", "list", "--format=freeze")
    assert {line.partition("==")[0] for line in listed.split()} == {"pip", "setuptools", "wheel"}
    assert not (root / "usr/bin/gcc").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in WITH_PYTHON_AND_PIP if name != "container"])
def test_an_example_runs_with_python_and_pip_alone(name: str, root: Path, wheel: Path) -> None:
    clean_root.run_in(root, "bash", f"/examples/{name}/run.sh", f"/out/{name}", PYTHONPATH="/opt/site", **PIP)

    out = root / "out" / name
    if name == "vmm_view":
        assert digests_in(wheel)["kernel"] == _digest_of_kernel_in(out / "memory", wheel)
    else:
        assert_is_the_set(out / "Hello.app/Contents/Resources" if name == "build_time" else out / "guest", wheel)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, packages in WITH_A_FREEZER.items() if not packages])
def test_an_example_runs_with_debian_s_freezer(name: str, root: Path, wheel: Path) -> None:
    _freeze(name, root, wheel)


COMPILES = pytest.mark.ondemand
"""test_frozen.py runs Nuitka too; what its packages are is seen here alone, in two minutes."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[COMPILES] if name == "nuitka" else [])
        for name, packages in WITH_A_FREEZER.items()
        if packages
    ],
)
def test_freezer_that_wants_packages(name: str, root_with_packages: Path, wheel: Path) -> None:
    _freeze(name, root_with_packages, wheel)


def _freeze(name: str, root: Path, wheel: Path) -> None:
    """Run the example as a user whose pip has installed that freezer, and nothing else, into a folder."""
    pinned = tomllib.loads((PROJECT / "pyproject.toml").read_text())["dependency-groups"]["freeze"]
    [wanted] = [line for line in pinned if line.partition("=")[0] == FREEZERS[name] and "< '3.10'" not in line]
    tools = f"/opt/tools/{name}"
    shutil.copytree(clean_root.wheelhouse(wanted, sdist=name == "nuitka"), root / "wheelhouse" / name)
    index = ["--no-index", "--find-links", f"/wheelhouse/{name}"]
    clean_root.run_in(root, "python3", "-m", "pip", "install", *index, "--target", tools, FREEZERS[name])

    path = {"PATH": f"{tools}/bin:{clean_root.PATH}", "PYTHONPATH": f"/opt/site:{tools}"}
    clean_root.run_in(root, "bash", f"/examples/{name}/run.sh", f"/out/{name}", **path, **PIP)
    assert_is_the_set(root / "out" / name / "guest", wheel)


@pytest.mark.slow
def test_the_container_s_steps_leave_the_assets_alone_in_it(wheel: Path, tmp_path: Path) -> None:
    """The Dockerfile's own steps; the last stage has the assets and their receipt, and nothing else."""
    (tmp_path / "wheels").mkdir()
    shutil.copy(wheel, tmp_path / "wheels")

    image = dockerfile.build(EXAMPLES / "container" / "Dockerfile", tmp_path, tmp_path)

    assert [path.name for path in image.iterdir()] == ["guest"]
    assert {path.name for path in (image / "guest").iterdir()} == {*digests_in(wheel), "manifest.json"}
    assert_is_the_set(image / "guest", wheel)


def _digest_of_kernel_in(memory: Path, wheel: Path) -> str:
    """SHA-256 of as many bytes as the kernel has, from the place after 2 MiB where a text_offset of 0 puts it."""
    with zipfile.ZipFile(wheel) as archive:
        size = archive.getinfo("supermachine_kernel/assets/kernel").file_size
    with memory.open("rb") as file:
        file.seek(2 << 20)
        return hashlib.sha256(file.read(size)).hexdigest()
