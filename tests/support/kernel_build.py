"""Run kernel-build/scripts/build.sh, on this checkout or on a copy of it."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

KERNEL_BUILD = Path(__file__).resolve().parents[2] / "kernel-build"
ASSETS = ["init-oci", "kernel", "smpark.ko", "supermachine-agent"]
SMALL = Path(__file__)
"""A file in the place of the kernel's source, whose digest is there at once."""


def build(
    *arguments: object,
    tree: Path = KERNEL_BUILD,
    cache: Path | None = None,
    path: Path | None = None,
    user: int | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run build.sh with `cache`, with nothing but the commands in the folder `path`, or as another user."""
    return subprocess.run(
        command(tree, arguments),
        env=environment(cache, path),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        user=user,
        group=user,
        extra_groups=None if user is None else [],
    )


def command(tree: Path, arguments: Any) -> list[str]:
    return ["/bin/bash", str(tree / "scripts/build.sh"), *map(str, arguments)]


def environment(cache: Path | None, path: Path | None = None) -> dict[str, str]:
    changed = dict(os.environ)
    if cache:
        changed["SUPERMACHINE_BUILD_CACHE"] = str(cache)
    if path:
        changed["PATH"] = str(path)
    return changed


def user_cache() -> Path:
    if "SUPERMACHINE_BUILD_CACHE" in os.environ:
        return Path(os.environ["SUPERMACHINE_BUILD_CACHE"])
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "supermachine-kernel/build"


def digest(tree: Path = KERNEL_BUILD, source: Path | None = None, *options: str) -> str:
    """The digest of a build's inputs; of a small `source` it is there at once."""
    result = build("--print-digest", *options, *(["--source", source] if source else []), tree=tree)
    assert result.returncode == 0, result.stderr
    assert re.fullmatch(r"[0-9a-f]{64}\n", result.stdout)
    return result.stdout.strip()


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def remove_patches(checkout: Path) -> None:
    """The tests' own kernel sources are no Linux, which the patches are for."""
    for patch in (checkout / "patches").glob("*.patch"):
        patch.unlink()


def copy_sources(to: Path) -> Path:
    ignored = shutil.ignore_patterns("out", "*.o", "*.ko", "*.mod*", ".*.cmd")
    return Path(shutil.copytree(KERNEL_BUILD, to / "kernel-build", ignore=ignored))
