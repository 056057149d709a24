"""What the build script says of wrong arguments, and of a machine that cannot build."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Callable

import pytest

from scripts.asset_build.guest_sets import GUEST_SETS
from tests.support import disk
from tests.support.kernel_build import (
    build,
    copy_sources,
)


def test_help_names_every_option() -> None:
    result = build("--help")
    assert result.returncode == 0
    assert result.stdout.startswith("Usage: bash kernel-build/scripts/build.sh")
    for option in ("--set", "--jobs", "--out", "--source", "--busybox", "--check", "--print-digest"):
        assert option in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--job"], "unknown option: --job"),
        (["out"], "unknown option: out"),
        (["--jobs"], "--jobs needs a value"),
        (["--out="], "--out needs a value"),
        (["--jobs", "0"], "--jobs needs a number from 1, not: 0"),
        (["--jobs=many"], "--jobs needs a number from 1, not: many"),
        (["--set", "mips"], f"--set mips: expected one of {' '.join(GUEST_SETS)}, or all"),
        (["--set=all", "--out=sets"], "--out takes one set, not all"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(arguments: list[str], message: str) -> None:
    result = build(*arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == f"build.sh: {message}; --help lists the options\n"


def test_source_that_is_not_there(tmp_path: Path) -> None:
    result = build("--source", tmp_path / "linux.tar.xz")
    assert result.returncode == 1
    assert result.stderr == f"build.sh: --source {tmp_path}/linux.tar.xz: there is no such file or folder\n"


def test_source_that_is_another_folder(tmp_path: Path) -> None:
    result = build("--source", tmp_path)
    assert result.returncode == 1
    assert result.stderr == f"build.sh: --source {tmp_path}: expected kernel source, found no Makefile there\n"


def test_out_that_cannot_be_written(tmp_path: Path) -> None:
    """Said before anything is built."""
    for out in (Path("/proc/version/out"), Path("/proc/new/out")):
        result = build("--out", out)
        assert result.returncode == 1
        assert result.stderr == (
            f"build.sh: --out {out}: {out.parent} is not a folder that may be written to: name another with --out\n"
        )


def test_folder_with_other_files_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "kernel").touch()
    (tmp_path / "thesis.tex").touch()
    result = build("--out", tmp_path)
    assert result.returncode == 1
    assert "thesis.tex is no part of the set aarch64: name another folder with --out, or remove that" in result.stderr
    assert sorted(file.name for file in tmp_path.iterdir()) == ["kernel", "thesis.tex"]


def test_out_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    result = build("--out", tmp_path / "out")
    assert result.returncode == 1
    assert result.stderr == f"build.sh: --out {tmp_path}/out: expected a folder, found a file\n"
    assert (tmp_path / "out").read_text() == "mine"


# --- the machine ---


@pytest.mark.slow
def test_a_linux_without_apt_is_refused(commands_without: Callable[..., Path]) -> None:
    result = build(path=commands_without("apt-get"))
    assert result.returncode == 1
    assert "Debian or Ubuntu only" in result.stderr
    assert "from the release" in result.stderr and "docker run" in result.stderr


@pytest.mark.slow
def test_another_system_than_linux_is_refused(commands_without: Callable[..., Path]) -> None:
    path = commands_without("uname")
    (path / "uname").write_text("#!/bin/sh\necho Darwin\n")
    (path / "uname").chmod(0o755)
    result = build(path=path)
    assert result.returncode == 1
    assert "Debian or Ubuntu only" in result.stderr


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = build(cache=tmp_path / "file" / "cache")
    assert result.returncode == 1
    cure = "expected a folder to write to; set SUPERMACHINE_BUILD_CACHE to one"
    assert result.stderr == f"build.sh: {tmp_path}/file/cache: {cure}\n"


def test_missing_packages_without_root() -> None:
    disk.need_root("only root becomes another user")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        tree = copy_sources(Path(folder))
        tools = Path(folder, "bin")
        tools.mkdir()
        present = (
            "apt-get bc bison cat dirname dpkg dpkg-deb env gcc head make mkdir nproc patch python3 realpath uname xz"
        )
        for name in present.split():
            # The tests' own python3 may lie in root's home.
            (tools / name).symlink_to(shutil.which(name, path="/usr/bin:/bin") or "/nowhere")
        refused = build(tree=tree, cache=Path(folder, "cache"), path=tools, user=65534)
        Path(folder, "sets").mkdir()
        Path(folder, "sets").chmod(0o777)
        own = Path(folder, "sets/own")
        result = build("--out", own, tree=tree, cache=Path(folder, "cache"), path=tools, user=65534)
    assert refused.returncode == 1
    assert f"{tree}/out is not a folder that may be written to: name another with --out\n" in refused.stderr
    assert result.returncode == 1
    assert re.search(
        "packages are missing, and installing them takes root. "
        "Run: sudo apt-get install --yes --no-install-recommends flex gcc-aarch64-linux-gnu( |\n)",
        result.stderr,
    )
