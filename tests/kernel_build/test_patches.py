"""The kernel's patches are a series that any kernel developer's tools take."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from scripts.asset_build.paths import PROJECT

PATCHES = sorted((PROJECT / "kernel-build/patches").glob("*.patch"))
SOURCE = Path("/usr/src/linux-source-6.12.tar.xz")
IDENTITY = "supermachine-kernel developers <supercorp-ai@users.noreply.github.com>"
CHECKPATCH = ["checkpatch.pl", "spelling.txt", "const_structs.checkpatch"]

each_patch = pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.name[:4])


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of the kernel's files that the series changes, and its checkpatch."""
    if not SOURCE.exists():
        pytest.fail(f"{SOURCE}: not there; run bash kernel-build/scripts/build.sh, which installs it")
    top = SOURCE.name.partition(".tar")[0]
    changed = {name for patch in PATCHES for name in re.findall(r"^--- a/(\S+)$", patch.read_text(), re.MULTILINE)}
    wanted = sorted({*changed, *(f"scripts/{name}" for name in CHECKPATCH)})
    folder = tmp_path_factory.mktemp("kernel")
    names = [f"{top}/{name}" for name in wanted]
    subprocess.run(["tar", "-C", str(folder), "-xf", str(SOURCE), *names], check=True)
    git(folder / top, "init", "--quiet")
    git(folder / top, "add", "--force", ".")
    git(folder / top, "commit", "--quiet", "--message", "the source")
    return folder / top


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false"]
    command = ["git", *who, "-c", "core.hooksPath=/dev/null", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_names_are_the_order_of_the_series() -> None:
    assert [patch.name[:5] for patch in PATCHES] == [f"{n:04}-" for n in range(1, len(PATCHES) + 1)]
    assert PATCHES


@each_patch
def test_a_patch_says_why_and_is_signed_off(patch: Path) -> None:
    head, _, diff = patch.read_text().partition("\n---\n")
    assert f"From: {IDENTITY}\n" in head
    assert head.endswith(f"\nSigned-off-by: {IDENTITY}")
    body = head.partition("\n\n")[2].rpartition("\n\nSigned-off-by")[0]
    assert len(body.split()) >= 20, "a message that says why"
    assert diff


@each_patch
def test_what_a_patch_adds_is_of_the_kernels_licence(patch: Path) -> None:
    for added in re.findall(r"^--- /dev/null\n\+\+\+ b/\S+\n@@ .*\n(?:\+.*\n)+", patch.read_text(), re.MULTILINE):
        lines = [line[1:] for line in added.splitlines()[3:]]
        assert re.search(r"SPDX-License-Identifier: GPL-2\.0-only( \*/)?$", lines[0]), added[:200]


@pytest.mark.slow
def test_the_series_applies_in_order_as_mail(tree: Path) -> None:
    git(tree, "am", "--quiet", *map(str, PATCHES))
    subjects = git(tree, "log", "--format=%s", "--reverse").splitlines()[1:]
    assert len(subjects) == len(PATCHES)
    assert "CONFIG_TSI" in (tree / "net/socket.c").read_text()


@pytest.mark.slow
@each_patch
def test_checkpatch_says_nothing(patch: Path, tree: Path) -> None:
    perl = shutil.which("perl")
    assert perl, "perl: not there; it is in every Debian"
    command = [perl, "scripts/checkpatch.pl", "--no-tree", "--strict", str(patch)]
    done = subprocess.run(command, cwd=tree, stdout=subprocess.PIPE, text=True)
    assert re.search(r"^total: 0 errors, 0 warnings, 0 checks, \d+ lines checked$", done.stdout, re.M), done.stdout
