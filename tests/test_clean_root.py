"""A Debian with only Python and pip installs the wheel and runs every example that README.md says runs there."""

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

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = Path(__file__).parents[1]
README = (PROJECT / "README.md").read_text()
FREEZERS = {"pex": "pex", "shiv": "shiv", "cx_freeze": "cx_Freeze"}
"""Those that pip alone installs: PyInstaller needs objdump as well, Nuitka a C compiler."""
PIP = {
    "PIP_NO_INDEX": "1",
    "PIP_FIND_LINKS": "/wheels",
    "PIP_NO_DEPS": "1",
    "PIP_ONLY_BINARY": ":all:",
    "PIP_PLATFORM": "macosx_11_0_arm64",
}
LINK = re.compile(r"\]\(examples/(\w+)/?\)")


def _with_python_and_pip_alone() -> list[str]:
    """The examples in README.md's table under that heading."""
    section = re.search(r"^### With Python and pip alone\n(.*?)(?=^##|\Z)", README, re.MULTILINE | re.DOTALL)
    return LINK.findall(section[1]) if section else []


def test_readme_names_every_example() -> None:
    there = {path.name for path in EXAMPLES.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert set(LINK.findall(README)) == there
    of_them = {"build_time", "run_time", "vmm_view", "container", "read_only_store"}
    assert of_them <= set(_with_python_and_pip_alone()), "README.md: expected them under: With Python and pip alone"


@pytest.fixture(scope="module")
def root(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean root with the examples and the wheel, which its own pip has installed into a folder."""
    root = clean_root.unpack(tmp_path_factory.mktemp("clean") / "root")
    shutil.copytree(EXAMPLES, root / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "wheels").mkdir()
    shutil.copy(wheel, root / "wheels")
    target = ["--platform", "macosx_11_0_arm64", "--only-binary=:all:", "--target", "/opt/site"]
    install = ["python3", "-m", "pip", "install", "--no-deps", "--no-index", *target, f"/wheels/{wheel.name}"]
    clean_root.run_in(root, *install)
    return root


@pytest.mark.slow
def test_nothing_but_python_and_pip_is_there(root: Path) -> None:
    listed = clean_root.run_in(root, "python3", "-m", "pip", "list", "--format=freeze")
    assert {line.partition("==")[0] for line in listed.split()} == {"pip", "setuptools", "wheel"}
    assert not (root / "usr/bin/gcc").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name in _with_python_and_pip_alone() if name not in ("container", *FREEZERS)]
)
def test_example(name: str, root: Path, wheel: Path) -> None:
    clean_root.run_in(root, "bash", f"/examples/{name}/run.sh", f"/out/{name}", PYTHONPATH="/opt/site", **PIP)

    out = root / "out" / name
    if name == "vmm_view":
        assert digests_in(wheel)["kernel"] == _digest_of_kernel_in(out / "memory", wheel)
    else:
        assert_is_the_set(out / "Hello.app/Contents/Resources" if name == "build_time" else out / "guest", wheel)


@pytest.fixture(scope="module")
def tools(root: Path) -> dict[str, str]:
    """The environment of a user whose pip has installed the freezers into a folder too."""
    pinned = tomllib.loads((PROJECT / "pyproject.toml").read_text())["dependency-groups"]["freeze"]
    wanted = [line for line in pinned if line.partition("=")[0] in FREEZERS.values()]
    shutil.copytree(clean_root.wheelhouse(wanted), root / "tools")
    install = ["python3", "-m", "pip", "install", "--no-index", "--find-links", "/tools", "--target", "/opt/tools"]
    clean_root.run_in(root, *install, *FREEZERS.values())
    return {"PATH": f"/opt/tools/bin:{clean_root.PATH}", "PYTHONPATH": "/opt/site:/opt/tools"}


@pytest.mark.slow
@pytest.mark.parametrize("name", FREEZERS)
def test_freezer_that_pip_installs(name: str, root: Path, tools: dict[str, str], wheel: Path) -> None:
    clean_root.run_in(root, "bash", f"/examples/{name}/run.sh", f"/out/{name}", **tools, **PIP)
    assert_is_the_set(root / "out" / name / "guest", wheel)


@pytest.mark.slow
def test_container(wheel: Path, tmp_path: Path) -> None:
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
