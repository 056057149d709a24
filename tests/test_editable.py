"""An editable install: on any platform, with the tree's assets, or with word of what is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def environment_python(tmp_path: Path) -> Path:
    """An interpreter of its own to install into, with the build requirements of the test environment."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    return tmp_path / "venv" / "bin" / "python"


def install(checkout: Path, python: Path) -> None:
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--quiet", "-e", str(checkout)], check=True, env=clean(), capture_output=True)


def use(python: Path, program: str) -> subprocess.CompletedProcess[str]:
    command = [str(python), "-c", f"import supermachine_kernel as k; {program}"]
    return subprocess.run(command, cwd="/", env=clean(), capture_output=True, text=True, check=False)


def clean() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def test_with_a_tree(copy_of_checkout: Path, built_set: Path, environment_python: Path) -> None:
    shutil.copytree(built_set, copy_of_checkout / "kernel-build/out/aarch64")
    install(copy_of_checkout, environment_python)
    done = use(environment_python, "k.verify(); print(k.__version__, k.KERNEL_LEN, k.assets_dir())")
    assert done.returncode == 0, done.stderr
    version, size, folder = done.stdout.split()
    assert version.startswith("0.7.62+custom.")
    assert int(size) == (built_set / "kernel").stat().st_size
    assert Path(folder) == copy_of_checkout / "supermachine_kernel/assets"


def test_without_one(copy_of_checkout: Path, environment_python: Path, built_set: Path) -> None:
    install(copy_of_checkout, environment_python)
    assert use(environment_python, "print(k.__version__)").stdout == "0.7.62\n"
    done = use(environment_python, "k.KERNEL.path")
    assert "expected the assets of an installed wheel, found none" in done.stderr
    assert "build.sh" in done.stderr
    shutil.copytree(built_set, copy_of_checkout / "kernel-build/out/aarch64")
    install(copy_of_checkout, environment_python)
    assert use(environment_python, "k.verify()").returncode == 0


def test_a_wheel_built_after_it_has_its_own_manifest(
    copy_of_checkout: Path, built_set: Path, environment_python: Path, tmp_path: Path, wheel: Path
) -> None:
    """What the editable install staged into the checkout is no part of a later wheel."""
    shutil.copytree(built_set, copy_of_checkout / "kernel-build/out/aarch64")
    install(copy_of_checkout, environment_python)
    (copy_of_checkout / "supermachine_kernel/assets/stray").write_text("stray")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "out")]
    subprocess.run([*command, str(copy_of_checkout)], check=True, env=clean(), capture_output=True)
    assert (tmp_path / "out" / wheel.name).read_bytes() == wheel.read_bytes()
