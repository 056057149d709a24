"""A release that was staged, as its maintainer does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.asset_build.lock import LOCK_NAME, LockedSet, read_lock_file
from scripts.asset_build.release_layout import packed_name, release_folder
from supermachine_kernel._assets import ASSETS
from supermachine_kernel._version import VERSION
from tests.support.sets import SET

PACKED = {asset.name: packed_name(SET, asset.name) for asset in ASSETS}


@dataclass(frozen=True)
class Staged:
    """What `release.py stage` left: the base, the lock, and the folder of the version."""

    base: Path
    lock: Path

    @property
    def folder(self) -> Path:
        return self.base / release_folder(VERSION)

    @property
    def locked(self) -> LockedSet:
        locked = read_lock_file(self.lock).set(SET)
        assert locked is not None
        return locked


def run(project: Path, script: str, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(project / "scripts" / script), *arguments]
    return subprocess.run(command, env={**os.environ, **environ}, capture_output=True, text=True, check=False)


def good(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def stage(project: Path, built_set: Path, folder: Path) -> Staged:
    staged = Staged(folder / "base", folder / LOCK_NAME)
    if staged.lock.exists():  # it is written last
        return staged
    folder.mkdir(exist_ok=True)
    done = run(project, "release.py", "stage", *stage_options(staged), SUPERMACHINE_ASSETS_DIR=str(built_set))
    report = good(done)
    assert report["written"] is True
    assert {file["state"] for file in report["files"].values()} == {"new"}
    return staged


def stage_options(staged: Staged) -> list[str]:
    return ["--json", "--out", str(staged.base), "--lock", str(staged.lock)]
