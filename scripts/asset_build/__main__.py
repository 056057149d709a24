"""Resolve and prove the set that a build would take, with its progress in sight: frontends hide what a build says."""

import os
import sys

from supermachine_kernel._assets import SET

from .check import prove
from .commands import PROJECT
from .errors import BuildError
from .lock import read_lock
from .sources import resolve


def main() -> int:
    """The exit status: 0 and the source's kind on standard output, or 1 and the one message on standard error."""
    try:
        source = resolve(PROJECT, os.environ)
        prove(source, read_lock(PROJECT).set(SET))
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    print(source.kind)
    return 0


if __name__ == "__main__":
    sys.exit(main())
