"""The installed module: each step beside what does the same by hand, in one process, and its memory."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from scripts.benchmarks.figure import MIB, BenchError, Figure
from scripts.machine import environments
from scripts.machine.build import checked_wheel
from scripts.machine.install import install

LARGE = 512 * MIB

_STEPS = """\
import sys, time

def seconds(action):
    started = time.perf_counter()
    action()
    return time.perf_counter() - started

def load():
    global kernel
    import supermachine_kernel as kernel

took = {"import": seconds(load)}
import hashlib, json, os, shutil
from pathlib import Path

def read_and_digest(folder):
    for asset in kernel.ASSETS:
        hashlib.sha256((folder / asset.name).read_bytes()).hexdigest()

def flush(path):
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)

def copy(folder):
    \"\"\"As extract_all_to: each file is flushed, then renamed.\"\"\"
    folder.mkdir()
    for asset in kernel.ASSETS:
        shutil.copyfile(asset.path, folder / "temporary")
        (folder / "temporary").chmod(asset.mode)
        flush(folder / "temporary")
        (folder / "temporary").rename(folder / asset.name)

def copy_and_prove(folder):
    \"\"\"As ensure_assets: the same with a digest, and the names are flushed too.\"\"\"
    folder.mkdir()
    for asset in kernel.ASSETS:
        content = asset.path.read_bytes()
        assert hashlib.sha256(content).hexdigest() == asset.sha256
        (folder / "temporary").write_bytes(content)
        (folder / "temporary").chmod(asset.mode)
        flush(folder / "temporary")
        (folder / "temporary").rename(folder / asset.name)
    flush(folder)
    flush(folder.parent)

out = Path(sys.argv[1])
copy(out / "warm")
copy_and_prove(out / "warm too")
kernel.extract_all_to(out / "warm")
kernel.ensure_assets(out / "warm")
took["view"] = seconds(kernel.KERNEL.view)
took["read"] = seconds(kernel.KERNEL.read_bytes)
took["copy"] = seconds(lambda: copy(out / "copied"))
took["extract"] = seconds(lambda: kernel.extract_all_to(out / "extracted"))
took["copy and prove"] = seconds(lambda: copy_and_prove(out / "proven"))
took["ensure"] = seconds(lambda: kernel.ensure_assets(out / "ensured"))
took["digest"] = seconds(lambda: read_and_digest(out / "ensured"))
took["ensure again"] = seconds(lambda: kernel.ensure_assets(out / "ensured"))
took["ensure content"] = seconds(lambda: kernel.ensure_assets(out / "ensured", check="content"))
took["verify"] = seconds(kernel.verify)
print(json.dumps(took))
"""

_CERTIFI = (
    "import json, time; started = time.perf_counter(); import certifi; print(json.dumps(time.perf_counter() - started))"
)

_MEMORY = """\
import json, os, re, sys
from pathlib import Path
import supermachine_kernel as kernel
from supermachine_kernel import _bundle, _ensure

def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text()).group(1))

Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
before = peak()
out = Path(sys.argv[2])
{
    "verify": kernel.verify,
    "extract": lambda: kernel.extract_all_to(out),
    "ensure": lambda: kernel.ensure_assets(out),
    "bundle": lambda: _bundle.bundle(out),
}[sys.argv[1]]()
print(json.dumps(peak() - before))
"""


def module(rounds: int) -> list[Figure]:
    """Import, view, extraction, first and later starts, and memory of the finished wheel, ten times a round."""
    python = environments.ensure("build")
    took: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="supermachine-kernel-bench-") as folder:
        report = checked_wheel(Path(folder), "aarch64")
        site = Path(folder, "site")
        install(python, Path(report["wheel"]), site)
        _steps(python, site, Path(folder, "unmeasured"))  # compiles the module's bytecode
        _run(python, site, Path(folder), _CERTIFI)
        for turn in range(10 * rounds):
            for name, seconds in _steps(python, site, Path(folder, f"out-{turn}")).items():
                took.setdefault(name, []).append(seconds)
            took.setdefault("certifi", []).append(_run(python, site, Path(folder), _CERTIFI))
        return [*_times(took), *_memory(python, site, Path(folder))]


def _times(took: dict[str, list[float]]) -> list[Figure]:
    steps = [
        ("import supermachine_kernel", "import", "certifi", 0.015),
        ("import certifi", "certifi", "", None),
        ("KERNEL.view()", "view", "read", None),
        ("KERNEL.read_bytes()", "read", "", None),
        ("extract_all_to() into a new folder", "extract", "copy", 1.05),
        ("copies, flushed and renamed by hand", "copy", "", None),
        ("ensure_assets(), the first time", "ensure", "copy and prove", 1.05),
        ("proven copies, flushed and renamed by hand", "copy and prove", "", None),
        ("ensure_assets(), once it has proven them", "ensure again", "digest", None),
        ('ensure_assets(check="content")', "ensure content", "digest", None),
        ("verify()", "verify", "digest", None),
        ("read_bytes and SHA-256 of the four", "digest", "", None),
    ]
    limits = {"import": 1.0, "ensure again": 0.3}
    median = {name: 1000 * statistics.median(values) for name, values in took.items()}
    figures = []
    for label, name, *_ in steps:
        limit = limits.get(name)
        figures.append(Figure.at_most(label, median[name], "ms", limit) if limit else Figure(label, median[name], "ms"))
    for _, name, beside, most in steps:
        if beside:
            ratios = [a / b for a, b in zip(took[name], took[beside])]
            figures.append(Figure.ratio(f"{name} / {beside}", ratios, most))
    return figures


def _memory(python: Path, site: Path, folder: Path) -> list[Figure]:
    """What each call holds beyond the interpreter, where the kernel has 512 MiB."""
    if not Path("/proc/self/clear_refs").exists():
        return []
    kernel, manifest = site / "supermachine_kernel/assets/kernel", site / "supermachine_kernel/_manifest.py"
    before, sha256 = kernel.stat().st_size, hashlib.sha256(kernel.read_bytes()).hexdigest()
    with kernel.open("r+b") as file:
        file.truncate(LARGE)
    digest = hashlib.sha256()
    with kernel.open("rb") as file:
        while chunk := file.read(MIB):
            digest.update(chunk)
    text = manifest.read_text(encoding="utf-8").replace(sha256, digest.hexdigest())
    manifest.write_text(re.sub(rf"'size': {before}\b", f"'size': {LARGE}", text), encoding="utf-8")
    figures = []
    for use in ("verify", "extract", "ensure", "bundle"):
        held = _run(python, site, folder, _MEMORY, use, str(folder / "large"))
        figures.append(Figure.at_most(f"memory of {use} with 512 MiB", held / MIB, "MiB", 4))
        shutil.rmtree(folder / "large", ignore_errors=True)
    return figures


def _steps(python: Path, site: Path, out: Path) -> dict[str, float]:
    """Seconds of each step, in a process of its own that has never imported the module."""
    out.mkdir()
    took: dict[str, float] = _run(python, site, out, _STEPS, str(out))
    shutil.rmtree(out)
    return took


def _run(python: Path, site: Path, folder: Path, program: str, *arguments: str) -> Any:
    """What a program prints, as JSON."""
    inside = {**os.environ, "PYTHONPATH": str(site)}
    inside.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [str(python), "-c", program, *arguments]
    done = subprocess.run(command, cwd=folder, env=inside, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError("the module", "to succeed", done.stderr.strip())
    return json.loads(done.stdout)
