"""Fetch in a process of its own: python -m tests.support.fetch_process LOCK [--as-nobody]; prints the paths as JSON."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from scripts.asset_build.digests import file_sha256
from scripts.asset_build.errors import BuildError
from scripts.asset_build.fetch import locked_files as release
from scripts.asset_build.lock import read_lock_file
from tests.support.sets import SET


def main() -> int:
    """The exit status: 0 all files are there, 1 the line on standard error says why not."""
    locked = read_lock_file(Path(sys.argv[1])).set(SET)
    assert locked is not None
    if "--as-nobody" in sys.argv and os.geteuid() == 0:  # modes do not bind root
        from scripts.asset_build.fetch import missing_files  # noqa: F401  it lies where nobody may not read

        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    try:
        files = release.fetch(locked, os.environ)
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    # The digests as well: what a read-only cache cannot keep is gone with this process.
    print(json.dumps({name: [str(path), file_sha256(path)] for name, path in files.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
