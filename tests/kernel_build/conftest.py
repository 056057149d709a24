"""What the tests of the build script share."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Callable

import pytest

from tests.support.kernel_build import KERNEL_BUILD, SMALL, copy_sources, digest, remove_patches, user_cache


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of kernel-build that a test may change."""
    return copy_sources(tmp_path / "checkout")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache of the test's own, which has the musl package already."""
    digest(KERNEL_BUILD, SMALL)
    shutil.copytree(user_cache() / "musl-arm64", tmp_path / "cache/musl-arm64")
    return tmp_path / "cache"


@pytest.fixture
def tiny_source(checkout: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A kernel source of one Makefile, and a checkout without patches; what configures the kernel is given."""
    remove_patches(checkout)

    def make(configuring: str) -> Path:
        source = tmp_path / "linux"
        source.mkdir()
        (source / "Makefile").write_text(
            "VERSION = 6\n\nmrproper:\nkernelversion:\n\t@echo 6.12.0\nallnoconfig:\n\t" + configuring + "\n"
        )
        (source / "greeting").write_text("one\ntwo\nthree\n")
        return source

    return make


@pytest.fixture
def commands_without(tmp_path: Path) -> Callable[..., Path]:
    """A folder of all commands but the named, to be the PATH."""

    def make(*names: str) -> Path:
        folder = tmp_path / "bin"
        folder.mkdir(mode=0o755)
        for directory in reversed(os.environ["PATH"].split(os.pathsep)):
            for tool in Path(directory).glob("*"):
                if tool.name not in names:
                    link = folder / tool.name
                    link.unlink(missing_ok=True)
                    link.symlink_to(tool)
        return folder

    return make
