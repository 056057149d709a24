"""scripts/cache_key.py: a change of the assets changes the key, and nothing else does."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.asset_build.guest_sets import GUEST_SETS
from supermachine_kernel._version import VERSION
from tests.support.release import lock_set, lock_sets


def run(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(checkout / "scripts" / "cache_key.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def key_of(checkout: Path, *options: str) -> tuple[str, str]:
    done = run(checkout, "--json", *options)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert len(answer["key"]) == 64
    return answer["source"], answer["key"]


def append(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(text)


def change_everything_beside(checkout: Path) -> None:
    """Edits everywhere but in what the assets are made from."""
    for name in ("README.md", "CHANGELOG.md", "kernel-build/README.md", "kernel-build/patches/README.md"):
        append(checkout / name, "\nA sentence more.\n")
    for name in ("supermachine_kernel/_write.py", "scripts/wheel.py", "tests/conftest.py", "tests/test_new.py"):
        append(checkout / name, "\n# a comment more\n")
    append(checkout / "kernel-build/scripts/build.sh", "\n# what is around the recipe is free to change\n")
    append(checkout / "kernel-build/out/aarch64/kernel", "an older build")


@pytest.mark.slow
def test_the_inputs_of_the_build(unlocked_checkout: Path) -> None:
    source, key = key_of(unlocked_checkout)
    assert source == "inputs"
    change_everything_beside(unlocked_checkout)
    assert key_of(unlocked_checkout) == ("inputs", key)
    assert run(unlocked_checkout).stdout == f"{key}\n"

    seen = {key}
    for name, text in {
        "config/common.config": "# CONFIG_ANOTHER is not set\n",
        "config/aarch64.config": "# CONFIG_ANOTHER is not set\n",
        "patches/9999-a-patch.patch": "a patch\n",
        "smpark/park.c": "/* more */\n",
        "init-oci/init-oci.c": "/* more */\n",
        "agent/more.h": "/* more */\n",
        "scripts/recipe.sh": "# more\n",
    }.items():
        append(unlocked_checkout / "kernel-build" / name, text)
        changed = key_of(unlocked_checkout)[1]
        assert changed not in seen, name
        seen.add(changed)


@pytest.mark.slow
def test_the_key_is_the_locked_set_digest(copy_of_checkout: Path, installed: Path, tmp_path: Path) -> None:
    assets = installed / "supermachine_kernel" / "assets"
    lock_set(copy_of_checkout, assets)
    first = key_of(copy_of_checkout)
    digest = json.loads((copy_of_checkout / "assets.lock.json").read_text())["sets"]["aarch64"]["set_digest"]
    assert first == ("lock", digest)
    change_everything_beside(copy_of_checkout)
    append(copy_of_checkout / "kernel-build/config/aarch64.config", "# a kernel of the next release\n")
    assert key_of(copy_of_checkout) == first

    other = tmp_path / "other"
    shutil.copytree(assets, other)
    append(other / "init-oci", "another build")
    lock_set(copy_of_checkout, other)
    source, key = key_of(copy_of_checkout)
    assert source == "lock"
    assert key != digest


@pytest.mark.slow
def test_the_key_of_all_sets_follows_each_of_them(
    copy_of_checkout: Path, built_set: Path, x86_64_set: Path, tmp_path: Path
) -> None:
    def key(*locked: Path) -> tuple[str, str]:
        lock_sets(copy_of_checkout, dict(zip(GUEST_SETS, locked)))
        return key_of(copy_of_checkout, "--set", "all")

    other = shutil.copytree(x86_64_set, tmp_path / "other")
    append(other / "busybox", "another build")
    both, changed, one = key(built_set, x86_64_set), key(built_set, other), key(built_set)
    assert [both[0], changed[0], one[0]] == ["lock", "lock", "inputs"], "one of two sets is locked"
    assert len({both, changed, one}) == 3


@pytest.mark.slow
def test_the_lock_of_another_version_locks_nothing(unlocked_checkout: Path, installed: Path) -> None:
    before = key_of(unlocked_checkout)
    lock_set(unlocked_checkout, installed / "supermachine_kernel" / "assets")
    version = unlocked_checkout / "supermachine_kernel" / "_version.py"
    version.write_text(version.read_text().replace(VERSION, "99.0.0"))
    assert key_of(unlocked_checkout) == before


def test_a_broken_lock_is_said_in_one_line(copy_of_checkout: Path) -> None:
    (copy_of_checkout / "assets.lock.json").write_text('{"format": 1')
    done = run(copy_of_checkout)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"cache_key.py: {copy_of_checkout / 'assets.lock.json'}: expected a lock of format 1")
    assert done.stderr.count("\n") == 1


def test_a_tree_that_is_not_whole(unlocked_checkout: Path) -> None:
    for source in (unlocked_checkout / "kernel-build/smpark").glob("*.c"):
        source.unlink()
    done = run(unlocked_checkout)
    assert (done.returncode, done.stdout) == (1, "")
    assert "kernel-build/scripts/build.sh --print-digest: expected a digest, found build.sh: " in done.stderr
    assert "kernel-build/smpark: expected source (of a kind that guest_sources" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("argument", "status"), [("--help", 0), ("--wrong", 2)])
def test_the_exit_status_of_a_wrong_argument_is_2(project: Path, argument: str, status: int) -> None:
    assert run(project, argument).returncode == status


def test_a_machine_without_bash_is_told_so_in_one_line(unlocked_checkout: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(unlocked_checkout / "scripts" / "cache_key.py")]
    done = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert "needs bash on the PATH" in done.stderr
