"""The lock that builds and programs take on a file, also on file systems that have none."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.asset_build.file_lock import file_lock
from tests.support import no_flock

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="LD_PRELOAD is Linux's")


def run_without_flock(folder: Path, error: int, program: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, **no_flock.variables(folder, error)}
    return subprocess.run(
        [sys.executable, *program], cwd=cwd, env=environ, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.parametrize(
    ("error", "reason"),
    [(errno.EBADF, None), (errno.ENOLCK, os.strerror(errno.ENOLCK)), (errno.ENOSYS, os.strerror(errno.ENOSYS))],
)
def test_the_work_goes_on_where_the_file_system_has_no_locks(
    error: int, reason: str | None, project: Path, tmp_path: Path
) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom scripts.asset_build.file_lock import file_lock\n"
        "with file_lock(Path(sys.argv[1])) as not_held:\n    print(not_held)"
    )
    done = run_without_flock(tmp_path, error, ["-c", program, str(tmp_path / "lock")], project)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{reason}\n"


@pytest.mark.slow
@pytest.mark.parametrize("error", [errno.EBADF, errno.ENOLCK, errno.ENOSYS], ids=errno.errorcode.get)
def test_a_checkout_without_locks_makes_its_sdist_and_says_so(
    error: int, copy_of_checkout: Path, tmp_path: Path
) -> None:
    program = ["setup.py", "-q", "sdist", "--dist-dir", str(tmp_path / "out")]
    done = run_without_flock(tmp_path, error, program, copy_of_checkout)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").glob("*.tar.gz"))) == 1
    warnings = [line for line in done.stderr.splitlines() if "cannot be locked" in line]
    if error == errno.EBADF:
        assert warnings == []
    else:
        assert warnings == [
            f"warning: {copy_of_checkout / 'setup.py'}: cannot be locked ({os.strerror(error)}); "
            "run one build at a time here"
        ]


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.ENOSYS], ids=errno.errorcode.get)
def test_a_home_without_locks_is_used_and_said_so(error: int, project: Path, tmp_path: Path) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom scripts.machine.cache import locked\n"
        "with locked(Path(sys.argv[1])):\n    print('done')"
    )
    done = run_without_flock(tmp_path, error, ["-c", program, str(tmp_path / "venv.lock")], project)
    assert (done.returncode, done.stdout) == (0, "done\n")
    assert done.stderr == (
        f"warning: {tmp_path / 'venv.lock'}: cannot be locked ({os.strerror(error)}); "
        "run one program of this project at a time\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize("error", [errno.ENOLCK, errno.ENOSYS], ids=errno.errorcode.get)
def test_a_build_cache_without_locks_gives_its_set_and_says_so(
    error: int, project: Path, built_set: Path, tmp_path: Path
) -> None:
    """The set is in the cache already, so that nothing is compiled."""
    script = str(project / "kernel-build" / "scripts" / "build.sh")
    inputs = json.loads((built_set / "build-info.json").read_text())["inputs_sha256"]
    kept = tmp_path / "cache" / "sets" / inputs
    shutil.copytree(built_set, kept)
    sums = subprocess.run(["sha256sum", *sorted(os.listdir(kept))], cwd=kept, capture_output=True, check=True).stdout
    (kept / "SHA256SUMS").write_bytes(sums)
    inside = {**os.environ, **no_flock.variables(tmp_path, error), "SUPERMACHINE_BUILD_CACHE": str(tmp_path / "cache")}
    command = ["bash", script, "--out", str(tmp_path / "out")]
    done = subprocess.run(command, env=inside, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "these inputs were built before: taken from the cache" in done.stderr
    assert done.stderr.count("cannot be locked, so run one build at a time here") >= 1
    assert (tmp_path / "out" / "kernel").read_bytes() == (built_set / "kernel").read_bytes()


def test_a_file_that_may_only_be_read_is_locked_too(tmp_path: Path) -> None:
    path = tmp_path / "setup.py"
    path.write_text("content")
    path.chmod(0o444)
    with file_lock(path) as first, file_lock(path, timeout=0) as second:
        assert (first, second) == (None, "another process holds the lock")
    assert path.read_text() == "content"


def test_the_lock_is_free_again_after_the_block(tmp_path: Path) -> None:
    for _ in range(2):
        with file_lock(tmp_path / "lock", timeout=0) as not_held:
            assert not_held is None


@pytest.mark.parametrize("kind", ["folder", "pipe", "link"])
def test_what_is_not_a_regular_file_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "lock"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        (tmp_path / "other").touch()
        path.symlink_to(tmp_path / "other")
    with pytest.raises(OSError), file_lock(path):
        pytest.fail("it is not to be locked")
