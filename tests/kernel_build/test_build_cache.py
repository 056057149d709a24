"""The cache of build.sh: what lies in it becomes the set, so nobody else may be able to change it."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from pathlib import Path

import pytest

from scripts.machine.packages import install_commands
from tests.support import disk

SCRIPTS = Path(__file__).resolve().parents[2] / "kernel-build" / "scripts"
NOBODY = 65534


@pytest.fixture(autouse=True)
def as_root() -> None:
    disk.need_root("only root can give a file away")


def cache_folder(**variables: str) -> subprocess.CompletedProcess[str]:
    """What build.sh takes for its cache with these variables."""
    script = 'set -eu; say() { echo "$*" >&2; }; die() { say "$*"; exit 1; }; . "$0"; cache_folder'
    inside = {name: value for name, value in os.environ.items() if name not in ("SUPERMACHINE_BUILD_CACHE", "HOME")}
    inside.pop("XDG_CACHE_HOME", None)
    command = ["bash", "-c", script, str(SCRIPTS / "cache.sh")]
    return subprocess.run(command, env={**inside, **variables}, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("below", "owner", "mode", "reason"),
    [
        ("", NOBODY, 0o755, "belongs to user id 65534"),
        ("", 0, 0o777, "everybody can write to"),
        ("", 0, 0o1777, "everybody can write to"),
        ("", 0, 0o775, "the group with id 65534 can write to"),
        ("/a/b", NOBODY, 0o755, "belongs to user id 65534"),
        ("/a/b", 0, 0o777, "everybody can write to"),
        ("/a/b", 0, 0o775, "the group with id 65534 can write to"),
    ],
)
def test_a_cache_that_somebody_else_can_change_is_refused(
    below: str, owner: int, mode: int, reason: str, tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    os.chown(shared, owner, NOBODY)
    shared.chmod(mode)
    found = cache_folder(SUPERMACHINE_BUILD_CACHE=f"{shared}{below}")
    assert (found.returncode, found.stdout) == (1, "")
    assert reason in found.stderr
    assert found.stderr.endswith("; set SUPERMACHINE_BUILD_CACHE to a folder of your own\n")


def test_root_with_another_user_s_home_has_a_cache_of_its_own(tmp_path: Path) -> None:
    os.chown(tmp_path, NOBODY, NOBODY)
    found = cache_folder(HOME=str(tmp_path))
    own = f"{pwd.getpwuid(0).pw_dir}/.cache/supermachine-kernel/build"
    assert (found.returncode, found.stdout) == (0, f"{os.path.realpath(own)}\n")
    assert found.stderr.splitlines()[-1].endswith(f"belongs to user id {NOBODY}; {own} is used")


def test_without_a_home_it_is_that_of_the_user_database() -> None:
    own = f"{pwd.getpwuid(0).pw_dir}/.cache/supermachine-kernel/build"
    assert cache_folder().stdout == f"{os.path.realpath(own)}\n"


def test_a_cache_of_one_s_own_is_used_by_the_name_its_links_lead_to(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "link").symlink_to("cache")
    assert cache_folder(SUPERMACHINE_BUILD_CACHE=str(tmp_path / "link")).stdout == f"{tmp_path / 'cache'}\n"


def test_a_stranger_s_link_in_the_place_of_a_lock_leads_nowhere(tmp_path: Path) -> None:
    """The whole program as root: the file at the link's end was emptied."""
    cache, precious = tmp_path / "cache", tmp_path / "precious"
    precious.write_text("precious")
    (cache / "locks").mkdir(parents=True)
    (cache / "locks" / "musl").symlink_to(precious)
    os.chown(cache, NOBODY, NOBODY)
    command = ["bash", str(SCRIPTS / "build.sh"), "--print-digest"]
    inside = {**os.environ, "SUPERMACHINE_BUILD_CACHE": str(cache)}
    done = subprocess.run(command, env=inside, capture_output=True, text=True, check=False)
    assert (done.returncode, precious.read_text()) == (1, "precious"), done.stderr


def test_cdpath_leads_the_build_nowhere(tmp_path: Path) -> None:
    """A folder named in CDPATH had its own recipe.sh sourced, and every other value of it stopped the build."""
    shutil.copytree(SCRIPTS, tmp_path / "kernel-build" / "scripts")
    for name in ("recipe.sh", "cache.sh"):
        (tmp_path / "kernel-build" / "scripts" / name).write_text("echo theirs; exit 3\n")
    for cdpath in (str(tmp_path), "."):
        command = ["bash", "kernel-build/scripts/build.sh", "--help"]
        inside = {**os.environ, "CDPATH": cdpath}
        folder = SCRIPTS.parents[1]
        done = subprocess.run(command, cwd=folder, env=inside, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("Usage: ")


def test_ccache_runs_the_compiler_once_for_a_new_file_and_never_for_a_known_one(tmp_path: Path) -> None:
    """The kernel's makefiles ask for the list of headers by `-Wp,-MMD`."""
    install_commands(["ccache", "aarch64-linux-gnu-gcc"])
    (tmp_path / "work").mkdir()
    (tmp_path / "seven.c").write_text("int seven(void) { return 7; }\n")
    compiler = tmp_path / "counted-gcc"
    compiler.write_text(f'#!/bin/sh\necho run >> {tmp_path}/runs\nexec aarch64-linux-gnu-gcc "$@"\n')
    compiler.chmod(0o755)
    program = f"CACHE={tmp_path}/cache work={tmp_path}/work; . {SCRIPTS}/cache.sh; compiler_cache"
    folder = subprocess.run(["bash", "-euc", program], capture_output=True, text=True, check=True).stdout.strip()
    assert folder == f"{tmp_path}/cache/ccache"
    command = ["ccache", str(compiler), f"-Wp,-MMD,{tmp_path}/seven.d", "-c", "seven.c", "-o", "seven.o"]
    for _ in range(2):
        subprocess.run(command, cwd=tmp_path, env={**os.environ, "CCACHE_DIR": folder}, check=True)
        assert (tmp_path / "seven.o").exists()
        (tmp_path / "seven.o").unlink()
    assert (tmp_path / "runs").read_text() == "run\n"
