"""What sparse finds in the sources of AF_TSI and virtio-vsock. On demand: all of the kernel is prepared for it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from scripts.asset_build.paths import PROJECT
from scripts.machine.packages import install_packages

pytestmark = [pytest.mark.slow, pytest.mark.ondemand]

SOURCE = Path("/usr/src/linux-source-6.12.tar.xz")
FOLDERS = ["net/tsi/", "net/vmw_vsock/"]
PREPARE = """\
. scripts/recipe.sh
unpack_source "$1" "$2"
apply_patches patches "$2"
"""
MAKE = ["make", "-s", "ARCH=arm64", "CROSS_COMPILE=aarch64-linux-gnu-", "LOCALVERSION=", "RUSTC=no", "PAHOLE=no"]
FAULT = "\nint of_user_space(int __user *there);\nint of_user_space(int __user *there) { return *there; }\n"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The patched source, configured, with these folders compiled once."""
    install_packages(["sparse"])
    tree = tmp_path_factory.mktemp("sparse") / "linux"
    build = PROJECT / "kernel-build"
    subprocess.run(["bash", "-euc", PREPARE, "bash", str(SOURCE), str(tree)], cwd=build, check=True)
    (tree / "wanted").write_text((build / "config" / "aarch64-debug.config").read_text())
    subprocess.run([*MAKE, "-C", str(tree), "KCONFIG_ALLCONFIG=wanted", "allnoconfig"], check=True)
    subprocess.run([*MAKE, "-C", str(tree), *FOLDERS], check=True)
    return tree


def found(tree: Path) -> list[str]:
    """The lines of sparse about these folders."""
    command = [*MAKE, "-C", str(tree), "C=2", "CHECK=sparse", *FOLDERS]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True)
    return [line for line in done.stdout.splitlines() if line.startswith("net/")]


def test_sparse_finds_nothing(tree: Path) -> None:
    assert found(tree) == []


@pytest.mark.parametrize("name", ["net/tsi/stream.c", "net/tsi/dgram.c", "net/vmw_vsock/virtio_transport.c"])
def test_sparse_finds_a_fault_that_is_put_in(tree: Path, name: str) -> None:
    """So it looks at these files."""
    source = tree / name
    whole = source.read_text()
    source.write_text(whole + FAULT)
    lines = found(tree)
    source.write_text(whole)
    assert any(line.startswith(f"{name}:") and "dereference of noderef expression" in line for line in lines), lines
