"""The ratios of an earlier run, which the repository keeps, and whether those of this run are worse.

Ratios of two things that were measured side by side are compared, and no times: they differ little between machines.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.benchmarks.figure import BenchError, Figure

RECORDED = Path(__file__).with_name("recorded.json")
LEAST = 0.02
"""The part of a recorded ratio that a run may always be above it, even if the turns of both runs were alike."""
FINEST = 0.005
"""A difference of two ratios that counts for nothing: 0.002 and 0.006 both say that a step takes next to no time."""

Ratios = Mapping[str, Mapping[str, Mapping[str, float]]]
"""By benchmark and name: the ratio as "value", and the "spread" of the turns that it is the median of."""


def read_recorded(path: Path) -> dict[str, Any]:
    """The recorded ratios. Raises BenchError."""
    if not path.exists():
        return {}
    try:
        recorded: dict[str, Any] = json.loads(path.read_bytes())
        for ratios in recorded.values():
            for ratio in ratios.values():
                float(ratio["value"]), float(ratio["spread"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BenchError(str(path), "recorded ratios", str(error), "record them anew with --record") from error
    return recorded


def record(path: Path, results: Mapping[str, Sequence[Figure]]) -> None:
    """Write the ratios of `results`, and keep those of the benchmarks that were not run."""
    recorded = read_recorded(path)
    for benchmark, figures in results.items():
        recorded[benchmark] = {
            figure.name: {"value": round(figure.value, 4), "spread": round(figure.spread, 4)}
            for figure in figures
            if figure.spread is not None
        }
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(recorded, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    temporary.replace(path)


def worse_than_recorded(results: Mapping[str, Sequence[Figure]], recorded: Ratios) -> list[str]:
    """A line for each ratio that is worse than the recorded one, by more than the spread, or that only one side has."""
    lines = []
    for benchmark, figures in results.items():
        ratios = {figure.name: figure for figure in figures if figure.spread is not None}
        before = recorded.get(benchmark, {})
        for name in sorted({*ratios, *before}):
            if name not in before:
                lines.append(f"{benchmark}: {name}: expected a recorded ratio, found none; record it with --record")
            elif name not in ratios:
                lines.append(
                    f"{benchmark}: {name}: expected this run to measure it, as it is recorded, found no figure"
                )
            elif ratios[name].value > (most := _most(ratios[name], before[name])):
                value, was = ratios[name].value, before[name]["value"]
                lines.append(
                    f"{benchmark}: {name}: expected at most {most:.4f}, found {value:.4f}; recorded is {was:.4f}"
                )
    return lines


def _most(now: Figure, before: Mapping[str, float]) -> float:
    return before["value"] + max(before["spread"], now.spread or 0.0, LEAST * before["value"], FINEST)
