#!/usr/bin/env python3
"""Measure speed and memory, and compare both with what is promised. Every figure is taken in this run."""

from __future__ import annotations

import runpy

if not __package__:
    runpy.run_path(f"{__file__.rpartition('/')[0]}/_path.py")

import argparse
import json
from dataclasses import asdict
from typing import Callable

from scripts.asset_build.errors import BuildError
from scripts.benchmarks.boot import boot
from scripts.benchmarks.build import build
from scripts.benchmarks.fetch import fetch
from scripts.benchmarks.figure import BenchError, Figure
from scripts.benchmarks.file_systems import file_systems
from scripts.benchmarks.kernel_build import kernel_build
from scripts.benchmarks.module import module
from scripts.benchmarks.network import network
from scripts.benchmarks.recorded import RECORDED, read_recorded, record, worse_than_recorded
from scripts.machine.errors import SetupError, WheelError
from scripts.machine.program import log, report_error, run_program

BENCHMARKS: dict[str, Callable[[int], list[Figure]]] = {
    "boot": boot,
    "build": build,
    "fetch": fetch,
    "file-systems": file_systems,
    "kernel-build": kernel_build,
    "module": module,
    "network": network,
}
"""Each takes how often to measure, and gives its figures; the first line of its docstring is its help."""
DEFAULT = [name for name in BENCHMARKS if name != "kernel-build"]


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmarks; the exit status: 0 what is promised holds, 1 not, 2 usage.

    With --check it is 1 if a ratio is worse than the recorded one, whatever is promised.
    """
    options = _parser().parse_args(arguments)
    results: dict[str, list[Figure]] = {}
    try:
        recorded = read_recorded(RECORDED) if options.check or options.record else {}
        for name in options.benchmark or (recorded if options.check else DEFAULT):
            log(f"--- {name}")
            results[name] = BENCHMARKS[name](options.rounds)
        if options.record:
            record(RECORDED, results)
    except (BenchError, BuildError, SetupError, WheelError) as error:
        return report_error(error, as_json=options.json)
    if options.json:
        print(json.dumps({name: [asdict(figure) for figure in figures] for name, figures in results.items()}, indent=2))
    else:
        _print(results)
    if options.check:
        worse = worse_than_recorded(results, recorded)
        for line in worse:
            log(f"worse than recorded: {line}")
        return 1 if worse else 0
    return 0 if all(figure.good for figures in results.values() for figure in figures) else 1


def _print(results: dict[str, list[Figure]]) -> None:
    for name, figures in results.items():
        print(name)
        for figure in figures:
            wanted = f"  (wanted {figure.wanted}{'' if figure.good else ': NOT SO'})" if figure.wanted else ""
            print(f"  {figure.name:<52} {figure.value:>9.3f} {figure.unit}{wanted}")


def _benchmark(name: str) -> str:
    if name not in BENCHMARKS:
        raise argparse.ArgumentTypeError(f"no benchmark {name!r}: there are {', '.join(BENCHMARKS)}")
    return name


def _rounds(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a number from 1")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    table = "\n".join(f"  {name:<13} {(run.__doc__ or '').splitlines()[0]}" for name, run in BENCHMARKS.items())
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=f"benchmarks:\n{table}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "benchmark",
        nargs="*",
        type=_benchmark,
        help="what to measure (default: all but kernel-build; with --check, all that is recorded)",
    )
    parser.add_argument("--rounds", type=_rounds, default=3, help="how often; the median counts (default: 3)")
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--check", action="store_true", help="fail if a ratio is worse than the recorded one")
    either.add_argument("--record", action="store_true", help="record the ratios of this run, to compare with later")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    return parser


if __name__ == "__main__":
    run_program(main)
