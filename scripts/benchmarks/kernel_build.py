"""A cold build of the kernel, beside `make` by hand with the same source, patches and configuration."""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from scripts.asset_build.guest_sets import GUEST_SETS
from scripts.asset_build.paths import PROJECT
from scripts.benchmarks.figure import BenchError, Figure
from scripts.machine.build import BUILD_SCRIPT
from scripts.machine.program import log

_SET = GUEST_SETS["aarch64"]
_PREPARE = f"""\
set -eu
COMPILER={_SET.compiler} KERNEL_ARCHITECTURE={_SET.kernel_architecture}
eval "$(grep ^SOURCE_PACKAGE= "$1/scripts/build.sh")"
. "$1/scripts/recipe.sh"
unpack_source "/usr/src/$SOURCE_PACKAGE.tar.xz" "$2"
apply_patches "$1/patches" "$2"
configure "$2" "$1/config/common.config" "$1/config/{_SET.name}.config"
"""
_FIRST, _NEXT = "compiling the kernel", "packing its headers"
"""How build.sh's lines begin when it starts to compile, and when it has compiled."""


def kernel_build(rounds: int) -> list[Figure]:
    """A cold build of the kernel, beside `make` by hand. Runs only when it is named: a round takes half an hour."""
    by_hand, built = [], []
    for turn in range(rounds):
        log(f"round {turn + 1} of {rounds}")
        with tempfile.TemporaryDirectory(prefix="supermachine-kernel-bench-") as folder:
            built.append(_cold_build(Path(folder)))  # first: it installs what both need
        with tempfile.TemporaryDirectory(prefix="supermachine-kernel-bench-") as folder:
            by_hand.append(_make_by_hand(Path(folder)))
    return [
        Figure("make by hand", statistics.median(by_hand), "s"),
        Figure("build.sh, from the first file to the last", statistics.median(built), "s"),
        Figure.ratio("build.sh / make by hand", [a / b for a, b in zip(built, by_hand)], 1.03),
    ]


def _make_by_hand(folder: Path) -> float:
    tree = folder / "linux"
    _run(["bash", "-c", _PREPARE, "bash", str(PROJECT / "kernel-build"), str(tree)])
    options = [f"-j{os.cpu_count()}", f"ARCH={_SET.kernel_architecture}", f"CROSS_COMPILE={_SET.compiler}-"]
    log("make by hand")
    started = time.perf_counter()
    _run(["make", "-C", str(tree), *options, "Image", "modules"])
    return time.perf_counter() - started


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(command[0], "to succeed", (done.stderr or done.stdout).strip()[-1000:])


def _cold_build(folder: Path) -> float:
    """Seconds that build.sh compiles the kernel, with a cache that is empty."""
    command = ["bash", str(PROJECT / BUILD_SCRIPT), "--set", _SET.name, "--out", str(folder / "out")]
    inside = {**os.environ, "SUPERMACHINE_BUILD_CACHE": str(folder / "cache")}
    at: dict[str, float] = {}
    with subprocess.Popen(command, env=inside, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as build:
        assert build.stderr
        for line in build.stderr:
            log(line.rstrip())
            at.update((begins, time.perf_counter()) for begins in (_FIRST, _NEXT) if line.startswith(begins))
    if build.returncode or len(at) < 2:
        raise BenchError(BUILD_SCRIPT, "to succeed", f"exit status {build.returncode}", "its message is above")
    return at[_NEXT] - at[_FIRST]
