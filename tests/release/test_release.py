"""A release from both ends: staged and locked by its maintainer, fetched and built by its users."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from scripts.asset_build.errors import BuildError
from scripts.asset_build.lock import LOCK_NAME, LockedSet, read_lock_file
from scripts.asset_build.release_layout import SUMS_NAME, packed_name, release_folder
from scripts.asset_build.wheel.sources import Source
from scripts.asset_build.wheel.verify import verify_set
from supermachine_kernel._assets import ASSETS
from supermachine_kernel._version import VERSION
from tests.support import disk, nginx
from tests.support.faulty import serve
from tests.support.sets import GUEST_SET, PLATFORM_TAG, SET

pytestmark = pytest.mark.slow

PACKED = {asset.name: packed_name(SET, asset.name) for asset in ASSETS}


@dataclass(frozen=True)
class Staged:
    """What `release.py stage` left: the base, the lock, and the folder of the version."""

    base: Path
    lock: Path

    @property
    def folder(self) -> Path:
        return self.base / release_folder(VERSION)

    @property
    def locked(self) -> LockedSet:
        locked = read_lock_file(self.lock).set(SET)
        assert locked is not None
        return locked


def run(project: Path, script: str, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(project / "scripts" / script), *arguments]
    return subprocess.run(command, env={**os.environ, **environ}, capture_output=True, text=True, check=False)


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


def good(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def refused(done: subprocess.CompletedProcess[str], *parts: str) -> str:
    assert done.returncode == 1, done.stdout
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("release.py: ")]
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in done.stderr
    return line


@pytest.fixture(scope="session")
def staged(project: Path, built_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Staged:
    """Staged once: packing a kernel takes seconds, and pytest-xdist's workers share it."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with (folder / "staged.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        return stage(project, built_set, folder / "staged")


def stage(project: Path, built_set: Path, folder: Path) -> Staged:
    staged = Staged(folder / "base", folder / LOCK_NAME)
    if staged.lock.exists():  # it is written last
        return staged
    folder.mkdir(exist_ok=True)
    done = run(project, "release.py", "stage", *stage_options(staged), SUPERMACHINE_ASSETS_DIR=str(built_set))
    report = good(done)
    assert report["written"] is True
    assert {file["state"] for file in report["files"].values()} == {"new"}
    return staged


def stage_options(staged: Staged) -> list[str]:
    return ["--json", "--out", str(staged.base), "--lock", str(staged.lock)]


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stage", "--dry-run", "--out", __file__], f"argument --out: {__file__}: expected a folder, found a file"),
        (["source", "--out", __file__], f"argument --out: {__file__}: expected a folder, found a file"),
        (["lock", "--from", ""], "argument --from: expected a URL or a folder, found nothing"),
    ],
)
def test_a_wrong_argument_is_a_usage_error(arguments: list[str], message: str, project: Path) -> None:
    done = run(project, "release.py", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].endswith(f": error: {message}")


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


@pytest.mark.parametrize(
    ("sums", "part"),
    [("<html>", "found '<html>'"), ("", "found no aarch64-kernel.xz"), ("x" * 70_000, "at most 65536 bytes")],
    ids=["page", "empty", "huge"],
)
def test_sums_that_are_none(project: Path, published: Path, sums: str, part: str) -> None:
    (published / SUMS_NAME).write_text(sums)
    lock_refused(project, published, str(published / SUMS_NAME), part)


def test_a_published_file_that_is_no_asset_is_named(project: Path, published: Path) -> None:
    """Its digests are right, and it is not what it should be."""
    shutil.copy(published / PACKED["smpark.ko"], published / PACKED["init-oci"])
    sums = subprocess.run(["sha256sum", *PACKED.values()], cwd=published, capture_output=True, text=True, check=True)
    (published / SUMS_NAME).write_text(sums.stdout)
    line = lock_refused(project, published, "expected a static executable, found a relocatable file")
    assert str(published / PACKED["init-oci"]) in line


def test_a_base_that_is_not_there(project: Path, tmp_path: Path) -> None:
    done = run(project, "release.py", "lock", "--from", str(tmp_path / "none"), "--lock", str(tmp_path / "lock"))
    assert str(tmp_path / "none") in refused(done, "No such file")


def test_a_url_without_the_release_is_told_of_the_option(project: Path, tmp_path: Path) -> None:
    def lock(**environ: str) -> subprocess.CompletedProcess[str]:
        return run(project, "release.py", "lock", "--from", host.url, "--lock", str(tmp_path / "lock"), **environ)

    with serve(lambda request, reply: reply.whole(b"", "404 Not Found")) as host:
        line = refused(lock(), "404 Not Found", "with --from")
        assert "SUPERMACHINE_RELEASE_URL" not in line and "tree" not in line
        refused(lock(SUPERMACHINE_OFFLINE="yes"), "SUPERMACHINE_OFFLINE keeps it from being asked")
    assert len(host.requests) == 1


def test_a_command_without_its_arguments_is_a_usage_error(project: Path) -> None:
    assert run(project, "release.py").returncode == 2
    assert run(project, "release.py", "stage").returncode == 2
    assert "lock --from" in run(project, "release.py", "--help").stdout


# --- the build from it ---


def build(checkout: Path, out: Path, **environ: str) -> Any:
    """The report of scripts/wheel.py, in a checkout without tree or override but for what `environ` says."""
    return good(run(checkout, "wheel.py", "--json", "--out", str(out), **{"SUPERMACHINE_KERNEL_BUILD": "", **environ}))


def test_the_same_wheel_from_the_release_the_tree_and_a_folder(
    staged: Staged, copy_of_checkout: Path, built_set: Path, tmp_path: Path
) -> None:
    """Acceptance: from any static server, again with the server gone; and the clean version, whatever the source."""
    shutil.copy(staged.lock, copy_of_checkout / LOCK_NAME)
    cache = {"SUPERMACHINE_CACHE_DIR": str(tmp_path / "cache")}
    with nginx.serve(staged.base, tmp_path / "nginx") as port:
        url = f"http://127.0.0.1:{port}"
        reports = {"release": build(copy_of_checkout, tmp_path / "1", SUPERMACHINE_RELEASE_URL=url, **cache)}
    reports["cache"] = build(copy_of_checkout, tmp_path / "2", SUPERMACHINE_RELEASE_URL=url, **cache)
    tree = str(built_set.parent.parent)
    reports["tree"] = build(copy_of_checkout, tmp_path / "3", SUPERMACHINE_KERNEL_BUILD=tree)
    flat = tmp_path / "flat"  # without the build's own record: the lock has it
    shutil.copytree(built_set, flat, ignore=shutil.ignore_patterns("build-info.json"))
    reports["folder"] = build(copy_of_checkout, tmp_path / "4", SUPERMACHINE_ASSETS_DIR=str(flat))
    assert len({report["sha256"] for report in reports.values()}) == 1, reports
    for report in reports.values():
        assert (report["version"], report["origin"]) == (VERSION, "release")
        assert Path(report["wheel"]).name == f"supermachine_kernel-{VERSION}-py3-none-{PLATFORM_TAG}.whl"


def test_other_files_are_a_custom_build(
    staged: Staged, copy_of_checkout: Path, built_set: Path, tmp_path: Path
) -> None:
    shutil.copy(staged.lock, copy_of_checkout / LOCK_NAME)
    agent = tmp_path / "supermachine-agent"
    agent.write_bytes((built_set / "supermachine-agent").read_bytes() + b"\0")
    environ = {"SUPERMACHINE_RELEASE_URL": str(staged.base), "SUPERMACHINE_CACHE_DIR": str(tmp_path / "cache")}
    report = build(copy_of_checkout, tmp_path / "out", SUPERMACHINE_AGENT_PATH=str(agent), **environ)
    assert report["version"] == f"{VERSION}+custom.{report['set_digest'][:8]}"
    assert report["origin"] == "custom"
    assert report["assets"]["kernel"]["sha256"] == staged.locked.assets["kernel"].unpacked.sha256


def test_release_files_that_change_on_the_way_stop_the_build(staged: Staged, built_set: Path, tmp_path: Path) -> None:
    """Between the proof in the cache and the reading of it: no +custom wheel comes of a release."""
    files = {name: tmp_path / name for name in PACKED}
    for name, path in files.items():
        path.write_bytes((built_set / name).read_bytes())
    assert verify_set(Source(GUEST_SET, "release", files), staged.locked).digest == staged.locked.digest
    files["kernel"].write_bytes(files["kernel"].read_bytes()[:-1])
    with pytest.raises(BuildError, match="found others: they were changed since; build again"):
        verify_set(Source(GUEST_SET, "release", files), staged.locked)


def test_a_terminal_gets_a_bar(staged: Staged, project: Path, tmp_path: Path) -> None:
    """Elsewhere there are plain lines: what the fault tests read."""
    environ = {"SUPERMACHINE_RELEASE_URL": str(staged.base), "SUPERMACHINE_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "tests.support.fetch_process", str(staged.lock)]
    ours, theirs = pty.openpty()
    running = subprocess.Popen(
        command, cwd=project, env={**os.environ, **environ}, stdout=subprocess.PIPE, stderr=theirs
    )
    os.close(theirs)
    shown = b""
    try:
        while data := os.read(ours, 65536):
            shown += data
    except OSError:  # the terminal's other end is closed
        pass
    finally:
        os.close(ours)
    output, _ = running.communicate(timeout=60)
    assert running.returncode == 0, shown
    assert sorted(json.loads(output)) == sorted(PACKED)
    assert b"100%" in shown
    assert f"fetched {PACKED['kernel']}".encode() in shown
