"""A release as its maintainer makes it: staged and locked."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.asset_build.lock import LOCK_NAME, read_lock_file
from scripts.asset_build.release_layout import SUMS_NAME, release_folder
from supermachine_kernel._assets import ASSETS
from supermachine_kernel._version import VERSION
from tests.support import disk, nginx
from tests.support.sets import SET
from tests.support.staged import PACKED, Staged, good, run, stage_options

pytestmark = pytest.mark.slow


def test_a_python_without_lzma_is_told_what_it_lacks(project: Path, tmp_path: Path) -> None:
    program = "import sys; sys.modules['_lzma'] = None; sys.argv[0] = 'release.py'; "
    program += "from scripts.release import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "stage", "--dry-run", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert (
        done.stderr
        == f"release.py: {sys.executable}: expected the module _lzma, found none; use a Python that has it\n"
    )


def refused(done: subprocess.CompletedProcess[str], *parts: str) -> str:
    assert done.returncode == 1, done.stdout
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("release.py: ")]
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in done.stderr
    return line


# --- stage ---


def test_the_layout_is_that_of_the_design(staged: Staged) -> None:
    assert sorted(path.name for path in staged.folder.iterdir()) == sorted([*PACKED.values(), SUMS_NAME])
    assert [path.name for path in staged.base.iterdir()] == [release_folder(VERSION)]


def test_sha256sum_and_xz_agree(staged: Staged, built_set: Path) -> None:
    done = subprocess.run(["sha256sum", "--check", "--strict", SUMS_NAME], cwd=staged.folder, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(b": OK\n") == len(ASSETS)
    for name, packed in PACKED.items():
        unpacked = subprocess.run(["xz", "-dc", packed], cwd=staged.folder, capture_output=True, check=True).stdout
        assert unpacked == (built_set / name).read_bytes()


def test_the_lock_holds_both_and_the_build(staged: Staged, built_set: Path) -> None:
    for name, asset in staged.locked.assets.items():
        assert asset.packed.size == (staged.folder / PACKED[name]).stat().st_size
        assert asset.unpacked.size == (built_set / name).stat().st_size
    assert staged.locked.build == json.loads((built_set / "build-info.json").read_text())


def test_a_dry_run_shows_the_same_and_writes_nothing(staged: Staged, project: Path, built_set: Path) -> None:
    """That nothing changes is that packing gives the same bytes every time."""
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in [staged.lock, *staged.folder.iterdir()]}
    options = [*stage_options(staged), "--dry-run"]
    report = good(run(project, "release.py", "stage", *options, SUPERMACHINE_ASSETS_DIR=str(built_set)))
    assert {file["state"] for file in report["files"].values()} == {"same"}
    assert (report["changes"], report["written"]) == ([], False)
    after = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in [staged.lock, *staged.folder.iterdir()]}
    assert after == before


def test_nothing_is_staged_of_a_set_that_is_not_right(project: Path, built_set: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(built_set, tmp_path / "set")
    (broken / "init-oci").write_bytes((built_set / "smpark.ko").read_bytes())
    options = ["--out", str(tmp_path / "base"), "--lock", str(tmp_path / "lock")]
    done = run(project, "release.py", "stage", *options, SUPERMACHINE_ASSETS_DIR=str(broken))
    assert str(broken / "init-oci") in refused(done)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]


@pytest.mark.skipif(sys.platform != "linux", reason="a small tmpfs in a mount namespace is of Linux")
def test_a_full_disk_is_said_in_one_line(project: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    code = "import subprocess, sys; sys.exit(subprocess.run(sys.argv[1:]).returncode)"
    stage = [project / "scripts" / "release.py", "stage", "--out", small / "base", "--lock", tmp_path / "lock"]
    done = disk.python_on_tmpfs(small, code, sys.executable, *stage, size="1m")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.search(
        rf"^release\.py: {small}/base.*: expected a place to read and write, found No space left on device; ",
        done.stderr,
        re.MULTILINE,
    )
    assert not (tmp_path / "lock").exists()


# --- lock ---


def test_the_lock_of_what_is_published_is_the_staged_one(staged: Staged, project: Path, tmp_path: Path) -> None:
    lock = tmp_path / LOCK_NAME
    with nginx.serve(staged.base, tmp_path / "nginx") as port:
        options = ["--json", "--from", f"http://127.0.0.1:{port}", "--lock", str(lock)]
        report = good(run(project, "release.py", "lock", *options))
        assert report["set_digests"] == {"aarch64": staged.locked.digest}
        again = good(run(project, "release.py", "lock", *options))
    assert again["changes"] == []
    locked = read_lock_file(lock).set(SET)
    assert locked is not None
    assert locked.assets == staged.locked.assets
    assert locked.build is None, "a release does not say how it was built"


def test_the_build_of_the_same_set_is_kept(staged: Staged, project: Path) -> None:
    report = good(run(project, "release.py", "lock", "--json", "--from", str(staged.base), "--lock", str(staged.lock)))
    assert report["changes"] == []


def test_another_set_is_not_locked_unawares(staged: Staged, project: Path, tmp_path: Path) -> None:
    lock = tmp_path / LOCK_NAME
    size = str(staged.locked.assets["kernel"].packed.size)
    lock.write_text(staged.lock.read_text().replace(size, "1234567"))
    before = lock.read_bytes()
    options = ["--from", str(staged.base), "--lock", str(lock)]
    refused(run(project, "release.py", "lock", *options), str(lock), "--replace", "1234567 bytes", f"-> {size} bytes")
    refused(run(project, "release.py", "lock", *options, "--dry-run"), "--replace")
    assert lock.read_bytes() == before
    report = good(run(project, "release.py", "lock", *options, "--replace", "--dry-run", "--json"))
    assert len(report["changes"]) == 1
    assert lock.read_bytes() == before
    good(run(project, "release.py", "lock", *options, "--replace", "--json"))
    assert lock.read_bytes() == staged.lock.read_bytes()


def test_the_lock_of_an_older_version_gives_way(staged: Staged, project: Path, tmp_path: Path) -> None:
    lock = tmp_path / LOCK_NAME
    lock.write_text(staged.lock.read_text().replace(VERSION, "0.0.1", 1))
    report = good(run(project, "release.py", "lock", "--json", "--from", str(staged.base), "--lock", str(lock)))
    assert report["changes"][0] == f"version: 0.0.1 -> {VERSION}"
    assert read_lock_file(lock).version == VERSION


@pytest.fixture
def published(staged: Staged, tmp_path: Path) -> Path:
    """A copy of the release, to be damaged; its version's folder."""
    shutil.copytree(staged.base, tmp_path / "base")
    return tmp_path / "base" / release_folder(VERSION)


def lock_refused(project: Path, published: Path, *parts: str) -> str:
    lock = published.parent.parent / LOCK_NAME
    line = refused(run(project, "release.py", "lock", "--from", str(published.parent), "--lock", str(lock)), *parts)
    assert not lock.exists()
    return line


def test_a_file_that_is_not_what_sha256sums_says(project: Path, published: Path) -> None:
    sums = (published / SUMS_NAME).read_text()
    (published / SUMS_NAME).write_text(sums.replace(sums[:4], "0000", 1))
    name = sums.splitlines()[0].split()[1]
    lock_refused(project, published, str(published / name), "expected SHA-256 0000")


def test_a_published_file_that_is_no_asset_is_named(project: Path, published: Path) -> None:
    """Its digests are right, and it is not what it should be."""
    shutil.copy(published / PACKED["smpark.ko"], published / PACKED["init-oci"])
    sums = subprocess.run(["sha256sum", *PACKED.values()], cwd=published, capture_output=True, text=True, check=True)
    (published / SUMS_NAME).write_text(sums.stdout)
    line = lock_refused(project, published, "expected a static executable, found a relocatable file")
    assert str(published / PACKED["init-oci"]) in line
