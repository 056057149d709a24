"""An editable install: on any platform, with the tree's assets, or with word of what is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from supermachine_kernel._version import VERSION


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """A place of its own to install into."""
    return tmp_path / "prefix"


def install(checkout: Path, prefix: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*command, "--prefix", prefix, "-e", checkout], env=clean(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def use(prefix: Path, program: str) -> subprocess.CompletedProcess[str]:
    """Run `program` with the installation's site-packages, whose .pth file leads to the checkout."""
    (site,) = prefix.glob("lib/python*/site-packages")
    found = f"import site; site.addsitedir({str(site)!r}); import supermachine_kernel as k; {program}"
    return subprocess.run([sys.executable, "-c", found], cwd="/", env=clean(), capture_output=True, text=True)


def clean() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def test_with_a_tree(copy_of_checkout: Path, built_set: Path, prefix: Path) -> None:
    shutil.copytree(built_set, copy_of_checkout / "kernel-build/out/aarch64")
    install(copy_of_checkout, prefix)
    done = use(prefix, "k.verify(); print(k.__version__, k.KERNEL_LEN, k.assets_dir())")
    assert done.returncode == 0, done.stderr
    version, size, folder = done.stdout.split()
    assert version.partition("+")[0] == VERSION
    assert int(size) == (built_set / "kernel").stat().st_size
    assert Path(folder) == copy_of_checkout / "supermachine_kernel/assets"


def test_without_one(copy_of_checkout: Path, prefix: Path, built_set: Path) -> None:
    install(copy_of_checkout, prefix)
    assert use(prefix, "print(k.__version__)").stdout == f"{VERSION}\n"
    done = use(prefix, "k.KERNEL.path")
    assert "expected the assets of an installed wheel, found none" in done.stderr
    assert "build.sh" in done.stderr
    shutil.copytree(built_set, copy_of_checkout / "kernel-build/out/aarch64")
    install(copy_of_checkout, prefix)
    assert use(prefix, "k.verify()").returncode == 0


def test_a_wheel_built_after_it_has_its_own_manifest(
    copy_of_checkout: Path, built_set: Path, prefix: Path, tmp_path: Path, wheel: Path
) -> None:
    """What the editable install staged into the checkout is no part of a later wheel."""
    shutil.copytree(built_set, copy_of_checkout / "kernel-build/out/aarch64")
    install(copy_of_checkout, prefix)
    (copy_of_checkout / "supermachine_kernel/assets/stray").write_text("stray")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "out")]
    subprocess.run([*command, str(copy_of_checkout)], check=True, env=clean(), capture_output=True)
    assert (tmp_path / "out" / wheel.name).read_bytes() == wheel.read_bytes()
