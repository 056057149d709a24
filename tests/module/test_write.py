"""A file is put in its place whole, or not at all."""

from __future__ import annotations

import errno
import itertools
import os
import random
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import supermachine_kernel
from supermachine_kernel import (
    ASSETS,
    KERNEL,
    SMPARK_KO,
    Asset,
    AssetError,
    DestinationError,
    DestinationIsDirectoryError,
    DestinationMissingError,
    _read,
    _write,
)
from supermachine_kernel._folder import Folder
from tests.support import child

each_asset = pytest.mark.parametrize("asset", ASSETS, ids=[asset.name for asset in ASSETS])


@contextmanager
def umask(mask: int) -> Iterator[None]:
    old = os.umask(mask)
    try:
        yield
    finally:
        os.umask(old)


@each_asset
def test_extract_puts_the_content_there_and_returns_the_path(asset: Asset, tmp_path: Path) -> None:
    assert asset.extract_to(tmp_path / "file") == tmp_path / "file"
    assert asset.extract_to(str(tmp_path / "file")) == tmp_path / "file"
    assert (tmp_path / "file").read_bytes() == asset.read_bytes()
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize("difference", [-1, 1])
def test_an_asset_that_changes_its_size_while_it_is_copied_goes_nowhere(
    difference: int, verify: bool, tmp_path: Path
) -> None:
    """As an installation does that is replaced meanwhile: the asset is blamed, not the destination."""
    (tmp_path / "file").write_text("mine")
    source = tmp_path / "source"
    source.write_bytes(SMPARK_KO.read_bytes())
    with _read.AssetReader(str(source), SMPARK_KO.size, SMPARK_KO.sha256) as reader, Folder(str(tmp_path)) as folder:
        with source.open("r+b") as changing:
            changing.truncate(SMPARK_KO.size + difference)
        with pytest.raises(AssetError) as refused:
            _write.write_files(folder, [("file", None, reader)], verify=verify)
    found = SMPARK_KO.size + difference
    assert str(refused.value).startswith(f"{source}: expected {SMPARK_KO.size} bytes, found {found}; ")
    source.unlink()
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


@each_asset
def test_the_crates_functions_do_the_same(asset: Asset, tmp_path: Path) -> None:
    name = asset.prefix.lower()
    assert getattr(supermachine_kernel, f"extract_{name}_to")(tmp_path / "file") is None
    assert getattr(supermachine_kernel, f"extract_{name}_to_with_parents")(tmp_path / "a" / "b" / "file") is None
    assert (tmp_path / "file").read_bytes() == (tmp_path / "a" / "b" / "file").read_bytes() == asset.read_bytes()
    with pytest.raises(FileNotFoundError):
        getattr(supermachine_kernel, f"extract_{name}_to")(tmp_path / "none" / "file")


def test_extract_replaces_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * (SMPARK_KO.size + 4096))
    inode = (tmp_path / "file").stat().st_ino
    SMPARK_KO.extract_to(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == SMPARK_KO.read_bytes()
    assert (tmp_path / "file").stat().st_ino != inode, "written in place: a reader could have seen a part"


def test_relative_destination_without_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    SMPARK_KO.extract_to("smpark.ko")
    assert os.listdir(tmp_path) == ["smpark.ko"]


def test_missing_parent_is_file_not_found(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match="expected a folder that exists around it, found none; create it"
    ) as caught:
        SMPARK_KO.extract_to(tmp_path / "none" / "file")
    assert isinstance(caught.value, DestinationMissingError)
    assert caught.value.filename == str(tmp_path / "none" / "file")
    assert os.listdir(tmp_path) == []


def test_parents_are_made_on_demand(tmp_path: Path) -> None:
    SMPARK_KO.extract_to(tmp_path / "a" / "b" / "file", parents=True)
    SMPARK_KO.extract_to(tmp_path / "a" / "b" / "file", parents=True)
    assert (tmp_path / "a" / "b" / "file").read_bytes() == SMPARK_KO.read_bytes()


def test_a_file_in_the_way_of_a_parent_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("mine")
    for destination in (tmp_path / "a" / "file", tmp_path / "a" / "b" / "file"):
        with pytest.raises(DestinationError, match="expected a folder, found a file in its way; remove it"):
            SMPARK_KO.extract_to(destination, parents=True)
    with pytest.raises(DestinationError, match="expected to write the file, found an error: Not a directory"):
        SMPARK_KO.extract_to(tmp_path / "a" / "file")
    assert (tmp_path / "a").read_text() == "mine"


def test_a_folder_in_the_way_is_is_a_directory(tmp_path: Path) -> None:
    (tmp_path / "folder" / "kept").mkdir(parents=True)
    with pytest.raises(
        IsADirectoryError, match="expected a file or nothing there, found a folder; remove it"
    ) as caught:
        SMPARK_KO.extract_to(tmp_path / "folder")
    assert isinstance(caught.value, DestinationIsDirectoryError)
    assert os.listdir(tmp_path) == ["folder"]
    assert os.listdir(tmp_path / "folder") == ["kept"]


def test_a_symbolic_link_is_replaced_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("mine")
    for name, to in (("link", "target"), ("dangling", "nowhere"), ("to-folder", ".")):
        (tmp_path / name).symlink_to(to)
        SMPARK_KO.extract_to(tmp_path / name)
        assert not (tmp_path / name).is_symlink()
        assert (tmp_path / name).read_bytes() == SMPARK_KO.read_bytes()
    assert target.read_text() == "mine"


def test_a_pipe_a_socket_or_a_device_is_refused_untouched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    os.mkfifo("pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
    found = {"pipe": stat.S_ISFIFO, "socket": stat.S_ISSOCK}
    if os.geteuid() == 0:
        os.mknod("device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        found["device"] = stat.S_ISCHR
    for name, is_kind in found.items():
        with pytest.raises(DestinationError, match="expected a file or nothing there, found a device, socket or pipe"):
            SMPARK_KO.extract_to(name)
        assert is_kind(os.lstat(name).st_mode)
    assert sorted(os.listdir()) == sorted(found)


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
@each_asset
def test_modes_are_those_of_the_table_or_the_process(asset: Asset, mask: int, tmp_path: Path) -> None:
    with umask(mask):
        asset.extract_to(tmp_path / "new")
        (tmp_path / "old").touch(0o600)
        asset.extract_to(tmp_path / "old")
        (tmp_path / "plain").touch()
    expected = 0o755 if asset.mode == 0o755 else stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == expected
    assert stat.S_IMODE((tmp_path / "old").stat().st_mode) == expected


@pytest.mark.parametrize("mask", [0o222, 0o277, 0o777])
def test_a_umask_that_forbids_to_write_is_the_results_alone(mask: int, tmp_path: Path) -> None:
    program = """\
os.umask(int(sys.argv[2]))
write_files(folder, [("file", None, reader), ("bytes", None, content)])
"""
    as_nobody(program, tmp_path, mask)
    for name in ("file", "bytes"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o666 & ~mask
        (tmp_path / name).chmod(0o600)
        assert (tmp_path / name).read_bytes() == SMPARK_KO.read_bytes()


def test_a_folder_that_may_be_written_to_but_not_be_listed(tmp_path: Path) -> None:
    as_nobody('write_files(folder, [("file", None, content)], durable=True); folder.flush()', tmp_path, mode=0o333)
    assert (tmp_path / "file").read_bytes() == SMPARK_KO.read_bytes()


def as_nobody(program: str, folder: Path, *arguments: object, mode: int = 0o777) -> None:
    """Run `program` in `folder` as a user whom its modes concern, with all that it needs imported and open."""
    start = """\
import os, sys
from supermachine_kernel import SMPARK_KO
from supermachine_kernel._folder import Folder
from supermachine_kernel._assets import open_asset
from supermachine_kernel._write import write_files
os.chdir(sys.argv[1])
content = SMPARK_KO.read_bytes()
with open_asset(SMPARK_KO) as reader:
    os.geteuid() or os.setuid(65534)
    with Folder(".") as folder:
        exec(sys.argv.pop())
"""
    folder.chmod(mode)
    done = child.python(start, folder, *arguments, program)
    folder.chmod(0o755)
    assert done.returncode == 0, done.stderr


def test_modes_come_right_though_the_installer_lost_them(module_copy: Path, tmp_path: Path) -> None:
    for asset in ASSETS:
        (module_copy / "supermachine_kernel" / "assets" / asset.name).chmod(0o600)
    program = "import os, sys, supermachine_kernel as k; os.umask(0o022); k.extract_all_to(sys.argv[1])"
    done = child.python(program, tmp_path / "out", site=module_copy)
    assert done.returncode == 0, done.stderr
    modes = {path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in (tmp_path / "out").iterdir()}
    assert modes == {asset.name: oct(asset.mode) for asset in ASSETS}


def test_extract_all_makes_a_flat_folder(tmp_path: Path) -> None:
    folder = supermachine_kernel.extract_all_to(tmp_path / "a" / "b")
    assert folder == tmp_path / "a" / "b"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {a.name: a.read_bytes() for a in ASSETS}


def test_a_reader_sees_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    """Readers that open the name over and over while it is replaced: a part would be neither of the two."""
    path = tmp_path / "kernel"
    old, new = b"old" * (KERNEL.size // 3), KERNEL.read_bytes()
    path.write_bytes(old)
    stop = threading.Event()
    seen: set[str] = set()

    def read() -> None:
        while not stop.is_set():
            content = path.read_bytes()
            seen.add("old" if content == old else "new" if content == new else f"a part: {len(content)} bytes")

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    until = time.monotonic() + 60
    try:
        for turn in itertools.count():
            if turn >= 12 and ({"old", "new"} <= seen or time.monotonic() > until):
                break
            KERNEL.extract_to(path)
            (tmp_path / "again").write_bytes(old)
            (tmp_path / "again").replace(path)
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert seen == {"old", "new"}


def test_killed_at_any_moment_it_leaves_at_most_a_temporary_file(tmp_path: Path) -> None:
    program = (
        "import sys, supermachine_kernel\n"
        "print(flush=True)\n"
        "while True: supermachine_kernel.KERNEL.extract_to(sys.argv[1])"
    )
    path = tmp_path / "kernel"
    path.write_bytes(b"old")
    contents = {b"old", KERNEL.read_bytes()}
    for killed in range(1, 16):
        process = subprocess.Popen([sys.executable, "-c", program, path], stdout=subprocess.PIPE)
        assert process.stdout is not None
        with process.stdout:
            process.stdout.readline()
            time.sleep(random.uniform(0, 0.02))
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert path.read_bytes() in contents
        others = [name for name in os.listdir(tmp_path) if name != "kernel"]
        assert all(name.startswith(".supermachine-") and name.endswith(".tmp") for name in others)
        assert len(others) <= killed


def test_a_name_that_is_too_long_says_so(tmp_path: Path) -> None:
    with pytest.raises(DestinationError, match=r"take a shorter name$") as refused:
        KERNEL.extract_to(tmp_path / ("k" * 256))
    assert refused.value.errno == errno.ENAMETOOLONG
    assert not any(tmp_path.iterdir())


def test_links_in_a_circle_say_so(tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(DestinationError, match=r"lead in a circle$") as refused:
        KERNEL.extract_to(tmp_path / "circle" / "kernel")
    assert refused.value.errno == errno.ELOOP
