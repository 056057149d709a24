"""A file is replaced whole or not at all, and nobody else's file is written through a link."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.asset_build.atomic_write import replacing, write_atomically
from tests.support import checkout, odd_system

IN_CREATE = 0x100  # inotify(7)


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"old")
    with replacing(target) as file:
        file.write(b"new")
        file.flush()
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_an_error_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), replacing(target) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("target", b"old")]


def test_a_link_at_the_target_is_replaced_and_not_followed(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.write_bytes(b"private")
    (tmp_path / "target").symlink_to(private)
    write_atomically(tmp_path / "target", b"new")
    assert private.read_bytes() == b"private"
    assert not (tmp_path / "target").is_symlink()


def test_the_mode_is_the_process_default(tmp_path: Path) -> None:
    program = "import sys; from pathlib import Path; from scripts.asset_build.atomic_write import write_atomically\n"
    program += "write_atomically(Path(sys.argv[1]), b'')"
    for umask, mode in ((0o022, 0o644), (0o077, 0o600), (0o002, 0o664)):
        command = [sys.executable, "-c", program, str(tmp_path / "file")]
        subprocess.run(command, check=True, umask=umask, cwd=Path(__file__).parents[2])
        assert (tmp_path / "file").stat().st_mode & 0o777 == mode


def test_a_name_as_long_as_the_file_system_takes(tmp_path: Path) -> None:
    write_atomically(tmp_path / ("x" * 255), b"content")
    assert (tmp_path / ("x" * 255)).read_bytes() == b"content"


@pytest.mark.skipif(sys.platform != "linux", reason="LD_PRELOAD is Linux's")
@pytest.mark.parametrize("error", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EIO], ids=errno.errorcode.get)
def test_a_file_system_that_cannot_flush_gets_the_file_and_one_that_fails_does_not(
    error: int, project: Path, tmp_path: Path
) -> None:
    (tmp_path / "target").write_bytes(b"old")
    program = "import sys; from pathlib import Path; from scripts.asset_build.atomic_write import write_atomically\n"
    program += "write_atomically(Path(sys.argv[1]), b'new')"
    done = odd_system.python(program, tmp_path / "target", site=project, path=tmp_path, fsync_file=error)
    failed = error == errno.EIO
    assert done.returncode == failed, done.stderr
    assert (os.strerror(error) in done.stderr) == failed
    kept = b"old" if failed else b"new"
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("target", kept)]


@pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")
def test_a_temporary_that_is_swapped_for_a_link_at_its_creation_is_not_written_through(tmp_path: Path) -> None:
    """The attack: who can write to the folder waits for the new file and renames a link over it at once."""
    folder, private = tmp_path / "shared", tmp_path / "private"
    folder.mkdir()
    private.write_bytes(b"private")
    attacker = _Attacker(folder, private)
    with replacing(folder / "target") as file:
        attacker.strike()
        file.write(b"content")
    assert attacker.struck
    assert private.read_bytes() == b"private"


class _Attacker:
    """Watches a folder by inotify, and replaces what is created there by a link."""

    def __init__(self, folder: Path, victim: Path) -> None:
        self.folder, self.victim, self.struck = folder, victim, False
        libc = ctypes.CDLL(None, use_errno=True)
        self._inotify = libc.inotify_init1(0)
        assert libc.inotify_add_watch(self._inotify, os.fsencode(folder), IN_CREATE) >= 0

    def strike(self) -> None:
        event = os.read(self._inotify, 4096)
        name = event[16:].split(b"\0", 1)[0]
        link = os.fsencode(self.folder.parent / "link")
        os.symlink(self.victim, link)
        os.replace(link, os.fsencode(self.folder) + b"/" + name)
        self.struck = True


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_links_in_the_output_folder_are_not_followed(
    kind: str, project: Path, built_set: Path, wheel: Path, sdist: Path, tmp_path: Path
) -> None:
    """An output folder that somebody else prepared with links under every name a build used to write to."""
    out, private, name = tmp_path / "out", tmp_path / "private", (wheel if kind == "wheel" else sdist).name
    out.mkdir()
    private.write_bytes(b"private")
    for linked in (Path(name).with_suffix(".tmp").name, f"{name}.tmp", f".{name}.tmp"):
        (out / linked).symlink_to(private)
    copy = checkout.copy(project, tmp_path / "checkout")
    shutil.copytree(built_set, copy / "kernel-build/out/aarch64")
    command = [sys.executable, "-m", "build", f"--{kind}", "--no-isolation", "--outdir", str(out), str(copy)]
    subprocess.run(command, check=True, capture_output=True)
    assert (out / name).is_file()
    assert private.read_bytes() == b"private"


@pytest.mark.slow
def test_the_source_archive_does_not_follow_a_link(project: Path, built_set: Path, wheel: Path, tmp_path: Path) -> None:
    private, version = tmp_path / "private", wheel.name.split("-")[1]
    private.write_bytes(b"private")
    out = tmp_path / "out"
    out.mkdir()
    for suffix in ("tmp", "tar"):
        (out / f"supermachine-kernel-{version}-source.{suffix}").symlink_to(private)
    command = [sys.executable, str(project / "scripts" / "release.py"), "source", "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    assert private.read_bytes() == b"private"
    assert (out / f"supermachine-kernel-{version}-source.tar").is_file()
