"""The set at a stable place, while others write it too, and where the writer is killed or the power is cut."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import pytest

from supermachine_kernel import (
    ASSETS,
    Asset,
    DestinationError,
    _ensure,
    _proof,
    _write,
    ensure_assets,
)
from supermachine_kernel._folder import Folder
from tests.support import child, disk
from tests.support.ensured import assert_whole


def is_locked(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


class TestAtOnce:
    @pytest.mark.whole_run
    def test_64_threads_at_once_make_one_complete_set(self, tmp_path: Path) -> None:
        start = threading.Barrier(64)

        def ensure(_: int) -> Path:
            start.wait()
            return ensure_assets(tmp_path / "a" / "set")

        with ThreadPoolExecutor(64) as pool:
            assert set(pool.map(ensure, range(64))) == {tmp_path / "a" / "set"}
        assert_whole(tmp_path / "a" / "set")

    @pytest.mark.whole_run
    def test_64_processes_at_once_make_one_complete_set(self, tmp_path: Path) -> None:
        """They fork from one that has done its imports, wait for the same pipe, and are there within a millisecond."""
        program = """\
import os, sys, supermachine_kernel
from supermachine_kernel import _ensure, _write
import hashlib, pathlib, mmap, time, contextlib
reader, writer = os.pipe()
children = []
for _ in range(64):
    child = os.fork()
    if not child:
        os.close(writer)
        os.read(reader, 1)
        status = 1
        try:
            supermachine_kernel.ensure_assets(sys.argv[1])
            status = 0
        finally:
            os._exit(status)
    children.append(child)
os.close(writer)
print([os.waitpid(child, 0)[1] for child in children].count(0))
"""
        done = child.python(program, tmp_path / "a" / "set")
        assert done.stdout.strip() == "64", done.stderr
        assert_whole(tmp_path / "a" / "set")

    def test_a_right_file_of_a_faster_process_is_taken_and_a_wrong_one_is_an_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What it put there is right, though it may not be replaced: it is of another user, in a sticky folder."""
        write = _ensure._write_assets

        def overtaken(folder: Folder, assets: list[Asset]) -> NoReturn:
            write(folder, assets)
            for asset in assets:
                os.chmod(folder.path_of(asset.name), 0o600)
            if not right:
                os.truncate(folder.path_of("kernel"), 1)
            raise DestinationError(folder.path_of("kernel"), "your own", "another's", errno=errno.EPERM)

        monkeypatch.setattr(_ensure, "_write_assets", overtaken)
        right = True
        ensure_assets(tmp_path / "right")
        assert_whole(tmp_path / "right")
        right = False
        with pytest.raises(DestinationError, match=f"{tmp_path / 'wrong' / 'kernel'}: expected your own"):
            ensure_assets(tmp_path / "wrong")

    def test_a_writer_that_sleeps_for_hours_while_another_completes_and_sweeps(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A laptop that is closed in the middle of the first start, and opened to the second."""
        monkeypatch.setattr(_write, "_ABANDONED", -60)  # the hours have passed
        program = "import sys, supermachine_kernel; supermachine_kernel.ensure_assets(sys.argv[1])"
        for attempt in range(50):
            folder = tmp_path / str(attempt)
            writer = subprocess.Popen([sys.executable, "-c", program, folder], cwd=tmp_path)
            try:
                while writer.poll() is None and not list(folder.glob(".supermachine-*.tmp")):
                    pass
                writer.send_signal(signal.SIGSTOP)
                if writer.poll() is None:
                    os.waitpid(writer.pid, os.WUNTRACED)
                # One that was stopped between making a file and locking it has nothing in it yet, and makes another.
                locked = [file for file in folder.glob(".supermachine-*.tmp") if is_locked(file)]
                ensure_assets(folder)
                kept = all(file.exists() for file in locked)
            finally:
                writer.send_signal(signal.SIGCONT)
            assert writer.wait() == 0
            assert_whole(folder)
            assert kept, "a writer that was only suspended lost its file"
            if locked:
                return
        pytest.fail("never stopped in the middle of a file")


KILLER = """\
import os, pathlib, random, signal, sys, time, hashlib, mmap, contextlib
import supermachine_kernel
from supermachine_kernel import ASSETS, _ensure, _proof, _write, ensure_assets

folder, times = pathlib.Path(sys.argv[1]), int(sys.argv[2])
contents = {asset.name: asset.read_bytes() for asset in ASSETS}

def damage():
    for asset in ASSETS:
        way = random.choice(["missing", "old", "right"] if asset.size < 1 << 20 else ["missing"] + ["right"] * 3)
        if way == "missing":
            (folder / asset.name).unlink(missing_ok=True)
        elif way == "old":
            (folder / asset.name).write_bytes(b"old")

started = time.monotonic()
ensure_assets(folder)
takes = time.monotonic() - started
_write._ABANDONED = -60  # what is there between two of them has no writer
rounds, cut, abandoned = 0, 0, 0
while rounds < times or rounds < 4 * times and (cut < times // 4 or not abandoned):
    rounds += 1
    damage()
    child = os.fork()
    if not child:
        ensure_assets(folder)
        os._exit(0)
    time.sleep(random.uniform(0, takes))
    os.kill(child, signal.SIGKILL)
    was_cut = os.WIFSIGNALED(os.waitpid(child, 0)[1])
    cut += was_cut
    takes *= 1.1 if was_cut else 0.9  # so that, as fast as the machine is by now, half of them are through
    for path in folder.iterdir():
        if path.name in contents:
            assert path.read_bytes() in (b"old", contents[path.name]), f"torn: {path}"
        elif path.name != _proof.NAME:
            assert path.name.startswith(".supermachine-") and path.name.endswith(".tmp"), path
            abandoned += 1
    ensure_assets(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != _proof.NAME} == contents
print(rounds, cut, abandoned)
"""


class TestKilled:
    def check(self, folder: Path, times: int) -> None:
        if sys.platform == "linux":  # in memory: what a disk keeps is another test's question
            folder.mkdir()
            done = disk.python_on_tmpfs(folder, KILLER, folder, times, size="1g")
        else:
            done = child.python(KILLER, folder, times)
        assert done.returncode == 0, done.stderr
        rounds, cut, abandoned = map(int, done.stdout.split())
        assert cut >= times // 4, f"{cut} of {rounds} were killed before they were through"
        assert abandoned > 0, f"none of {rounds} was killed while it wrote"

    @pytest.mark.whole_run
    def test_no_file_is_torn_by_25_kills(self, tmp_path: Path) -> None:
        self.check(tmp_path / "set", 25)

    @pytest.mark.slow
    def test_no_file_is_torn_by_200_kills(self, tmp_path: Path) -> None:
        self.check(tmp_path / "set", 200)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="disk images and strace are of Linux")
class TestPowerCut:
    """What is on the disk when the call returns, without anything that is only in the system's memory."""

    PROGRAM = """\
import os, shutil, subprocess, sys, supermachine_kernel
image, mounted, way = sys.argv[1:]
if way == "ensure":
    supermachine_kernel.ensure_assets(mounted + "/a/b/set")
elif way == "after another":
    supermachine_kernel.extract_all_to(mounted + "/a/b/set")
    supermachine_kernel.ensure_assets(mounted + "/a/b/set")
else:
    supermachine_kernel.extract_all_to(mounted + "/a/b/set")
# What the file system has handed to its disk is in the image; what it still holds back is not.
subprocess.run(["cp", "--sparse=always", image, image + ".cut"], check=True)
"""
    LOOK = """\
import hashlib, os, sys, supermachine_kernel
folder = sys.argv[1] + "/a/b/set"
for asset in supermachine_kernel.ASSETS:
    path = os.path.join(folder, asset.name)
    right = os.path.exists(path) and hashlib.sha256(open(path, "rb").read()).hexdigest() == asset.sha256
    print(asset.name, right and oct(os.stat(path).st_mode & 0o777))
"""

    def after(self, way: str, tmp_path: Path, mkfs: str) -> dict[str, str]:
        disk.need_root()
        image = disk.image(tmp_path / "disk.img", mkfs, megabytes=256)
        first = disk.python_on_image(image, tmp_path / "first", self.PROGRAM, image, tmp_path / "first", way)
        assert first.returncode == 0, first.stderr
        cut = Path(f"{image}.cut")
        second = disk.python_on_image(cut, tmp_path / "second", self.LOOK, tmp_path / "second")
        assert second.returncode == 0, second.stderr
        return dict(line.split() for line in second.stdout.splitlines())

    @pytest.mark.parametrize("mkfs", ["mkfs.ext4", "mkfs.btrfs"])
    @pytest.mark.parametrize("way", ["ensure", "after another"])
    def test_the_set_is_on_disk_when_the_call_returns(self, way: str, mkfs: str, tmp_path: Path) -> None:
        found = self.after(way, tmp_path, mkfs)
        assert found == {asset.name: oct(asset.mode) for asset in ASSETS}

    def test_an_extraction_does_not_wait_for_the_names(self, tmp_path: Path) -> None:
        """Else the tests above would see nothing."""
        assert "False" in self.after("extract", tmp_path, "mkfs.ext4").values()

    def test_content_is_flushed_before_names_and_names_before_the_proof(self, tmp_path: Path) -> None:
        strace, trace = disk.tool("strace", "strace"), tmp_path / "trace"
        options = ["-f", "-y", "-e", "trace=fsync,rename,renameat,renameat2", "-o", str(trace)]
        program = "import supermachine_kernel, sys; supermachine_kernel.ensure_assets(sys.argv[1])"
        command = [strace, *options, sys.executable, "-c", program, str(tmp_path / "a" / "set")]
        subprocess.run(command, check=True, cwd=tmp_path, timeout=120)
        text = trace.read_text().replace(str(tmp_path), "T")
        calls = []
        for line in text.splitlines():
            flushed = re.search(r"fsync\([0-9]+<(T[^>]*)>", line)
            renamed = re.search(r'rename.*, "([^"]*)"\)', line)
            if flushed:
                calls.append("flush " + re.sub(r"[.]supermachine-[^/]*", "TEMPORARY", flushed.group(1)))
            elif renamed:
                calls.append("rename " + renamed.group(1))
        assert calls == [
            *["flush T/a/set/TEMPORARY"] * 4,
            *[f"rename {asset.name}" for asset in ASSETS],
            *["flush T/a/set", "flush T/a", "flush T"],
            f"rename {_proof.NAME}",
        ]
