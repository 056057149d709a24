"""Several builds, killed builds and builds without a module of Python, on one cache."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from scripts.asset_build.fetch.cache import Cache
from scripts.asset_build.fetch.locked_files import fetch
from scripts.asset_build.release_layout import release_folder
from supermachine_kernel._version import VERSION
from tests.support import no_flock, odd_system
from tests.support.faults_page import injects
from tests.support.small_release import (
    FOUR,
    LOCKED_FOUR,
    PACKED_FOUR,
    PROJECT,
    assert_right_four,
    measure,
    serve_four,
    start_fetch,
    write_lock,
)

# --- several builds ---


def test_one_build_at_a_time_makes_an_entry(tmp_path: Path) -> None:
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        with Cache(tmp_path).alone(measure(b"content"), 30):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.02)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 8


def test_another_build_is_not_waited_for_without_end(tmp_path: Path) -> None:
    cache, wanted = Cache(tmp_path), measure(b"content")
    with cache.alone(wanted, 30), cache.alone(wanted, 0.1):
        pass


@injects("killed")
@pytest.mark.slow
def test_a_build_killed_at_any_moment_leaves_nothing_that_is_not_whole(environ: dict[str, str], tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    lock = write_lock(tmp_path / "lock")
    with serve_four(0.02) as host:
        environ["SUPERMACHINE_RELEASE_URL"] = host.url
        command = [sys.executable, "-m", "tests.support.fetch_killed", str(lock), str(seed), "100", "0.3"]
        done = subprocess.run(
            command, cwd=PROJECT, env={**os.environ, **environ}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        middle = json.loads(done.stdout)["killed in the middle"]
        assert middle >= 20, f"{middle} of 100 were killed in the middle: the moments miss the fetch"
        running = start_fetch(lock, environ)
        output, errors = running.communicate(timeout=60)
    assert running.returncode == 0, errors
    assert_right_four(output)


@injects("many builds")
@pytest.mark.slow
@pytest.mark.parametrize("locks", [True, False], ids=["with locks", "without locks"])
def test_many_builds_share_a_cold_cache(locks: bool, environ: dict[str, str], tmp_path: Path) -> None:
    """With locks, each file is asked for once: the others wait for the one that fetches it."""
    lock = write_lock(tmp_path / "lock")
    if not locks:
        environ.update(no_flock.variables(tmp_path, errno.ENOLCK))
    with serve_four(0.05) as host:
        environ["SUPERMACHINE_RELEASE_URL"] = host.url
        running = [start_fetch(lock, environ) for _ in range(16)]
        outputs = [one.communicate(timeout=120) for one in running]
    for one, (output, errors) in zip(running, outputs):
        assert one.returncode == 0, errors
        assert_right_four(output)
    if locks:
        paths = sorted(request.path for request in host.requests)
        assert paths == sorted(f"/{release_folder(VERSION)}/{name}" for name in PACKED_FOUR)


def test_many_threads_mend_a_damaged_cache_together(environ: dict[str, str], tmp_path: Path) -> None:
    """None takes away what another has just put there."""
    cache = tmp_path / "cache"
    cache.mkdir()
    for asset in LOCKED_FOUR.assets.values():
        (cache / asset.unpacked.sha256).write_bytes(b"damaged")
    start = threading.Barrier(8)
    with serve_four(0) as host, ThreadPoolExecutor(8) as pool:
        environ["SUPERMACHINE_RELEASE_URL"] = host.url

        def build(_: int) -> dict[str, bytes]:
            start.wait()
            return {name: path.read_bytes() for name, path in fetch(LOCKED_FOUR, environ).items()}

        for files in pool.map(build, range(8)):
            assert files == FOUR


# --- a Python that lacks a module ---

_WITHOUT = """\
import sys
for name in sys.argv[1].split(","):
    sys.modules[name] = None
sys.argv = [sys.argv[0], *sys.argv[2:]]
from tests.support.fetch_process import main
sys.exit(main())
"""


@injects("missing module")
@pytest.mark.parametrize("module", ["_lzma", "_ssl", "zlib", "requests", "tqdm"])
def test_a_missing_module_is_named_where_something_must_be_fetched(
    module: str, environ: dict[str, str], tmp_path: Path
) -> None:
    lock = write_lock(tmp_path / "lock")
    with serve_four(0) as host:
        environ["SUPERMACHINE_RELEASE_URL"] = host.url
        done = fetch_without(module, lock, environ)
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert line.startswith(
            f"error: {sys.executable}: expected the module {module}, to fetch the assets, found none;"
        )
        assert host.requests == []


@pytest.mark.skipif(sys.platform != "linux", reason="LD_PRELOAD is of Linux")
def test_a_published_file_that_cannot_be_read_is_blamed_and_not_the_cache(
    environ: dict[str, str], tmp_path: Path
) -> None:
    lock, folder = write_lock(tmp_path / "lock"), tmp_path / "mirror" / release_folder(VERSION)
    folder.mkdir(parents=True)
    for name, content in PACKED_FOUR.items():
        (folder / name).write_bytes(content)
    inside = {**os.environ, **environ, "SUPERMACHINE_RELEASE_URL": str(tmp_path / "mirror")}
    command = [sys.executable, "-m", "tests.support.fetch_process", str(lock)]
    odd = odd_system.variables(path=f"{folder}/", read=errno.EIO)
    done = subprocess.run(
        command, cwd=PROJECT, env={**inside, **odd}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    assert line.startswith(f"error: {folder}/"), done.stderr
    assert "expected the published file, found Input/output error; " in line


def test_no_module_is_missed_where_the_cache_has_everything(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    for content in FOUR.values():
        (tmp_path / "cache" / measure(content).sha256).write_bytes(content)
    done = fetch_without("_lzma,_ssl,zlib,requests,tqdm", write_lock(tmp_path / "lock"), environ)
    assert done.returncode == 0, done.stderr
    assert_right_four(done.stdout)


def fetch_without(modules: str, lock: Path, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _WITHOUT, modules, str(lock)]
    inside = {**os.environ, **environ}
    return subprocess.run(command, cwd=PROJECT, env=inside, capture_output=True, text=True, timeout=60, check=False)
