"""The sdist: what it takes to build, no asset, and where it builds."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

GENERATED = {
    "PKG-INFO",
    "supermachine_kernel.egg-info/PKG-INFO",
    "supermachine_kernel.egg-info/SOURCES.txt",
    "supermachine_kernel.egg-info/dependency_links.txt",
    "supermachine_kernel.egg-info/entry_points.txt",
    "supermachine_kernel.egg-info/top_level.txt",
}
SHIPPED_ROOTS = ("supermachine_kernel", "scripts", "kernel-build", "LICENSES", "docs", "examples")
SHIPPED_FILES = {
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "MANIFEST.in",
    "NOTICE",
    "README.md",
    "SECURITY.md",
    "assets.lock.json",
    "pyproject.toml",
    "setup.cfg",
    "setup.py",
}


def test_the_exact_file_set(sdist: Path, project: Path) -> None:
    """All that git tracks of the rooms a build needs, what setuptools generates, and nothing else."""
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    listed = ["git", "-C", str(project), "ls-files", "--cached", "--others", "--exclude-standard"]
    tracked = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.splitlines()
    expected = {name for name in tracked if name.split("/")[0] in SHIPPED_ROOTS or name in SHIPPED_FILES}
    expected = {name for name in expected if not name.endswith(".gitignore") and (project / name).is_file()}
    assert names == expected | GENERATED, "MANIFEST.in takes files by their kind: name there what is new"


def test_no_asset_is_in_it(sdist: Path, built_set: Path) -> None:
    assert sdist.stat().st_size < (built_set / "kernel").stat().st_size // 10
    with tarfile.open(sdist) as archive:
        assert not [
            name for name in archive.getnames() if "/assets/" in name or "/out/" in name or name == "_manifest.py"
        ]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["docs/notes.md", "supermachine_kernel/other.py"])
def test_a_link_that_leads_out_of_the_checkout_stops_it(name: str, copy_of_checkout: Path, tmp_path: Path) -> None:
    """Else the file that it leads to, the user's own, would go along."""
    (tmp_path / "secret").write_text("mine")
    (copy_of_checkout / name).symlink_to(tmp_path / "secret")
    command = [sys.executable, "setup.py", "-q", "sdist", "--dist-dir", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=copy_of_checkout, capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1:] == [
        f"error: {name}: expected a file of this checkout, found a link to {tmp_path / 'secret'}; remove it"
    ]
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.slow
def test_several_at_once_are_the_same(sdist: Path, copy_of_checkout: Path, tmp_path: Path) -> None:
    """Each writes into the checkout; they wait for one another."""

    def build_one(number: int) -> bytes:
        out = tmp_path / str(number)
        command = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(out)]
        subprocess.run([*command, str(copy_of_checkout)], check=True, capture_output=True)
        return (out / sdist.name).read_bytes()

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(build_one, range(4))) == {sdist.read_bytes()}


@pytest.mark.slow
def test_it_builds_nowhere_but_at_home_unless_told(sdist: Path, built_set: Path, tmp_path: Path, wheel: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path)
    (unpacked,) = (path for path in tmp_path.iterdir() if path.is_dir())
    at_home = {"SUPERMACHINE_ASSETS_DIR": str(built_set)}
    refused = build(unpacked, tmp_path / "out", at_home)
    assert refused.returncode != 0
    assert "SUPERMACHINE_CROSS_BUILD=1" in refused.stdout
    assert "Traceback" not in refused.stdout
    assert not list((tmp_path / "out").glob("*.whl"))
    done = build(unpacked, tmp_path / "out", {**at_home, "SUPERMACHINE_CROSS_BUILD": "1"})
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "out" / wheel.name).read_bytes() == wheel.read_bytes()


def build(folder: Path, out: Path, extra: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(folder)]
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.run(command, env={**os.environ, **extra}, text=True, check=False, **both)  # type: ignore[call-overload,no-any-return]
