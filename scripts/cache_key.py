#!/usr/bin/env python3
"""Print a key for a CI cache of the assets: it changes exactly when the assets would."""

from __future__ import annotations

import runpy

if not __package__:
    runpy.run_path(f"{__file__.rpartition('/')[0]}/_path.py")

import argparse
import json

from scripts.asset_build.errors import BuildError
from scripts.asset_build.lock import LOCK_NAME, read_lock
from scripts.asset_build.paths import PROJECT
from scripts.machine.build import inputs_digest
from scripts.machine.errors import WheelError
from scripts.machine.program import report_error, run_program
from supermachine_kernel._assets import SET

EPILOG = f"""\
The key is the set digest in {LOCK_NAME} when the lock holds the assets of this version. Before that it is the
digest of all that kernel-build makes them from: kernel source, configuration, patches, guest sources, compiler and
musl. That digest needs the build's packages; where they are missing, the message has the command that installs them.

Exit status: 0 good, 1 no key, 2 usage.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit status: 0 a key, 1 none, 2 usage."""
    options = _parser().parse_args(arguments)
    try:
        source, digest = cache_key()
    except (BuildError, WheelError) as error:
        return report_error(error, as_json=options.json)
    print(json.dumps({"key": digest, "source": source}) if options.json else digest)
    return 0


def cache_key() -> tuple[str, str]:
    """("lock" or "inputs", the digest in hexadecimal). Raises BuildError or WheelError."""
    locked = read_lock(PROJECT).set(SET)
    if locked is not None:
        return "lock", locked.digest
    return "inputs", inputs_digest()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help='print {"key": ..., "source": "lock" or "inputs"}')
    return parser


if __name__ == "__main__":
    run_program(main)
