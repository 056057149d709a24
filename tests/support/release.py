"""A released version: a copy of the checkout whose lock holds a set, and what is built from it."""

from __future__ import annotations

import hashlib
import lzma
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from scripts.asset_build.guest_sets import GUEST_SETS
from scripts.asset_build.lock import LOCK_NAME, Lock, LockedAsset, LockedFile, LockedSet, format_lock
from scripts.machine import environments
from supermachine_kernel._version import VERSION
from tests.support.sets import SET


def lock_set(checkout: Path, assets: Path) -> None:
    """Write the lock of `checkout` for the set in the folder `assets`."""
    lock_sets(checkout, {SET: assets})


def lock_sets(checkout: Path, folders: Mapping[str, Path]) -> None:
    """Write the lock of `checkout` for several sets, each in its folder."""
    lock = Lock(VERSION, {name: _locked(name, assets) for name, assets in folders.items()})
    (checkout / LOCK_NAME).write_text(format_lock(lock), encoding="utf-8")


def _locked(name: str, assets: Path) -> LockedSet:
    contents = {asset.name: (assets / asset.name).read_bytes() for asset in GUEST_SETS[name].assets}
    return LockedSet(
        name,
        {
            asset: LockedAsset(unpacked=_measure(content), packed=_measure(lzma.compress(content, preset=0)))
            for asset, content in contents.items()
        },
    )


def build(checkout: Path, assets: Path, out: Path) -> tuple[Path, Path]:
    """Build the wheel and the sdist of `checkout` with the set in the folder `assets`."""
    command = [str(environments.ensure("build")), "-m", "build", "--no-isolation", "--wheel", "--sdist"]
    inside = {**os.environ, "SUPERMACHINE_ASSETS_DIR": str(assets)}
    subprocess.run([*command, "--outdir", str(out), str(checkout)], env=inside, capture_output=True, check=True)
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


def _measure(content: bytes) -> LockedFile:
    return LockedFile(len(content), hashlib.sha256(content).hexdigest())
