"""A user's file with every public name, of every set, passes mypy --strict, and one with a mistake does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import supermachine_kernel

PROGRAM = """\
from pathlib import Path

import supermachine_kernel
from supermachine_kernel import (
    ASSETS,
    BUSYBOX,
    BUSYBOX_BYTES,
    BUSYBOX_LEN,
    INIT_OCI,
    INIT_OCI_BYTES,
    INIT_OCI_LEN,
    KERNEL,
    KERNEL_BYTES,
    KERNEL_LEN,
    MANIFEST,
    SMPARK_KO,
    SMPARK_KO_BYTES,
    SMPARK_KO_LEN,
    SUPERMACHINE_AGENT,
    SUPERMACHINE_AGENT_BYTES,
    SUPERMACHINE_AGENT_LEN,
    Asset,
    AssetAttributeError,
    AssetError,
    AssetInArchiveError,
    AssetMissingError,
    DestinationError,
    DestinationIsDirectoryError,
    DestinationMissingError,
    InspectionError,
    LockstepError,
    SupermachineKernelError,
    __version__,
    assets_dir,
    ensure_assets,
    extract_all_to,
    extract_busybox_to,
    extract_busybox_to_with_parents,
    extract_init_oci_to,
    extract_init_oci_to_with_parents,
    extract_kernel_to,
    extract_kernel_to_with_parents,
    extract_smpark_ko_to,
    extract_smpark_ko_to_with_parents,
    extract_supermachine_agent_to,
    extract_supermachine_agent_to_with_parents,
    extract_to,
    extract_to_with_parents,
    require_version,
    verify,
)

contents: list[bytes] = [KERNEL_BYTES, BUSYBOX_BYTES, INIT_OCI_BYTES, SUPERMACHINE_AGENT_BYTES, SMPARK_KO_BYTES]
sizes: list[int] = [KERNEL_LEN, BUSYBOX_LEN, INIT_OCI_LEN, SUPERMACHINE_AGENT_LEN, SMPARK_KO_LEN]
assets: tuple[Asset, ...] = (KERNEL, BUSYBOX, INIT_OCI, SUPERMACHINE_AGENT, SMPARK_KO, *ASSETS)
version: str = __version__
release: str = MANIFEST["kernel_release"]


def use(asset: Asset, folder: Path) -> None:
    name: str = asset.name
    path: Path = asset.path
    size: int = asset.size
    digest: str = asset.sha256
    mode: int = asset.mode
    content: bytes = asset.read_bytes()
    view: memoryview = asset.view()
    placed: Path = asset.extract_to(str(folder), parents=True)
    asset.verify()
    print(name, path, size, digest, mode, content, view, placed)


def functions(folder: Path) -> list[Path]:
    extract_kernel_to(folder)
    extract_kernel_to_with_parents(str(folder))
    extract_busybox_to(folder)
    extract_busybox_to_with_parents(folder)
    extract_init_oci_to(folder)
    extract_init_oci_to_with_parents(folder)
    extract_supermachine_agent_to(folder)
    extract_supermachine_agent_to_with_parents(folder)
    extract_smpark_ko_to(folder)
    extract_smpark_ko_to_with_parents(folder)
    extract_to(folder)
    extract_to_with_parents(folder)
    require_version("0.7.62")
    verify()
    return [assets_dir(), extract_all_to(folder), ensure_assets(), ensure_assets(str(folder))]


errors: list[type[SupermachineKernelError]] = [AssetError, DestinationError, InspectionError, LockstepError]
constant: list[type[AttributeError]] = [AssetAttributeError]
missing: list[type[FileNotFoundError]] = [AssetMissingError, DestinationMissingError]
other: tuple[type[AssetError], type[IsADirectoryError]] = (AssetInArchiveError, DestinationIsDirectoryError)
print(supermachine_kernel.KERNEL_LEN)
"""

MISTAKES = """\
import supermachine_kernel
supermachine_kernel.KERNEL_BYTE
supermachine_kernel.KERNEL.extract_to("kernel", True)
size: str = supermachine_kernel.KERNEL_LEN
supermachine_kernel.ensure_assets(1)
"""


def mypy(source: str, installed: Path, folder: Path) -> list[str]:
    """The errors; the module is found as an installed package is, through py.typed."""
    (folder / "user.py").write_text(source)
    cache = f"--cache-dir={folder / 'cache'}"
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--config-file=", cache, "user.py"]
    environment = {"PATH": "/usr/bin:/bin", "MYPYPATH": str(installed)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.slow
def test_every_public_name_is_typed(installed: Path, tmp_path: Path) -> None:
    assert (installed / "supermachine_kernel" / "py.typed").is_file()
    assert [name for name in supermachine_kernel.__all__ if name not in PROGRAM] == []
    assert mypy(PROGRAM, installed, tmp_path) == []


@pytest.mark.slow
def test_mypy_finds_each_mistake_in_the_use_of_the_module(installed: Path, tmp_path: Path) -> None:
    lines = [line.split(":")[1] for line in mypy(MISTAKES, installed, tmp_path) if ": error: " in line]
    assert sorted(set(lines)) == ["2", "3", "4", "5"]
