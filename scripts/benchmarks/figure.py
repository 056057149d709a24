"""One measured value, and the error of a measurement."""

from __future__ import annotations

from dataclasses import dataclass

from supermachine_kernel import SupermachineKernelError

MIB = 1 << 20


class BenchError(SupermachineKernelError):
    """A benchmark could not be measured."""


@dataclass(frozen=True)
class Figure:
    """One measured value; `wanted` is what is promised of it, and `good` whether it holds."""

    name: str
    value: float
    unit: str
    wanted: str = ""
    good: bool = True

    @classmethod
    def at_most(cls, name: str, value: float, unit: str, limit: float) -> Figure:
        """Return the figure of a value that is promised to be `limit` or less."""
        return cls(name, value, unit, f"at most {limit:g}", value <= limit)
