"""Kill a fetch, again and again: python -m tests.support.fetch_killed LOCK SEED COUNT LONGEST.

Each time the cache is emptied, a child fetches, and is killed after up to LONGEST seconds; what bears a digest as its
name must then be what it says. Prints how many were killed in the middle, as JSON.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

from scripts.asset_build.digests import file_sha256
from scripts.asset_build.fetch import cache
from scripts.asset_build.fetch import locked_files as release
from scripts.asset_build.lock import LockedSet, read_lock_file
from tests.support.sets import SET


def main() -> None:
    lock, seed, count, longest = sys.argv[1:]
    locked = read_lock_file(Path(lock)).set(SET)
    assert locked is not None
    chance = random.Random(int(seed))
    folder = cache.cache_folder(os.environ)
    middle = 0
    for turn in range(int(count)):
        if turn % 2:  # the other half goes on from what the killed one left
            shutil.rmtree(folder, ignore_errors=True)
        middle += not fetch_and_kill(locked, chance.uniform(0, float(longest)))
        for path in folder.glob("*"):
            if path.suffix not in (".tmp", ".lock"):
                assert file_sha256(path) == path.name, f"{path} after kill {turn} of seed {seed}"
    print(json.dumps({"killed in the middle": middle}))


def fetch_and_kill(locked: LockedSet, after: float) -> bool:
    """Whether the fetch was done before it was killed."""
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        release.fetch(locked, os.environ)
        os._exit(0)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return not os.WIFSIGNALED(status)


if __name__ == "__main__":
    main()
