"""The same inputs give the same wheel and the same sdist, whatever the machine, the user and the tool."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uv

from scripts import test as test_script
from scripts.machine import environments
from supermachine_kernel._version import VERSION
from tests.support import checkout
from tests.support.sets import SET

RUNNING = f"{sys.version_info.major}.{sys.version_info.minor}"
KEPT = ("PATH", "PIP_", "UV_", "SSL_", "REQUESTS_", "HTTP", "http", "NO_PROXY", "no_proxy")
"""What a build may need of the caller's environment to reach the index; the rest is set by the table."""


@dataclass(frozen=True)
class Machine:
    """One way to build: what differs from machine to machine, and must not show in the result."""

    frontend: str
    python: str
    isolated: bool = False
    user: str = ""
    umask: int = 0o022
    zone: str = "UTC"
    locale: str = "C.UTF-8"
    hash_seed: str = "0"
    folder: str = "checkout"
    dates: int = 1_700_000_000  # of every file, in seconds since 1970
    modes: int = 0o644  # of every file
    epoch: str = ""  # SOURCE_DATE_EPOCH
    tree: bool = False  # the set lies in the checkout's kernel-build/out, not in an override's folder
    leftovers: bool = False  # of an earlier build: an egg-info, build/, byte code


# Every value of every column meets many of the others'; a full product would be thousands.
MACHINES = [
    Machine("build", "3.9"),
    Machine("build", "3.10", umask=0o077, zone="Asia/Kathmandu", hash_seed="1", folder="with a space", dates=0),
    Machine("build", "3.11", umask=0o002, locale="C", hash_seed="random", epoch="0", modes=0o755),
    Machine("build", "3.12", zone="America/St_Johns", dates=4_000_000_000, folder="ünïcödé", tree=True),
    Machine("build", "3.13", umask=0o000, locale="POSIX", epoch="1700000000", leftovers=True, modes=0o600),
    Machine("build", "3.11", user="nobody", umask=0o027, zone="Pacific/Apia", hash_seed="2", folder="nobody"),
    Machine("uv", "3.9", locale="POSIX", hash_seed="random", folder="x" * 120, dates=315_000_000, epoch="1"),
    Machine("uv", "3.12", umask=0o077, hash_seed="3", modes=0o755, leftovers=True, zone="Asia/Tokyo"),
    Machine("uv", "3.13", isolated=True, umask=0o002, locale="C", tree=True, dates=1),
    Machine("pip", "3.10", locale="C", umask=0o000, epoch="1700000000", tree=True, folder="a/b/c/d/e"),
    Machine("pip", "3.13", zone="America/Caracas", hash_seed="4", dates=0, modes=0o600),
    Machine("pip", "3.12", isolated=True, umask=0o077, leftovers=True, zone="Europe/Paris", hash_seed="random"),
    Machine("build", "3.9", isolated=True, modes=0o755, epoch="0", zone="Asia/Kolkata", folder="zz"),
]


@pytest.fixture
def ground() -> Iterator[Path]:
    """A folder that every user can enter, as pytest's own are not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.slow
def test_one_digest_of_each_kind(built_set: Path, project: Path, wheel: Path, ground: Path) -> None:
    assert len(MACHINES) >= 12
    pythons = {RUNNING: sys.executable, **test_script.other_pythons()}
    missing = {machine.python for machine in MACHINES} - pythons.keys()
    if missing:
        print(f"not on this machine, {RUNNING} in their place: Python {', '.join(sorted(missing))}")
    libraries = {version: environments.ensure("build", python) for version, python in pythons.items()}

    def build(number: int) -> None:
        machine, folder = MACHINES[number], ground / str(number)
        python = libraries.get(machine.python, libraries[RUNNING])
        for path in _build(machine, python, project, built_set, folder):
            digests.setdefault(path.name, {}).setdefault(_sha256(path), []).append(machine)

    digests: dict[str, dict[str, list[Machine]]] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(build, range(len(MACHINES))))
    for name, found in digests.items():
        for digest, machines in found.items():
            print(f"{digest}  {name}, {len(machines)} times")
        assert len(found) == 1, f"{name}: {found}"
    assert sorted(digests) == sorted([wheel.name, f"supermachine_kernel-{VERSION}.tar.gz"])
    assert list(digests[wheel.name]) == [_sha256(wheel)]
    assert sum(map(len, digests[wheel.name].values())) == len(MACHINES)


def _build(machine: Machine, python: Path, project: Path, built_set: Path, folder: Path) -> list[Path]:
    """The wheel and, where the frontend makes one, the sdist that `machine` builds from a copy of the checkout."""
    source, out = folder / machine.folder, folder / "out"
    source.mkdir(parents=True)
    out.mkdir()
    checkout.copy(project, source)
    assets = source / "kernel-build" / "out" / SET if machine.tree else folder / "set"
    shutil.copytree(built_set, assets)
    if machine.leftovers:
        _litter(source)
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(machine.modes)
            os.utime(path, (machine.dates, machine.dates))
    variables = {name: value for name, value in os.environ.items() if name.startswith(KEPT)}
    variables |= {
        "HOME": str(folder),
        "SUPERMACHINE_SET": SET,
        "TZ": machine.zone,
        "LC_ALL": machine.locale,
        "PYTHONHASHSEED": machine.hash_seed,
    }
    if not machine.tree:
        variables["SUPERMACHINE_ASSETS_DIR"] = str(assets)
    if machine.epoch:
        variables["SOURCE_DATE_EPOCH"] = machine.epoch
    identity: dict[str, Any] = {}
    if machine.user:
        identity = {"user": machine.user, "group": "nogroup", "extra_groups": []}
        python = _hand_over(identity, python, folder)
    for command in _commands(machine, str(python), str(source), str(out)):
        run = {"cwd": folder, "env": variables, "umask": machine.umask, **identity}
        done = subprocess.run(command, capture_output=True, text=True, check=False, **run)
        assert done.returncode == 0, f"{machine}: {done.stdout}{done.stderr}"
    return [path for path in out.iterdir() if path.suffix in (".whl", ".gz")]


def _commands(machine: Machine, python: str, source: str, out: str) -> list[list[str]]:
    if machine.frontend == "build":
        loose = [] if machine.isolated else ["--no-isolation"]
        return [[python, "-m", "build", "--sdist", "--wheel", *loose, "--outdir", out, source]]
    loose = [] if machine.isolated else ["--no-build-isolation"]
    if machine.frontend == "pip":
        return [[python, "-m", "pip", "wheel", "--no-deps", *loose, "--wheel-dir", out, source]]
    # Without a kind, uv would build the wheel from the sdist, which is refused where it cannot be installed.
    return [
        [uv.find_uv_bin(), "build", kind, "--python", python, *loose, "-o", out, source]
        for kind in ("--sdist", "--wheel")
    ]


def _hand_over(identity: dict[str, Any], python: Path, folder: Path) -> Path:
    """Give `folder` and the build's requirements to another user; the Python that this user can run."""
    if os.geteuid() != 0:
        pytest.fail(f"building as {identity['user']} takes root: run the tests as root, or in a container")
    subprocess.run(["chown", "-R", identity["user"], folder], check=True)
    (libraries,) = python.parents[1].glob("lib/python*/site-packages")
    for candidate in (sys.executable, shutil.which("python3", path="/usr/local/bin:/usr/bin:/bin")):
        with contextlib.suppress(PermissionError):
            if candidate:
                own = folder / "venv"
                subprocess.run([candidate, "-m", "venv", "--without-pip", own], check=True, **identity)
                shutil.copytree(libraries, next(own.glob("lib/python*/site-packages")), dirs_exist_ok=True)
                return own / "bin" / "python"
    pytest.fail(f"no Python that {identity['user']} can run: install one in /usr/bin (apt-get install python3)")


def _litter(source: Path) -> None:
    """What earlier builds, and other tools, leave in a checkout."""
    information = source / "supermachine_kernel.egg-info"
    information.mkdir()
    (information / "PKG-INFO").write_text("Metadata-Version: 2.4\nName: supermachine-kernel\nVersion: 0.0.1\n")
    (information / "SOURCES.txt").write_text("setup.py\ntests/conftest.py\n")
    for name in ("build/lib/supermachine_kernel/old.py", "supermachine_kernel/__pycache__/old.cpython-311.pyc"):
        (source / name).parent.mkdir(parents=True)
        (source / name).write_text("old\n")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
