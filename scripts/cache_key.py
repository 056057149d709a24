#!/usr/bin/env python3
"""Print a key for a CI cache of the assets: it changes exactly when the assets would."""

from __future__ import annotations

import runpy

if not __package__:
    runpy.run_path(f"{__file__.rpartition('/')[0]}/_path.py")

import argparse
import hashlib
import json

from scripts.asset_build.errors import BuildError
from scripts.asset_build.guest_sets import named_sets
from scripts.asset_build.lock import LOCK_NAME, read_lock
from scripts.asset_build.paths import PROJECT
from scripts.machine.arguments import add_set, chosen_name
from scripts.machine.build import inputs_digest
from scripts.machine.errors import WheelError
from scripts.machine.program import report_error, run_program

EPILOG = f"""\
The key of a set is its set digest in {LOCK_NAME} when the lock holds the assets of this version. Before that it is the
digest of all that kernel-build makes them from: kernel source, configuration, patches, guest sources, compiler and
musl. That digest needs the build's packages; where they are missing, the message has the command that installs them.
The key of several sets is a digest of their keys.

Exit status: 0 good, 1 no key, 2 usage.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit status: 0 a key, 1 none, 2 usage."""
    options = _parser().parse_args(arguments)
    try:
        source, digest = cache_key(chosen_name(options))
    except (BuildError, WheelError) as error:
        return report_error(error, as_json=options.json)
    print(json.dumps({"key": digest, "source": source}) if options.json else digest)
    return 0


def cache_key(sets: str) -> tuple[str, str]:
    """("lock" or "inputs", the digest in hexadecimal) of a set or of "all". Raises BuildError or WheelError."""
    names, lock = [guest_set.name for guest_set in named_sets(sets)], read_lock(PROJECT)
    locked = [found.digest for name in names if (found := lock.set(name)) is not None]
    source = "lock" if len(locked) == len(names) else "inputs"
    digests = locked if source == "lock" else [inputs_digest(name) for name in names]
    return source, digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_set(parser, default="all")
    parser.add_argument("--json", action="store_true", help='print {"key": ..., "source": "lock" or "inputs"}')
    return parser


if __name__ == "__main__":
    run_program(main)
