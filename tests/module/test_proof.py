"""The record of what was proven: what it lets a start leave unread, and what it never does."""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from supermachine_kernel import ASSETS, KERNEL, _folder, _proof, ensure_assets
from tests.support import child, disk, odd_system
from tests.support.quick import sampled

pytestmark = pytest.mark.skipif(os.name != "posix", reason="elsewhere the times of a file say too little")

READS = """\
import os, sys, supermachine_kernel as k
names = {asset.name for asset in k.ASSETS}
opened = []
sys.addaudithook(lambda name, arguments: opened.append(os.path.basename(str(arguments[0]))) if name == "open" else None)
k.ensure_assets(sys.argv[1])
print(*sorted(names & set(opened)))
"""
ALL = sorted(asset.name for asset in ASSETS)


def read_by_a_start(folder: Path, site: Path | None = None) -> list[str]:
    """The assets that a new process opens in `ensure_assets`."""
    done = child.python(READS, folder, site=site)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return ensure_assets(tmp_path / "set")


def test_a_later_start_reads_no_asset(folder: Path) -> None:
    assert read_by_a_start(folder) == []
    assert read_by_a_start(folder) == []


def test_a_set_that_another_way_put_there_is_read_once(tmp_path: Path) -> None:
    for asset in ASSETS:
        (tmp_path / asset.name).write_bytes(asset.read_bytes())
        (tmp_path / asset.name).chmod(asset.mode)
    assert read_by_a_start(tmp_path) == ALL
    assert read_by_a_start(tmp_path) == []


def test_content_is_read_whenever_that_is_asked_for(folder: Path) -> None:
    program = READS.replace("sys.argv[1])", "sys.argv[1], check='content')")
    assert child.python(program, folder).stdout.split() == ALL
    with pytest.raises(ValueError, match="expected 'record' or 'content'"):
        ensure_assets(folder, check="none")


def _flip_and_keep_times(path: Path) -> None:
    """As who wants not to be seen: same size, same inode, same modification time."""
    facts = path.stat()
    with path.open("r+b") as file:
        file.write(bytes([path.read_bytes()[0] ^ 1]))
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def _flip_through_a_mapping(path: Path) -> None:
    import mmap

    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        mapping[100] ^= 1


def _replace_by_a_copy(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.with_name("copy").write_bytes(content)
    path.with_name("copy").replace(path)


def _replace_by_a_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


@pytest.mark.parametrize(
    "change",
    sampled(
        [
            *(_flip_and_keep_times, _flip_through_a_mapping, _replace_by_a_copy, _replace_by_a_link, Path.unlink),
            lambda path: os.truncate(path, 100),
            lambda path: path.chmod(0o600),
        ]
    ),
    ids=["flip", "mapping", "copy", "link", "remove", "truncate", "mode"],
)
@pytest.mark.parametrize("name", sampled(["kernel", "init-oci"]))
def test_every_change_is_seen(name: str, change: Callable[[Path], None], folder: Path) -> None:
    change(folder / name)
    assert name in read_by_a_start(folder) or not (folder / name).exists()
    ensure_assets(folder)
    for asset in ASSETS:
        path = folder / asset.name
        assert not path.is_symlink()
        assert hashlib.sha256(path.read_bytes()).hexdigest() == asset.sha256
        assert stat.S_IMODE(path.stat().st_mode) == asset.mode
    read_by_a_start(folder)
    assert read_by_a_start(folder) == []


@pytest.mark.whole_run
def test_a_change_at_the_next_moment_is_seen(tmp_path: Path) -> None:
    """Git calls such an entry racy: the clock of the file system may not have gone on since."""
    for turn in range(40):
        folder = ensure_assets(tmp_path / str(turn))
        _flip_and_keep_times(folder / "smpark.ko")
        ensure_assets(folder)
        assert (folder / "smpark.ko").read_bytes() == ASSETS[3].read_bytes()


def _as_another_users(record: Path) -> None:
    disk.need_root("only root gives a file away")
    os.chown(record, 65534, 65534)


def _writable_by_all(record: Path) -> None:
    record.chmod(0o666)


def _with_another_name(record: Path) -> None:
    os.link(record, record.with_name("linked"))


def _as_a_link(record: Path) -> None:
    record.rename(record.with_name("record"))
    record.symlink_to("record")


def _cut(record: Path) -> None:
    os.truncate(record, record.stat().st_size - 1)


def _of_another_version(record: Path) -> None:
    record.write_bytes(record.read_bytes().replace(b" proof 1: ", b" proof 1: 9."))


def _empty(record: Path) -> None:
    record.write_bytes(b"")


def _huge(record: Path) -> None:
    os.truncate(record, 1 << 40)


@pytest.mark.parametrize(
    "change",
    sampled(
        [
            _as_another_users,
            _writable_by_all,
            _with_another_name,
            _as_a_link,
            _cut,
            _of_another_version,
            _empty,
            _huge,
        ]
    ),
)
def test_a_record_that_another_could_have_written_or_that_is_damaged_says_nothing(
    change: Callable[[Path], None], folder: Path
) -> None:
    change(folder / _proof.NAME)
    assert read_by_a_start(folder) == ALL
    assert read_by_a_start(folder) == []


def test_a_record_moved_to_another_folder_says_nothing(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for path in folder.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
        (other / path.name).chmod(stat.S_IMODE(path.stat().st_mode))
    (other / "kernel").write_bytes(b"x" * KERNEL.size)
    ensure_assets(other)
    assert (other / "kernel").read_bytes() == KERNEL.read_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="tmpfs is of Linux")
def test_a_write_through_a_mapping_on_tmpfs_is_seen_where_content_is_asked_for() -> None:
    """tmpfs notes no time of such a write; SECURITY.md says so."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        kernel = ensure_assets(folder) / "kernel"
        with kernel.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
            mapping[5000] ^= 1
        ensure_assets(folder, check="content")
        assert hashlib.sha256(kernel.read_bytes()).hexdigest() == KERNEL.sha256


def test_times_without_fractions_or_in_the_future_are_not_relied_on(tmp_path: Path) -> None:
    """A file system that counts in whole seconds, or a clock that was set back since."""
    path = tmp_path / "file"
    path.touch()
    descriptor = os.open(path, os.O_RDWR)
    try:
        now = os.fstat(descriptor).st_ctime_ns
        assert _proof._is_later(descriptor, now - 1)
        assert not _proof._is_later(descriptor, now - now % 10**9)
        assert _proof._is_later(descriptor, now - now % 10**9 - 3 * 10**9)
        started = time.monotonic()
        assert not _proof._is_later(descriptor, now + 10**12 + 1)
        assert time.monotonic() - started < 60
    finally:
        os.close(descriptor)


def test_a_file_system_without_numbers_of_files_has_no_record(tmp_path: Path) -> None:
    with _folder.Folder(str(tmp_path)) as opened:
        facts = [os.stat(asset.path) for asset in ASSETS]
        unnumbered = [os.stat_result((each.st_mode, 0, *each[2:])) for each in facts]
        _proof.write_proof(opened, unnumbered)
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(sys.platform != "linux", reason="LD_PRELOAD is of Linux")
def test_a_file_system_that_gives_another_mode_each_time_is_read_each_time(tmp_path: Path) -> None:
    ensure_assets(tmp_path)
    done = odd_system.python(READS, tmp_path, path=tmp_path, mode="755", chmod="ignore")
    assert done.stdout.split() == ALL, done.stderr
    assert read_by_a_start(tmp_path) == ALL


@pytest.mark.skipif(sys.platform != "linux", reason="a tmpfs in a mount namespace is of Linux")
def test_a_full_disk_leaves_the_record_out_and_the_set_complete(tmp_path: Path) -> None:
    program = """\
import os, sys, supermachine_kernel as k
folder = sys.argv[1]
k.extract_all_to(folder)
with open(folder + "/filler", "wb", buffering=0) as filler:
    try:
        while True:
            filler.write(bytes(4096))
    except OSError:
        pass
k.ensure_assets(folder)
print(sorted(name for name in os.listdir(folder) if name.startswith(".")))
"""
    size = f"{sum(asset.size for asset in ASSETS) // 1024 + 2048}k"
    done = disk.python_on_tmpfs(tmp_path, program, tmp_path, size=size)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="strace is of Linux")
def test_a_later_start_makes_as_many_system_calls_whatever_the_size(folder: Path, tmp_path: Path) -> None:
    """Of the folder, of the record, and one look at each file."""
    import subprocess

    strace, trace = disk.tool("strace", "strace"), tmp_path / "trace"
    command = [strace, "-f", "-o", str(trace), sys.executable, "-c", READS, str(folder)]
    subprocess.run(command, check=True, cwd=tmp_path, timeout=120, stdout=subprocess.DEVNULL)
    lines = trace.read_text().splitlines()
    first = next(number for number, line in enumerate(lines) if f'"{folder}"' in line and "openat" in line)
    last = max(number for number, line in enumerate(lines) if '"smpark.ko"' in line)
    assert last - first < 20, "\n".join(lines[first:last])
