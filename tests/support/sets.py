"""The set with which a test is run that would say the same of any, and where the kernel build left each."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.asset_build.guest_sets import GUEST_SETS, wheel_row
from scripts.asset_build.paths import PROJECT

SET = "aarch64"
GUEST_SET = GUEST_SETS[SET]
PLATFORM_TAG = wheel_row(SET).platform_tag


def set_folder(name: str) -> Path:
    """The folder with the files of a set as the kernel build left them, and their build-info.json."""
    folder = PROJECT / "kernel-build" / "out" / name
    if not (folder / "build-info.json").is_file():
        build = f"bash kernel-build/scripts/build.sh --set {name}"
        pytest.fail(f"{folder}: not built; run {build}, or python3 scripts/test.py")
    return folder
