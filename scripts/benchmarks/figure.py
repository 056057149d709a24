"""What is measured, one measured value, and the error of a measurement."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.asset_build.paths import PROJECT
from supermachine_kernel import SupermachineKernelError

MIB = 1 << 20


class BenchError(SupermachineKernelError):
    """A benchmark could not be measured."""


def built_set() -> Path:
    """The folder with the set that the kernel build left. Raises BenchError."""
    folder = PROJECT / "kernel-build" / "out" / "aarch64"
    if not (folder / "build-info.json").is_file():
        raise BenchError(str(folder), "a built set", "none", "run bash kernel-build/scripts/build.sh --set aarch64")
    return folder


@dataclass(frozen=True)
class Figure:
    """One measured value; `wanted` is what is promised of it, and `good` whether it holds.

    `spread` is there for a ratio alone: how far apart the ratios of the single turns were.
    """

    name: str
    value: float
    unit: str
    wanted: str = ""
    good: bool = True
    spread: float | None = None

    @classmethod
    def at_most(cls, name: str, value: float, unit: str, limit: float) -> Figure:
        """Return the figure of a value that is promised to be `limit` or less."""
        return cls(name, value, unit, f"at most {limit:g}", value <= limit)

    @classmethod
    def ratio(cls, name: str, turns: Sequence[float], limit: float | None = None) -> Figure:
        """The median of the ratios of single turns, where less is better; it may be promised to be `limit` or less.

        The spread is the distance between their first and their third quarter, so one disturbed turn counts little.
        """
        value = statistics.median(turns)
        spread = 0.0
        if len(turns) > 1:
            first, _, third = statistics.quantiles(turns, n=4, method="inclusive")
            spread = third - first
        if limit is None:
            return cls(name, value, "", spread=spread)
        return cls(name, value, "", f"at most {limit:g}", value <= limit, spread)
