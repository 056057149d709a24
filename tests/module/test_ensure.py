"""The set at a stable place: kept, completed, raced for, killed at and cut from power."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import pytest

import supermachine_kernel
from supermachine_kernel import (
    ASSETS,
    KERNEL,
    Asset,
    DestinationError,
    DestinationIsDirectoryError,
    _ensure,
    _proof,
    _write,
    ensure_assets,
)
from supermachine_kernel._folder import Folder
from tests.support import child, disk

VERSION = supermachine_kernel.__version__
PRINT_PLACE = "import supermachine_kernel; print(supermachine_kernel.ensure_assets())"


def names_in(folder: Path) -> set[str]:
    """What is in the folder beside the record of what was proven."""
    return set(os.listdir(folder)) - {_proof.NAME}


def assert_whole(folder: Path) -> None:
    assert names_in(folder) == {asset.name for asset in ASSETS}
    for asset in ASSETS:
        path = folder / asset.name
        assert path.is_file()
        assert not path.is_symlink()
        assert hashlib.sha256(path.read_bytes()).hexdigest() == asset.sha256
        assert stat.S_IMODE(path.stat().st_mode) == asset.mode


def identities(folder: Path) -> dict[str, tuple[int, int]]:
    return {name: ((folder / name).stat().st_ino, (folder / name).stat().st_mtime_ns) for name in names_in(folder)}


class TestPlace:
    def test_the_folder_that_is_named(self, tmp_path: Path) -> None:
        assert ensure_assets(tmp_path / "a" / "b") == tmp_path / "a" / "b"
        assert_whole(tmp_path / "a" / "b")
        assert ensure_assets(str(tmp_path)) == tmp_path

    def test_xdg_data_home_is_where_the_set_goes(self, tmp_path: Path) -> None:
        done = child.python(PRINT_PLACE, XDG_DATA_HOME=str(tmp_path / "data"), HOME=str(tmp_path / "home"))
        assert done.stdout.strip() == str(tmp_path / "data" / "supermachine" / f"v{VERSION}"), done.stderr
        assert_whole(Path(done.stdout.strip()))
        assert os.listdir(tmp_path) == ["data"]

    @pytest.mark.parametrize("relative", ["", "data", "./data"])
    def test_home_without_it_or_where_it_is_relative(self, relative: str, tmp_path: Path) -> None:
        """XDG Base Directory Specification: a relative path is to be ignored."""
        done = child.python(PRINT_PLACE, XDG_DATA_HOME=relative, HOME=str(tmp_path))
        assert done.stdout.strip() == str(tmp_path / ".local" / "share" / "supermachine" / f"v{VERSION}"), done.stderr
        assert_whole(Path(done.stdout.strip()))

    @pytest.mark.parametrize("home", ["home", "."])
    def test_no_home_is_one_clear_error(self, home: str) -> None:
        message = child.error_of("supermachine_kernel.ensure_assets()", XDG_DATA_HOME="", HOME=home)
        assert message == (
            f"DestinationError: HOME: expected the absolute path of the user's home folder, found {home!r}; set HOME "
            "or XDG_DATA_HOME to an absolute path, or name the folder"
        )

    def test_empty_home_is_no_home(self) -> None:
        """Not the root folder, which expanduser would make of it."""
        code = "import os; os.environ['HOME'] = ''; supermachine_kernel.ensure_assets()"
        assert "HOME: expected the absolute path of the user's home folder, found ''; " in child.error_of(
            code, XDG_DATA_HOME=""
        )

    def test_without_home_the_user_database_knows_it(self) -> None:
        program = "import pwd, os; from supermachine_kernel import _ensure as e; print(e.default_directory())"
        program += "; print(pwd.getpwuid(os.getuid()).pw_dir)"
        place, home = child.python(program, XDG_DATA_HOME="", HOME="").stdout.split()
        assert place == f"{home}/.local/share/supermachine/v{VERSION}"

    @pytest.mark.parametrize(
        ("version", "folder"),
        [
            ("0.7.62", "v0.7.62"),
            ("0.7.62.post1", "v0.7.62"),
            ("0.7.62.post1.dev1", "v0.7.62.post1.dev1"),
            ("0.7.62+custom.0123abcd", "v0.7.62+custom.0123abcd"),
            ("0.7.62.post1+custom.0123abcd", "v0.7.62.post1+custom.0123abcd"),
        ],
    )
    def test_a_release_shares_the_librarys_folder_and_a_custom_build_does_not(
        self, version: str, folder: str, module_copy: Path, tmp_path: Path
    ) -> None:
        manifest = module_copy / "supermachine_kernel" / "_manifest.py"
        manifest.write_text(manifest.read_text().replace(repr(VERSION), repr(version)))
        done = child.python(PRINT_PLACE, site=module_copy, XDG_DATA_HOME=str(tmp_path / "data"))
        assert done.stdout.strip() == str(tmp_path / "data" / "supermachine" / folder), done.stderr


class TestCompletes:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return ensure_assets(tmp_path / "set")

    def test_what_is_right_is_kept(self, folder: Path) -> None:
        before = identities(folder)
        ensure_assets(folder)
        assert identities(folder) == before

    @pytest.mark.parametrize("asset", ASSETS, ids=[asset.name for asset in ASSETS])
    def test_what_is_wrong_is_replaced_and_the_rest_kept(self, asset: supermachine_kernel.Asset, folder: Path) -> None:
        path, before = folder / asset.name, identities(folder)

        def flip() -> None:
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.write_bytes(content)

        def link_to_a_right_one() -> None:
            path.unlink()
            path.symlink_to(asset.path)

        def truncate() -> None:
            os.truncate(path, asset.size - 1)

        for damage in (path.unlink, truncate, flip, link_to_a_right_one):
            damage()
            ensure_assets(folder)
            assert_whole(folder)
        assert {name: each for name, each in identities(folder).items() if name != asset.name} == {
            name: each for name, each in before.items() if name != asset.name
        }
        assert stat.S_IMODE(asset.path.stat().st_mode) == asset.mode, "the link was followed"

    @pytest.mark.parametrize("mode", [0o000, 0o600, 0o666, 0o777, 0o4755])
    def test_a_wrong_mode_is_mended_in_place(self, mode: int, folder: Path) -> None:
        before = identities(folder)
        for asset in ASSETS:
            (folder / asset.name).chmod(mode)
        ensure_assets(folder)
        assert_whole(folder)
        kept = mode & 0o400 or os.geteuid() == 0  # what its owner may not read is not known to be right
        assert (identities(folder) == before) == bool(kept)

    def test_a_read_only_store_is_right_as_it_is(self, folder: Path) -> None:
        for asset in ASSETS:
            (folder / asset.name).chmod(asset.mode & 0o555)
        folder.chmod(0o555)
        ensure_assets(folder)
        modes = {name: stat.S_IMODE((folder / name).stat().st_mode) for name in names_in(folder)}
        folder.chmod(0o755)
        assert modes == {asset.name: asset.mode & 0o555 for asset in ASSETS}

    def test_a_right_set_in_a_folder_that_may_not_be_listed(self, folder: Path) -> None:
        """Root may list every folder, so it is done again, with all that it needs imported, as nobody."""
        program = """\
import os, sys, supermachine_kernel
os.chdir(sys.argv[1])
supermachine_kernel.ensure_assets(".")
os.geteuid() or os.setuid(65534)
print(supermachine_kernel.ensure_assets("."))
"""
        folder.chmod(0o111)
        done = child.python(program, folder)
        folder.chmod(0o755)
        assert (done.stdout, done.stderr) == (".\n", "")

    def test_the_umask_has_no_say(self, tmp_path: Path) -> None:
        program = "import os, sys, supermachine_kernel; os.umask(0o077); supermachine_kernel.ensure_assets(sys.argv[1])"
        assert child.python(program, tmp_path / "set").returncode == 0
        assert_whole(tmp_path / "set")

    def test_temporary_files_of_killed_writers_are_deleted_and_nothing_else(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        names = {".supermachine-123-0123456789abcdef.tmp", ".supermachine-notes", "mine.tmp"}

        def read_and_sweep(folder: Path) -> None:
            ensure_assets(folder, check="content")

        for fill in (read_and_sweep, supermachine_kernel.extract_all_to):
            for name in names:
                (folder / name).write_text("")
                os.utime(folder / name, (0, 0))  # as a clone on APFS, which somebody writes: its source's time
            fill(folder)
            assert names_in(folder) == {asset.name for asset in ASSETS} | names
            with monkeypatch.context() as patch:
                patch.setattr(_write, "_ABANDONED", -60)  # the time of change is the system's alone to set
                fill(folder)
            others = names_in(folder) - {asset.name for asset in ASSETS}
            assert others == {".supermachine-notes", "mine.tmp"}


class TestRefuses:
    def test_a_file_in_the_way_of_the_folder_is_an_error_and_stays(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("mine")
        for folder in (tmp_path / "file", tmp_path / "file" / "below"):
            with pytest.raises(DestinationError, match="expected a folder, found a file in its way; remove it"):
                ensure_assets(folder)
        assert (tmp_path / "file").read_text() == "mine"

    def test_a_folder_in_the_way_of_a_file_is_an_error_and_stays(self, tmp_path: Path) -> None:
        (tmp_path / "kernel" / "kept").mkdir(parents=True)
        with pytest.raises(DestinationIsDirectoryError, match="found a folder; remove it"):
            ensure_assets(tmp_path)
        assert os.listdir(tmp_path) == ["kernel"]

    def test_a_pipe_in_the_way_of_a_file_is_an_error(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "kernel")
        with pytest.raises(DestinationError, match="found a device, socket or pipe"):
            ensure_assets(tmp_path)

    def test_an_asset_that_is_itself_broken_goes_nowhere(self, module_copy: Path, tmp_path: Path) -> None:
        source = module_copy / "supermachine_kernel" / "assets" / "kernel"
        content = bytearray(source.read_bytes())
        content[-1] ^= 1
        source.write_bytes(content)
        message = child.error_of("supermachine_kernel.ensure_assets(sys.argv[1])", tmp_path / "set", site=module_copy)
        assert message.startswith(f"AssetError: {source}: expected SHA-256 {KERNEL.sha256}, found ")
        assert not (tmp_path / "set" / "kernel").exists()
        ensure_assets(tmp_path / "set")
        message = child.python(
            "import supermachine_kernel, sys; supermachine_kernel.ensure_assets(sys.argv[1])",
            tmp_path / "set",
            site=module_copy,
        ).stderr
        assert message == "", "a whole set needs no source"

    @pytest.mark.skipif(sys.platform != "linux", reason="a small tmpfs in a mount namespace is of Linux")
    def test_a_full_disk_is_one_clear_error_each_time(self, tmp_path: Path) -> None:
        program = """\
import errno, os, sys, supermachine_kernel
folder = sys.argv[1] + "/set"
for _ in range(2):
    try:
        supermachine_kernel.ensure_assets(folder)
    except supermachine_kernel.DestinationError as error:
        assert error.errno == errno.ENOSPC
        print(error, os.listdir(folder))
"""
        done = disk.python_on_tmpfs(tmp_path, program, tmp_path, size="2m")
        assert done.returncode == 0, done.stderr
        line = (
            f"{tmp_path}/set/kernel: expected to write the file, found an error: No space left on device (nothing was "
            "changed there); free some space, or name another place []"
        )
        assert done.stdout.splitlines() == [line, line]

    @pytest.mark.skipif(sys.platform != "linux", reason="a tmpfs in a mount namespace is of Linux")
    def test_a_read_only_place_unless_the_set_is_there(self, tmp_path: Path) -> None:
        program = """\
import subprocess, sys, supermachine_kernel
mounted = sys.argv[1]
supermachine_kernel.ensure_assets(mounted + "/whole")
supermachine_kernel.ensure_assets(mounted + "/part")
(supermachine_kernel.ensure_assets(mounted + "/part") / "init-oci").unlink()
subprocess.run(["mount", "-o", "remount,bind,ro", mounted], check=True)
print(supermachine_kernel.ensure_assets(mounted + "/whole"))
for name in ("part", "none"):
    try:
        supermachine_kernel.ensure_assets(mounted + "/" + name)
    except supermachine_kernel.DestinationError as error:
        print(error)
"""
        done = disk.python_on_tmpfs(tmp_path, program, tmp_path, size="40m")
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == [
            f"{tmp_path}/whole",
            f"{tmp_path}/part/init-oci: expected to write the file, found an error: Read-only file system (nothing was "
            "changed there); name a place that you may write to",
            f"{tmp_path}/none: expected a folder, found one that cannot be made (Read-only file system); name a place "
            "that you may write to",
        ]


class TestAtOnce:
    def test_64_threads_at_once_make_one_complete_set(self, tmp_path: Path) -> None:
        start = threading.Barrier(64)

        def ensure(_: int) -> Path:
            start.wait()
            return ensure_assets(tmp_path / "a" / "set")

        with ThreadPoolExecutor(64) as pool:
            assert set(pool.map(ensure, range(64))) == {tmp_path / "a" / "set"}
        assert_whole(tmp_path / "a" / "set")

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
                temporaries = list(folder.glob(".supermachine-*.tmp"))
                ensure_assets(folder)
                kept = all(temporary.exists() for temporary in temporaries)
            finally:
                writer.send_signal(signal.SIGCONT)
            assert writer.wait() == 0
            assert_whole(folder)
            assert kept, "a writer that was only suspended lost its file"
            if temporaries:
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


def test_a_socket_in_the_way_of_a_file_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("kernel")
        with pytest.raises(DestinationError, match="found a device, socket or pipe"):
            ensure_assets(".")
