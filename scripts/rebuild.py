#!/usr/bin/env python3
"""Rebuild a wheel from this checkout, with the assets that are in it, and say whether the two are the same bytes."""

from __future__ import annotations

import runpy

if not __package__:
    runpy.run_path(f"{__file__.rpartition('/')[0]}/_path.py")

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.asset_build.audit.errors import AuditError
from scripts.asset_build.audit.reader import read_wheel
from scripts.asset_build.audit.rebuild import compare_with_rebuilt, rebuild
from scripts.asset_build.errors import printable
from scripts.asset_build.paths import PROJECT
from scripts.machine import environments
from scripts.machine.arguments import existing_file
from scripts.machine.errors import SetupError
from scripts.machine.program import log, report_error, run_program

if TYPE_CHECKING:
    from scripts.asset_build.audit.compare import Difference

EPILOG = """\
The record of the assets' build, which the bill of materials is made from, is in the lock for a release. For a custom
set it is taken from the tree (kernel-build/ here or beside, or SUPERMACHINE_KERNEL_BUILD) if it is of these very
assets; without one the rebuilt bill of materials says "unknown", and differs from one that was made with it.

Where only the compressed form of the members differs, that is said, with the compressor of this checkout: the wheels
hold the same files.

examples:
  python3 scripts/rebuild.py dist/*.whl
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit status: 0 identical, 1 not, 2 usage."""
    options = _parser().parse_args(arguments)
    try:
        wheel = read_wheel(options.wheel)
        log("building the wheel again")
        python = environments.ensure("build")
        with tempfile.TemporaryDirectory(prefix="supermachine-kernel-rebuild-") as folder:
            rebuilt = rebuild(wheel, python, PROJECT, Path(folder), os.environ)
    except (AuditError, SetupError) as error:
        return report_error(error, as_json=options.json)
    differences = compare_with_rebuilt(wheel, rebuilt, PROJECT)
    report = {
        "wheel": str(options.wheel),
        "sha256": wheel.sha256,
        "rebuilt_sha256": rebuilt.sha256,
        "identical": not differences,
        "differences": [vars(difference) for difference in differences],
    }
    print(json.dumps(report, indent=2) if options.json else _text(report, differences))
    return 1 if differences else 0


def _text(report: dict[str, Any], differences: list[Difference]) -> str:
    if not differences:
        return f"identical: {report['wheel']}\nSHA-256    {report['sha256']}"
    count = f"{len(differences)} difference{'s' if len(differences) > 1 else ''}"
    return "\n".join([*map(_lines, differences), f"not identical: {report['wheel']}, {count}"])


def _lines(difference: Difference) -> str:
    lines = [f"wheel    {difference.found}", f"rebuilt  {difference.expected}", *difference.diff]
    lines += [difference.cure] if difference.cure else []
    return "\n    ".join(map(printable, [f"{difference.name}: {difference.what} differs", *lines]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("wheel", type=existing_file, help="the wheel to rebuild")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


if __name__ == "__main__":
    run_program(main)
