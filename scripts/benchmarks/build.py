"""A warm build of the wheel, and all of wheel.py, beside hashing and deflating the assets alone."""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from scripts.asset_build import frontend
from scripts.asset_build.paths import PROJECT
from scripts.benchmarks.figure import Figure, built_set
from scripts.machine import environments
from scripts.machine.build import checked_wheel
from scripts.machine.program import log

_BY_HAND = """\
import hashlib, sys, time
from pathlib import Path
import deflate

for asset in sorted(Path(sys.argv[1]).iterdir()):
    content = asset.read_bytes()
    hashlib.sha256(content).hexdigest()
    deflate.deflate_compress(content, 12)
"""


def build(rounds: int) -> list[Figure]:
    """A warm `wheel.py`, with all its checks, beside one process that hashes and deflates the assets."""
    assets = built_set()
    python = environments.ensure("build")
    environ = {**os.environ, "SUPERMACHINE_SET": "aarch64"}
    by_hand, built, checked = [], [], []
    with tempfile.TemporaryDirectory(prefix="supermachine-kernel-bench-") as folder:
        checked_wheel(Path(folder), "aarch64")  # makes the environments, and fills the caches
        for turn in range(rounds):
            log(f"round {turn + 1} of {rounds}")
            by_hand.append(_seconds(lambda: subprocess.run([str(python), "-c", _BY_HAND, str(assets)], check=True)))
            with tempfile.TemporaryDirectory(dir=folder) as out:
                built.append(_seconds(lambda: frontend.build_wheel(python, PROJECT, Path(out), environ)))
            checked.append(_seconds(lambda: checked_wheel(Path(folder), "aarch64")))
    return [
        Figure("SHA-256 and deflate of the assets, one process", statistics.median(by_hand), "s"),
        Figure("the build of the wheel, warm", statistics.median(built), "s"),
        Figure("scripts/wheel.py, which also checks it", statistics.median(checked), "s"),
        Figure.ratio("build / SHA-256 and deflate", [a / b for a, b in zip(built, by_hand)]),
        Figure.ratio("wheel.py / SHA-256 and deflate", [a / b for a, b in zip(checked, by_hand)], 1.3),
    ]


def _seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started
