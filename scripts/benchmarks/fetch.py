"""A build's download of a release, from a server on this machine, beside `curl | xz -d`."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from scripts.asset_build.digests import file_sha256
from scripts.asset_build.paths import PROJECT
from scripts.asset_build.release_layout import release_folder
from scripts.benchmarks.figure import MIB, BenchError, Figure, built_set
from scripts.machine import environments
from scripts.machine.packages import install_commands
from scripts.machine.program import log
from supermachine_kernel._version import VERSION

_FETCH = """\
import json, os, resource, sys, time
from pathlib import Path
from scripts.asset_build.lock import LockedAsset, LockedFile, LockedSet
from scripts.asset_build.fetch.locked_files import fetch

name, *numbers = sys.argv[1:]
size, sha256, packed_size, packed_sha256 = numbers
asset = LockedAsset(LockedFile(int(size), sha256), LockedFile(int(packed_size), packed_sha256))
started = time.perf_counter()
fetch(LockedSet("aarch64", {name: asset}), os.environ)
seconds = time.perf_counter() - started
status = Path("/proc/self/status")
if status.exists():  # Linux's ru_maxrss begins with the peak of the process that started this one
    (peak,) = [int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([seconds, peak]))
"""


def fetch(rounds: int) -> list[Figure]:
    """A fetch of 512 MiB beside `curl | xz -d`, in turns, and its peak memory beside that of 1 MiB."""
    install_commands(["curl", "xz"])
    python = environments.ensure("build")
    with tempfile.TemporaryDirectory(prefix="supermachine-kernel-bench-") as folder:
        base = Path(folder, "base")
        with _file_server(python, base) as url:
            small = _Published(base, "small", 1)
            large = _Published(base, "large", 512)
            plain, fetched, peaks = [], [], []
            for turn in range(rounds):
                log(f"round {turn + 1} of {rounds}")
                plain.append(_curl_and_xz(url, large, Path(folder, "plain")))
                seconds, peak = _fetch(python, url, large, Path(folder, "cache"))
                fetched.append(seconds)
                peaks.append(peak)
            cached, _ = _fetch(python, url, large, Path(folder, "cache"), empty=False)
            _, small_peak = _fetch(python, url, small, Path(folder, "cache"))
    ratios = [here / by_hand for here, by_hand in zip(fetched, plain)]
    growth = (max(peaks) - small_peak) / MIB
    return [
        Figure("fetch of 512 MiB", statistics.median(fetched), "s"),
        Figure("curl | xz -d of the same", statistics.median(plain), "s"),
        Figure.ratio("fetch / curl | xz -d", ratios, 1.25),
        Figure("fetch of 512 MiB that the cache has", cached, "s"),
        Figure("peak memory, 1 MiB", small_peak / MIB, "MiB"),
        Figure("peak memory, 512 MiB", max(peaks) / MIB, "MiB"),
        Figure.at_most("the difference", growth, "MiB", 32),
    ]


class _Published:
    """An asset of `size` MiB, which packs as a kernel does, below the base `base`."""

    def __init__(self, base: Path, name: str, size: int) -> None:
        self.name = name
        self.path = base / release_folder(VERSION) / f"aarch64-{name}.xz"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        log(f"packing {size} MiB")
        digest = hashlib.sha256()
        # The dictionary is that of a release; the rest of the preset only decides how long packing takes.
        command = ["xz", "-T1", "--check=crc64", "--lzma2=preset=0,dict=8MiB", "--stdout"]
        with self.path.open("wb") as file, subprocess.Popen(command, stdin=subprocess.PIPE, stdout=file) as xz:
            assert xz.stdin
            for piece in _kernel_like(size):
                digest.update(piece)
                xz.stdin.write(piece)
            xz.stdin.close()
        self.size, self.sha256 = size * MIB, digest.hexdigest()
        self.packed_sha256 = file_sha256(self.path)

    @property
    def numbers(self) -> list[str]:
        return [str(self.size), self.sha256, str(self.path.stat().st_size), self.packed_sha256]


def _kernel_like(size: int) -> Iterator[bytes]:
    """`size` pieces of 1 MiB of a real kernel, its bytes exchanged anew each time through, so that no part recurs."""
    content = (built_set() / "kernel").read_bytes()
    pieces = len(content) // MIB
    for index in range(size):
        through, start = index // pieces, index % pieces * MIB
        exchange = bytes((byte * (2 * through + 1) + through) % 256 for byte in range(256))
        yield content[start : start + MIB].translate(exchange)


def _fetch(python: Path, url: str, asset: _Published, cache: Path, *, empty: bool = True) -> tuple[float, int]:
    """Seconds and peak memory in bytes of `fetch` in a process of its own."""
    if empty:
        shutil.rmtree(cache, ignore_errors=True)
    inside = {**os.environ, "SUPERMACHINE_RELEASE_URL": url, "SUPERMACHINE_CACHE_DIR": str(cache)}
    command = [str(python), "-c", _FETCH, asset.name, *asset.numbers]
    done = subprocess.run(command, cwd=PROJECT, env=inside, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError("the fetch", "to succeed", done.stderr.strip())
    seconds, peak = json.loads(done.stdout)
    return seconds, peak


def _curl_and_xz(url: str, asset: _Published, out: Path) -> float:
    pipe = 'set -euo pipefail; curl --silent --fail "$1" | xz --decompress --threads=1 > "$2"'
    started = time.perf_counter()
    address = f"{url}/{release_folder(VERSION)}/{asset.path.name}"
    subprocess.run(["bash", "-c", pipe, "bash", address, str(out)], check=True)
    seconds = time.perf_counter() - started
    if out.stat().st_size != asset.size:
        raise BenchError(str(out), f"{asset.size} bytes", str(out.stat().st_size))
    out.unlink()
    return seconds


@contextlib.contextmanager
def _file_server(python: Path, base: Path) -> Iterator[str]:
    base.mkdir()
    command = [str(python), "-I", "-u", "-m", "http.server", "--bind", "127.0.0.1", "--directory", str(base), "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout
        try:
            port = server.stdout.readline().partition(" port ")[2].split()[0]
            url = f"http://127.0.0.1:{port}"
            urllib.request.urlopen(url, timeout=10).close()
            yield url
        finally:
            server.terminate()
