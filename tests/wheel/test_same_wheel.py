"""What a user has set, or what lies about in a checkout, changes neither the wheel nor the sdist."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from scripts.asset_build.audit.chain import audit
from scripts.asset_build.lock import LOCK_NAME

pytestmark = pytest.mark.slow

SETTINGS = """\
[egg_info]
tag_build = .evil
[install_lib]
compile = 1
optimize = 2
[bdist_wheel]
build_number = 7
[build_py]
compile = 1
[install]
compile = 1
[sdist]
formats = zip
"""


@pytest.fixture
def ready(copy_of_checkout: Path, built_set: Path) -> Path:
    """A checkout with the assets in its tree."""
    shutil.copytree(built_set, copy_of_checkout / "kernel-build/out/aarch64")
    return copy_of_checkout


def build(checkout: Path, out: Path, *kinds: str, **variables: str) -> list[Path]:
    command = [sys.executable, "-m", "build", "--no-isolation", *kinds, "--outdir", str(out), str(checkout)]
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return sorted(out.iterdir())


@pytest.mark.parametrize("where", ["HOME", "DIST_EXTRA_CONFIG"])
def test_the_user_s_distutils_settings_do_not_reach_the_archives(
    where: str, ready: Path, wheel: Path, sdist: Path, tmp_path: Path
) -> None:
    (tmp_path / ".pydistutils.cfg").write_text(SETTINGS)
    value = tmp_path if where == "HOME" else tmp_path / ".pydistutils.cfg"
    built = build(ready, tmp_path / "out", "--wheel", "--sdist", **{where: str(value)})
    assert [path.name for path in built] == sorted([wheel.name, sdist.name])
    assert (tmp_path / "out" / wheel.name).read_bytes() == wheel.read_bytes()
    assert (tmp_path / "out" / sdist.name).read_bytes() == sdist.read_bytes()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SETUPTOOLS_USE_DISTUTILS", "stdlib"),
        ("SOURCE_DATE_EPOCH", ""),
        ("SOURCE_DATE_EPOCH", "yesterday"),
        ("SOURCE_DATE_EPOCH", "-1"),
        ("SOURCE_DATE_EPOCH", "9" * 40),
    ],
)
def test_a_variable_that_setuptools_reads_does_not_change_the_wheel(
    name: str, value: str, ready: Path, wheel: Path, tmp_path: Path
) -> None:
    (built,) = build(ready, tmp_path / "out", "--wheel", **{name: value})
    assert (built.name, built.read_bytes()) == (wheel.name, wheel.read_bytes())


def test_metadata_made_before_the_wheel_has_its_version(ready: Path, wheel: Path) -> None:
    """In one call of setup.py, egg_info is done before bdist_wheel has looked at the set."""
    command = [sys.executable, "setup.py", "-q", "egg_info", "bdist_wheel"]
    subprocess.run(command, cwd=ready, check=True, capture_output=True)
    assert (ready / "dist" / wheel.name).read_bytes() == wheel.read_bytes()


def test_an_sdist_and_a_wheel_in_one_call_are_refused(ready: Path) -> None:
    """The sdist has the clean version, whatever set lies in the tree."""
    command = [sys.executable, "setup.py", "-q", "sdist", "bdist_wheel"]
    done = subprocess.run(command, cwd=ready, check=False, capture_output=True, text=True)
    assert done.returncode == 1 and "expected one kind of archive in a call" in done.stderr
    assert not (ready / "dist").exists()


LITTER = (
    *("LICENSES/.DS_Store", "LICENSES/._MIT.txt", "LICENSES/MIT.txt~", "LICENSES/.MIT.txt.swp"),
    *("supermachine_kernel/.DS_Store", "supermachine_kernel/._x.py", "supermachine_kernel/x~"),
    *("supermachine_kernel/_write.py~", "supermachine_kernel/.#_write.py", "supermachine_kernel/_write.py.orig"),
    *("kernel-build/.env", "kernel-build/.DS_Store", "kernel-build/.idea/notes.md", "kernel-build/agent/._agent.c"),
    *("kernel-build/id_rsa", "kernel-build/agent/agent.o", "scripts/.vscode/settings.py", "scripts/asset_build/x.py~"),
    *("docs/.obsidian/app.json", "docs/draft.docx", "examples/Thumbs.db", ".env", ".idea/workspace.xml"),
)
"""What systems, editors and people leave in a checkout, and nobody means to ship."""


def test_files_of_no_one_are_in_no_archive_and_the_audit_expects_none(
    ready: Path, wheel: Path, sdist: Path, tmp_path: Path
) -> None:
    for name in LITTER:
        (ready / name).parent.mkdir(parents=True, exist_ok=True)
        (ready / name).write_text("litter\n")
    build(ready, tmp_path / "out", "--wheel", "--sdist")
    with zipfile.ZipFile(tmp_path / "out" / wheel.name) as one, zipfile.ZipFile(wheel) as other:
        assert set(one.namelist()) == set(other.namelist())
    assert (tmp_path / "out" / wheel.name).read_bytes() == wheel.read_bytes()
    assert (tmp_path / "out" / sdist.name).read_bytes() == sdist.read_bytes()
    assert list(audit(wheel, ready, ready / LOCK_NAME))


def test_a_strangers_tree_beside_pip_s_clone_is_not_taken(
    unlocked_checkout: Path, built_set: Path, tmp_path: Path
) -> None:
    """pip clones into the temporary folder, in which anybody can put a folder kernel-build beforehand."""
    shared = tmp_path / "shared"
    shutil.copytree(built_set, shared / "kernel-build/out/aarch64")
    git = ["git", "-C", str(unlocked_checkout), "-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"]):
        subprocess.run([*git, *arguments], check=True, capture_output=True)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    command += ["--wheel-dir", str(tmp_path / "out"), f"git+file://{unlocked_checkout}"]
    inside = {**os.environ, "TMPDIR": str(shared), "SUPERMACHINE_OFFLINE": "1"}
    done = subprocess.run(command, env=inside, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert f"{shared}/kernel-build is passed over, because" in said
    assert "no asset set for aarch64 found" in said
    assert not list((tmp_path / "out").glob("*.whl"))
