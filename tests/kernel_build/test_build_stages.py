"""A build that stops at a stage, or is stopped."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest

from tests.support.kernel_build import (
    SMALL,
    build,
    command,
    environment,
)
from tests.support.native_agent import wait_until


def patch_of(old: str, new: str) -> str:
    return f"--- a/greeting\n+++ b/greeting\n@@ -1,3 +1,3 @@\n one\n-{old}\n+{new}\n three\n"


def test_patch_that_does_not_apply(
    checkout: Path, cache: Path, tiny_source: Callable[[str], Path], tmp_path: Path
) -> None:
    patches = checkout / "patches"
    (patches / "0001-applies.patch").write_text(patch_of("two", "2"))
    (patches / "0002-does-not.patch").write_text(patch_of("two", "zwei"))
    source = tiny_source("@true")
    result = build("--source", source, "--out", tmp_path / "out", tree=checkout, cache=cache)
    assert result.returncode == 1
    assert f"{patches}/0002-does-not.patch does not apply to Linux 6.12.0\n" in result.stderr
    assert "0001-applies.patch does not" not in result.stderr
    log = re.search(r"stage failed: applying patches. The whole log: (.*)\n", result.stderr)
    assert log and "patching file greeting" in Path(log[1]).read_text()
    assert not (tmp_path / "out").exists()
    assert (source / "greeting").read_text() == "one\ntwo\nthree\n"
    assert list(cache.glob("work.*")) == []


@pytest.mark.slow
def test_option_that_does_not_survive(
    checkout: Path, cache: Path, tiny_source: Callable[[str], Path], tmp_path: Path
) -> None:
    (checkout / "config/common.config").write_text("CONFIG_SMP=y\n# CONFIG_PCI is not set\n")
    (checkout / "config/aarch64.config").write_text("CONFIG_TSI=y\n")
    source = tiny_source("printf 'CONFIG_SMP=y\\nCONFIG_PCI=y\\n' > .config")
    result = build("--source", source, "--out", tmp_path / "out", tree=checkout, cache=cache)
    assert result.returncode == 1
    assert "Kconfig did not keep this line: CONFIG_TSI=y\n" in result.stderr
    assert "Kconfig did not keep this line: # CONFIG_PCI is not set\n" in result.stderr
    assert "CONFIG_SMP" not in result.stderr
    assert "stage failed: configuring." in result.stderr


def test_folder_without_the_source_of_busybox(tmp_path: Path) -> None:
    result = build("--set", "x86_64", "--source", SMALL, "--busybox", tmp_path, "--print-digest")
    assert result.returncode == 1
    expected = "expected a source package of busybox, found no busybox_VERSION.dsc"
    assert result.stderr == f"build.sh: --busybox {tmp_path}: {expected}\n"


def test_asset_that_has_no_source(checkout: Path) -> None:
    table = checkout / "guest-sets.json"
    table.write_text(table.read_text().replace('"busybox"', '"toybox"'))
    result = build("--set", "x86_64", "--source", SMALL, "--print-digest", tree=checkout)
    assert result.returncode == 1
    assert result.stderr == f"build.sh: {table}: toybox: there is no source of such an asset\n"


@pytest.mark.slow
def test_tarball_without_a_kernel(checkout: Path, cache: Path, tmp_path: Path) -> None:
    tarball = Path(shutil.make_archive(str(tmp_path / "photos"), "gztar", checkout, "config"))
    result = build("--source", tarball, "--out", tmp_path / "out", tree=checkout, cache=cache)
    assert result.returncode == 1
    assert f"{tarball} holds no kernel source: no Makefile with a VERSION\n" in result.stderr


@pytest.fixture
def hanging_build(
    checkout: Path, cache: Path, tiny_source: Callable[[str], Path], tmp_path: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A build that has come as far as configuring the kernel, and stays there."""
    mark = tmp_path / "configuring"
    source = tiny_source(f"touch {mark}; sleep 321")
    process = subprocess.Popen(
        command(checkout, ["--source", source, "--out", tmp_path / "out"]),
        env=environment(cache),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(mark.exists, 30)
        yield process
    finally:
        process.kill()
        process.wait()


def processes_of(cache: Path) -> list[int]:
    """The processes that have a file or their working folder in the cache."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            targets = [os.readlink(process / "cwd"), *(os.readlink(file) for file in (process / "fd").iterdir())]
        except OSError:
            continue
        if any(target.startswith(f"{cache}/") for target in targets):
            found.append(int(process.name))
    return found


@pytest.mark.slow
def test_terminated_build_leaves_nothing(hanging_build: subprocess.Popen[bytes], cache: Path, tmp_path: Path) -> None:
    hanging_build.terminate()
    assert hanging_build.wait(timeout=60) == 128 + signal.SIGTERM
    assert list(cache.glob("work.*")) == []
    assert not (tmp_path / "out").exists()
    wait_until(lambda: processes_of(cache) == [], 30)


@pytest.mark.slow
def test_next_build_removes_what_a_killed_one_left(
    hanging_build: subprocess.Popen[bytes], checkout: Path, cache: Path
) -> None:
    hanging_build.kill()
    hanging_build.wait()
    (left,) = cache.glob("work.*")
    build("--print-digest", tree=checkout, cache=cache)
    assert left.exists(), "its make still runs there"
    for process in processes_of(cache):
        os.kill(process, signal.SIGKILL)
    wait_until(lambda: processes_of(cache) == [], 30)
    build("--print-digest", tree=checkout, cache=cache)
    assert not left.exists()
