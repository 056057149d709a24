"""The set at a stable place: where that is, and how it is kept and completed."""

from __future__ import annotations

import os
import socket
import stat
import sys
from pathlib import Path

import pytest

import supermachine_kernel
from supermachine_kernel import (
    ASSETS,
    KERNEL,
    DestinationError,
    DestinationIsDirectoryError,
    _write,
    ensure_assets,
)
from tests.support import child, disk
from tests.support.ensured import assert_whole, names_in
from tests.support.quick import sampled

VERSION = supermachine_kernel.__version__
PRINT_PLACE = "import supermachine_kernel; print(supermachine_kernel.ensure_assets())"


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

    @pytest.mark.parametrize("asset", sampled(ASSETS), ids=[asset.name for asset in ASSETS])
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


def test_a_socket_in_the_way_of_a_file_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("kernel")
        with pytest.raises(DestinationError, match="found a device, socket or pipe"):
            ensure_assets(".")
