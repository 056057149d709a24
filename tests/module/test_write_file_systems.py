"""A file is written to a file system that is full, read-only, another one, or shares blocks."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support import disk


@pytest.mark.skipif(sys.platform != "linux", reason="a small tmpfs in a mount namespace is of Linux")
def test_full_disk_is_one_clear_error_and_the_old_file_stays(tmp_path: Path) -> None:
    program = """\
import errno, os, sys, supermachine_kernel
os.chdir(sys.argv[1])
open("kernel", "w").write("old")
try:
    supermachine_kernel.KERNEL.extract_to("kernel")
except supermachine_kernel.DestinationError as error:
    assert error.errno == errno.ENOSPC
    print(error)
assert os.listdir() == ["kernel"] and open("kernel").read() == "old", os.listdir()
"""
    done = disk.python_on_tmpfs(tmp_path, program, tmp_path, size="2m")
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "kernel: expected to write the file, found an error: No space left on device (nothing was changed there); free "
        "some space, or name another place\n"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="a tmpfs in a mount namespace is of Linux")
def test_read_only_place_is_one_clear_error(tmp_path: Path) -> None:
    program = """\
import os, subprocess, sys, supermachine_kernel
os.chdir(sys.argv[1])
open("kernel", "w").write("old")
subprocess.run(["mount", "-o", "remount,bind,ro", sys.argv[1]], check=True)
for use in (lambda: supermachine_kernel.KERNEL.extract_to("kernel"), lambda: supermachine_kernel.extract_all_to("a")):
    try:
        use()
    except supermachine_kernel.DestinationError as error:
        print(error)
assert os.listdir() == ["kernel"] and open("kernel").read() == "old", os.listdir()
"""
    done = disk.python_on_tmpfs(tmp_path, program, tmp_path, size="40m")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "kernel: expected to write the file, found an error: Read-only file system (nothing was changed there); name a "
        "place that you may write to",
        "a: expected a folder, found one that cannot be made (Read-only file system); name a place that you may write "
        "to",
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="a tmpfs in a mount namespace is of Linux")
def test_over_a_boundary_of_file_systems_it_is_a_copy(tmp_path: Path) -> None:
    program = """\
import sys, supermachine_kernel
path = supermachine_kernel.KERNEL.extract_to(sys.argv[1] + "/kernel")
assert path.read_bytes() == supermachine_kernel.KERNEL_BYTES
"""
    done = disk.python_on_tmpfs(tmp_path, program, tmp_path, size="40m")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="btrfs is of Linux")
def test_on_btrfs_the_copy_shares_the_blocks_of_the_asset(installed: Path, tmp_path: Path) -> None:
    """FICLONE, seen from outside: filefrag (FIEMAP) flags every extent of both files as shared."""
    disk.need_root()
    image, mounted = disk.image(tmp_path / "btrfs.img", "mkfs.btrfs", megabytes=256), tmp_path / "mounted"
    filefrag = disk.tool("filefrag", "e2fsprogs")
    program = """\
import subprocess, sys, supermachine_kernel
mounted, filefrag = sys.argv[1:]
assert supermachine_kernel.__file__.startswith(mounted)
subprocess.run(["sync", "-f", mounted], check=True)
path = supermachine_kernel.KERNEL.extract_to(mounted + "/kernel")
assert path.read_bytes() == supermachine_kernel.KERNEL_BYTES
(path.parent / "copy").write_bytes(supermachine_kernel.KERNEL_BYTES)
subprocess.run(["sync", "-f", mounted], check=True)
for each in (supermachine_kernel.KERNEL.path, path, path.parent / "copy"):
    lines = subprocess.run([filefrag, "-v", each], capture_output=True, text=True, check=True).stdout.splitlines()
    extents = [line for line in lines if line.split(":")[0].strip().isdigit()]
    print(len(extents) > 0, sum("shared" in line for line in extents) == len(extents))
"""
    done = disk.python_on_image(image, mounted, program, mounted, filefrag, module_there=installed)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["True True", "True True", "True False"]
