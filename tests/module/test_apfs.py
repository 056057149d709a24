"""Extraction on APFS: a clone of the installed file, which takes no room until one of the two is changed."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from supermachine_kernel import ASSETS, KERNEL

pytestmark = pytest.mark.skipif(sys.platform != "darwin", reason="APFS is a file system of macOS")

COPIES = 64


def test_clones_share_their_blocks(tmp_path: Path) -> None:
    """Measured on the volume as a whole: its other users write less meanwhile than a quarter of the copies' size."""
    before = _free(tmp_path)
    for number in range(COPIES):
        KERNEL.extract_to(tmp_path / f"kernel-{number}")
    taken = before - _free(tmp_path)
    assert taken < COPIES * KERNEL.size // 4
    assert (tmp_path / f"kernel-{COPIES - 1}").read_bytes() == KERNEL.read_bytes()


def test_a_changed_clone_leaves_the_installed_file_as_it_was(tmp_path: Path) -> None:
    with KERNEL.extract_to(tmp_path / "kernel").open("r+b") as file:
        file.write(b"another kernel")
    KERNEL.verify()


def test_a_clone_has_the_mode_of_the_asset_not_of_its_source(tmp_path: Path) -> None:
    """`clonefile` copies the mode of the installed file; the extracted one has the asset's, or the process's."""
    umask = os.umask(0o027)
    try:
        for asset in ASSETS:
            asset.extract_to(tmp_path / asset.name)
    finally:
        os.umask(umask)
    for asset in ASSETS:
        expected = 0o755 if asset.mode & 0o111 else 0o640
        assert (tmp_path / asset.name).stat().st_mode & 0o7777 == expected


def _free(folder: Path) -> int:
    os.sync()
    return shutil.disk_usage(folder).free
