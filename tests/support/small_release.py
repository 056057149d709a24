"""A small release to fetch: one file or four, its lock, and the two ways in which a fetch may end."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.asset_build.errors import BuildError
from scripts.asset_build.fetch.limits import Limits
from scripts.asset_build.fetch.locked_files import fetch
from scripts.asset_build.fetch.xz import pack
from scripts.asset_build.lock import Lock, LockedAsset, LockedFile, LockedSet, format_lock
from scripts.asset_build.release_layout import packed_name, release_folder
from supermachine_kernel._assets import ASSETS
from supermachine_kernel._version import VERSION
from tests.support.faulty import FaultyHost, Reply, Request, serve
from tests.support.sets import SET

PROJECT = Path(__file__).resolve().parents[2]
QUICK = Limits(connect=2, silence=0.5, total=6, tries=3, backoff=0.02, longest_wait=1.5)
NAME = packed_name(SET, "kernel")
UNPACKED = random.Random(1).randbytes(200_000)
PACKED = pack(UNPACKED)
HALF = len(PACKED) // 2


def locked(packed: bytes = PACKED, unpacked: bytes = UNPACKED) -> LockedSet:
    """A locked set of one file."""
    return LockedSet(SET, {"kernel": LockedAsset(unpacked=measure(unpacked), packed=measure(packed))})


def measure(content: bytes) -> LockedFile:
    return LockedFile(len(content), hashlib.sha256(content).hexdigest())


FOUR = {asset.name: random.Random(asset.name).randbytes(40_000) for asset in ASSETS}
PACKED_FOUR = {packed_name(SET, name): pack(content) for name, content in FOUR.items()}
LOCKED_FOUR = LockedSet(
    SET,
    {
        name: LockedAsset(unpacked=measure(content), packed=measure(PACKED_FOUR[packed_name(SET, name)]))
        for name, content in FOUR.items()
    },
)


def assert_right_bytes(environ: dict[str, str], lock: LockedSet | None = None) -> None:
    """The fetch gives the right bytes, from the cache."""
    path = fetch(lock or locked(), environ, limits=QUICK)["kernel"]
    assert path.read_bytes() == UNPACKED
    assert path.parent == Path(environ["SUPERMACHINE_CACHE_DIR"])


def assert_refused(environ: dict[str, str], *parts: str, lock: LockedSet | None = None) -> BuildError:
    """The fetch ends in one clear line, which has the `parts`, and leaves nothing in the cache."""
    with pytest.raises(BuildError) as refused:
        fetch(lock or locked(), environ, limits=QUICK)
    assert_clear(str(refused.value), *parts)
    assert all((refused.value.subject, refused.value.expected, refused.value.found, refused.value.cure))
    left = [path.name for path in Path(environ["SUPERMACHINE_CACHE_DIR"]).glob("*") if path.suffix != ".lock"]
    assert left == []
    return refused.value


def assert_clear(line: str, *parts: str) -> None:
    where, _, rest = line.partition(": ")
    assert "/" in where, "the file or the URL comes first"
    assert "expected " in rest and "found " in rest and "; " in rest
    assert line.isprintable() and "Traceback" not in line and "Errno" not in line and "object at" not in line
    for part in parts:
        assert part in line


def write_lock(path: Path, lock: LockedSet = LOCKED_FOUR) -> Path:
    path.write_text(format_lock(Lock(VERSION, {SET: lock})), encoding="utf-8")
    return path


def write_release(base: Path) -> Path:
    """Write the one file below the release base `base`."""
    folder = base / release_folder(VERSION)
    folder.mkdir(parents=True)
    (folder / NAME).write_bytes(PACKED)
    return base


def start_fetch(
    lock: Path, environ: dict[str, str], *arguments: str, shell_limit: str = "true"
) -> subprocess.Popen[str]:
    """Fetch in a process of its own, under a `ulimit` of the shell."""
    shell = ["sh", "-c", f'{shell_limit} && exec "$@"', "sh"]
    command = [*shell, sys.executable, "-m", "tests.support.fetch_process", str(lock), *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=PROJECT, env={**os.environ, **environ}, stdout=pipe, stderr=pipe, text=True)


def serve_four(pause: float) -> contextlib.AbstractContextManager[FaultyHost]:
    """A slow host of all four files: 4 KiB, then `pause` seconds."""

    def answer(request: Request, reply: Reply) -> None:
        content = PACKED_FOUR[request.path.rpartition("/")[2]]
        reply.head("200 OK", Content_Length=len(content))
        reply.trickle(content, 4096, pause)

    return serve(answer)


def assert_right_four(output: str) -> None:
    found = {name: digest for name, (_, digest) in json.loads(output).items()}
    assert found == {name: asset.unpacked.sha256 for name, asset in LOCKED_FOUR.assets.items()}
