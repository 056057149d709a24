"""Real file systems that answer as few do: FUSE with odd manners (tests/support/odd_fuse.c), FAT and exFAT."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import sys
from pathlib import Path

import pytest

from supermachine_kernel import ASSETS
from tests.support import child, fuse

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="FUSE is of Linux here")]

USES = """\
import os, sys, supermachine_kernel as k
from pathlib import Path
from supermachine_kernel._bundle import bundle
os.chdir(sys.argv[1])
uses = (k.verify, k.KERNEL.read_bytes, lambda: k.KERNEL.extract_to("out/kernel", parents=True),
        lambda: k.extract_all_to("out/all"), lambda: k.ensure_assets("out/ensured"),
        lambda: k.ensure_assets("out/ensured"), lambda: k.ensure_assets("out/ensured", check="content"),
        lambda: bundle(Path("out/bundled")))
"""
USES += child.TRY_EACH
VIEWS = """\
import hashlib, supermachine_kernel as k
for asset in k.ASSETS:
    with asset.view() as view:
        assert view.readonly and hashlib.sha256(view).hexdigest() == asset.sha256
        print(type(view.obj).__name__)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder that the file system shows."""
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder"


@pytest.fixture
def mounted(tmp_path: Path) -> Path:
    """Where it shows it."""
    (tmp_path / "mounted").mkdir()
    return tmp_path / "mounted"


@pytest.fixture
def site(folder: Path, mounted: Path, installed: Path) -> Path:
    """The installed module on that file system."""
    shutil.copytree(installed, folder / "site", ignore=shutil.ignore_patterns("__pycache__"))
    return mounted / "site"


def test_a_disk_that_fails_in_the_middle_of_a_file_is_blamed_on_the_asset(
    folder: Path, mounted: Path, site: Path, tmp_path: Path
) -> None:
    mount = fuse.odd(folder, mounted, read=1 << 20, name="assets/kernel")
    done = fuse.python(mount, USES, tmp_path, site=site)
    path = site / "supermachine_kernel" / "assets" / "kernel"
    assert done.stdout.splitlines() == [f"AssetError {path} | one that cannot be read (Input/output error)"] * 8
    assert (done.returncode, done.stderr) == (0, "")
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []
    done = fuse.command_line(mount, "doctor", "--json", site=site)
    bad = [finding for finding in json.loads(done.stdout)["findings"] if finding["status"] == "bad"]
    assert [finding["subject"] for finding in bad] == ["kernel"]


def test_a_disk_that_cannot_be_written_is_blamed_on_the_destination(folder: Path, mounted: Path) -> None:
    done = fuse.python(fuse.odd(folder, mounted, fsync=errno.EIO), USES, mounted)
    lines = done.stdout.splitlines()
    assert lines[:2] == ["done", "done"]
    for line in lines[2:]:
        assert line.startswith("DestinationError out/")
        assert line.endswith("an error: Input/output error (nothing was changed there)")
    assert [path for path in folder.rglob("*") if path.is_file()] == []


def test_a_file_that_cannot_be_mapped_by_others_too_gives_a_mapping_of_its_own(
    folder: Path, mounted: Path, site: Path
) -> None:
    mount = fuse.odd(folder, mounted, direct=1)
    shared = "import mmap, supermachine_kernel as k; file = open(k.KERNEL.path, 'rb'); "
    shared += "mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)"
    done = fuse.python(mount, shared, site=site)
    assert "[Errno 19] No such device" in done.stderr, "it can be mapped"
    done = fuse.python(mount, VIEWS, site=site)
    assert (done.stdout.split(), done.stderr) == (["mmap"] * 4, "")
    done = fuse.python(mount, USES, mounted, site=site)
    assert (done.stdout.split(), done.stderr) == (["done"] * 8, "")
    assert fuse.command_line(mount, "doctor", site=site).returncode == 0


@pytest.mark.parametrize("error", ["EIO", "EBADF", "EPERM", "ENOTTY", "EOPNOTSUPP"])
def test_a_folder_that_cannot_be_flushed_has_its_files_all_the_same(error: str, folder: Path, mounted: Path) -> None:
    done = fuse.python(fuse.odd(folder, mounted, fsyncdir=getattr(errno, error)), USES, mounted)
    assert (done.returncode, done.stdout.split()) == (0, ["done"] * 8), done.stderr
    assert len(done.stderr.splitlines()) == (0 if error == "EOPNOTSUPP" else 1)
    assert_right(folder / "out" / "ensured")
    assert_right(folder / "out" / "bundled")


@pytest.mark.parametrize("refusal", [errno.EPERM, 0], ids=["refused", "ignored"])
@pytest.mark.parametrize("mode", ["755", "700"])
def test_a_mode_that_a_file_system_keeps_is_no_error_where_it_serves(
    mode: str, refusal: int, folder: Path, mounted: Path
) -> None:
    mount = fuse.odd(folder, mounted, chmod=refusal, mode=mode)
    done = fuse.python(mount, USES, mounted)
    assert (done.stdout.split(), done.stderr) == (["done"] * 8, "")
    done = fuse.command_line(mount, "bundle", "--json", mounted / "out" / "bundled")
    assert {file["action"] for file in json.loads(done.stdout)["files"]} == {"kept"}
    assert fuse.command_line(mount, "verify", mounted / "out" / "bundled").returncode == 0


CHANGED = """\
import os, sys, supermachine_kernel as k
folder = k.ensure_assets(sys.argv[1])
for turn in range(3):
    with open(folder / "smpark.ko", "r+b") as file:
        file.seek(100 + turn)
        file.write(b"changed")
    k.ensure_assets(folder)
    assert (folder / "smpark.ko").read_bytes() == k.SMPARK_KO.read_bytes(), turn
print(os.path.exists(folder / ".supermachine-proof"))
"""


@pytest.mark.parametrize("manner", ["nothing", "step"])
def test_where_times_and_numbers_say_nothing_every_start_reads_the_files(
    manner: str, folder: Path, mounted: Path
) -> None:
    """Each change is made within the moment after the last call, and leaves the file's size as it was."""
    done = fuse.python(fuse.odd(folder, mounted, **{manner: 2}), CHANGED, mounted / "set")
    assert (done.stdout.strip(), done.stderr) == ("False", "")
    assert_right(folder / "set")


@pytest.mark.parametrize("kind", ["fat", "exfat"])
def test_the_set_can_be_kept_on_a_disk_of_windows(kind: str, mounted: Path, tmp_path: Path) -> None:
    program = USES + CHANGED.replace("print(", "pass  # ") + LOOK
    mount = {"fat": fuse.fat, "exfat": fuse.exfat}[kind](tmp_path / "image", mounted)
    done = fuse.python(mount, program, mounted)
    lines = done.stdout.split()
    assert lines[:8] == ["done"] * 8, done.stdout + done.stderr
    assert lines[8:] == [asset.sha256 for asset in ASSETS] * 2, done.stderr


LOOK = """\
import hashlib
for name in ("ensured", "bundled"):
    for asset in k.ASSETS:
        print(hashlib.sha256(open(f"out/{name}/{asset.name}", "rb").read()).hexdigest())
"""


def assert_right(folder: Path) -> None:
    for asset in ASSETS:
        assert hashlib.sha256((folder / asset.name).read_bytes()).hexdigest() == asset.sha256
