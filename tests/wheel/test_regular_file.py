"""Files that a build or an audit reads once: what was opened is judged, and a name that changes leads nowhere."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from scripts.asset_build.regular_file import SizeError, read_regular
from supermachine_kernel._assets import ASSETS
from tests.support import child

PIPES = """\
import sys
from pathlib import Path
from scripts.asset_build.audit.reader import read_wheel
from scripts.asset_build.guest_sets import GUEST_SETS
from scripts.asset_build.wheel.sources import Source
from scripts.asset_build.wheel.verify import verify_set
folder, pipe, wheel, files = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), {}
names, row = sys.argv[4].split(","), GUEST_SETS["aarch64"]
files = {name: folder / name for name in names}
uses = [lambda name=name: verify_set(Source(row, "override", {**files, name: pipe})) for name in names]
for use in (*uses, lambda: verify_set(Source(row, "override", files, pipe)), lambda: read_wheel(wheel)):
    try:
        use()
    except Exception as error:
        print(type(error).__name__, error.found)
"""


def test_a_pipe_that_came_into_the_place_of_a_file_holds_no_build_or_audit(
    built_set: Path, wheel: Path, project: Path, tmp_path: Path
) -> None:
    """It comes after the file was looked at; who opens it without care waits for its other end for ever."""
    pipe, pipe_of_wheel = tmp_path / "pipe", tmp_path / wheel.name
    os.mkfifo(pipe)
    os.mkfifo(pipe_of_wheel)
    names = ",".join(asset.name for asset in ASSETS)
    command = [sys.executable, "-c", PIPES, str(built_set), str(pipe), str(pipe_of_wheel), names]
    inside = child.environment_with(project, {})
    done = subprocess.run(command, env=inside, cwd=project, capture_output=True, text=True, check=False, timeout=120)
    found = [f"{kind} a device, socket or pipe" for kind in ("BuildError",) * (len(ASSETS) + 1) + ("AuditError",)]
    assert done.stdout.splitlines() == found, done.stderr


def test_only_a_file_of_a_fitting_size_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_regular(path, largest=5) == b"12345"
    with pytest.raises(SizeError) as caught:
        read_regular(path, largest=4)
    assert caught.value.size == 5
    with pytest.raises(IsADirectoryError):
        read_regular(tmp_path, largest=1 << 20)
    with pytest.raises(OSError, match="a device, socket or pipe") as refused:
        read_regular(Path("/dev/zero"), largest=1 << 20)
    assert refused.value.errno == errno.EINVAL


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is of Linux")
def test_a_file_that_has_more_than_it_said_is_not_taken_for_whole() -> None:
    """As one to which somebody is adding; what /proc has says of itself that it is empty."""
    with pytest.raises(OSError, match="a file that changes while it is read") as refused:
        read_regular(Path("/proc/self/status"), largest=1 << 20)
    assert refused.value.errno == errno.EBUSY


def test_reading_takes_the_memory_of_the_file_and_not_of_the_largest(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * (1 << 20))
    tracemalloc.start()
    try:
        read_regular(path, largest=1 << 30)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 4 << 20
