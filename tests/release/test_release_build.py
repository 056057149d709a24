"""What users build from a release, and what they see while it is fetched."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts.asset_build.errors import BuildError
from scripts.asset_build.lock import LOCK_NAME
from scripts.asset_build.wheel.sources import Source
from scripts.asset_build.wheel.verify import verify_set
from supermachine_kernel._version import VERSION
from tests.support import nginx
from tests.support.sets import GUEST_SET, PLATFORM_TAG
from tests.support.staged import PACKED, Staged, good, run

pytestmark = pytest.mark.slow


def build(checkout: Path, out: Path, **environ: str) -> Any:
    """The report of scripts/wheel.py, in a checkout without tree or override but for what `environ` says."""
    return good(run(checkout, "wheel.py", "--json", "--out", str(out), **{"SUPERMACHINE_KERNEL_BUILD": "", **environ}))


def test_the_same_wheel_from_the_release_the_tree_and_a_folder(
    staged: Staged, copy_of_checkout: Path, built_set: Path, tmp_path: Path
) -> None:
    """Acceptance: from any static server, again with the server gone; and the clean version, whatever the source."""
    shutil.copy(staged.lock, copy_of_checkout / LOCK_NAME)
    cache = {"SUPERMACHINE_CACHE_DIR": str(tmp_path / "cache")}
    with nginx.serve(staged.base, tmp_path / "nginx") as port:
        url = f"http://127.0.0.1:{port}"
        reports = {"release": build(copy_of_checkout, tmp_path / "1", SUPERMACHINE_RELEASE_URL=url, **cache)}
    reports["cache"] = build(copy_of_checkout, tmp_path / "2", SUPERMACHINE_RELEASE_URL=url, **cache)
    tree = str(built_set.parent.parent)
    reports["tree"] = build(copy_of_checkout, tmp_path / "3", SUPERMACHINE_KERNEL_BUILD=tree)
    flat = tmp_path / "flat"  # without the build's own record: the lock has it
    shutil.copytree(built_set, flat, ignore=shutil.ignore_patterns("build-info.json"))
    reports["folder"] = build(copy_of_checkout, tmp_path / "4", SUPERMACHINE_ASSETS_DIR=str(flat))
    assert len({report["sha256"] for report in reports.values()}) == 1, reports
    for report in reports.values():
        assert (report["version"], report["origin"]) == (VERSION, "release")
        assert Path(report["wheel"]).name == f"supermachine_kernel-{VERSION}-py3-none-{PLATFORM_TAG}.whl"


def test_other_files_are_a_custom_build(
    staged: Staged, copy_of_checkout: Path, built_set: Path, tmp_path: Path
) -> None:
    shutil.copy(staged.lock, copy_of_checkout / LOCK_NAME)
    agent = tmp_path / "supermachine-agent"
    agent.write_bytes((built_set / "supermachine-agent").read_bytes() + b"\0")
    environ = {"SUPERMACHINE_RELEASE_URL": str(staged.base), "SUPERMACHINE_CACHE_DIR": str(tmp_path / "cache")}
    report = build(copy_of_checkout, tmp_path / "out", SUPERMACHINE_AGENT_PATH=str(agent), **environ)
    assert report["version"] == f"{VERSION}+custom.{report['set_digest'][:8]}"
    assert report["origin"] == "custom"
    assert report["assets"]["kernel"]["sha256"] == staged.locked.assets["kernel"].unpacked.sha256


def test_release_files_that_change_on_the_way_stop_the_build(staged: Staged, built_set: Path, tmp_path: Path) -> None:
    """Between the proof in the cache and the reading of it: no +custom wheel comes of a release."""
    files = {name: tmp_path / name for name in PACKED}
    for name, path in files.items():
        path.write_bytes((built_set / name).read_bytes())
    assert verify_set(Source(GUEST_SET, "release", files), staged.locked).digest == staged.locked.digest
    files["kernel"].write_bytes(files["kernel"].read_bytes()[:-1])
    with pytest.raises(BuildError, match="found others: they were changed since; build again"):
        verify_set(Source(GUEST_SET, "release", files), staged.locked)


def test_a_terminal_gets_a_bar(staged: Staged, project: Path, tmp_path: Path) -> None:
    """Elsewhere there are plain lines: what the fault tests read."""
    environ = {"SUPERMACHINE_RELEASE_URL": str(staged.base), "SUPERMACHINE_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "tests.support.fetch_process", str(staged.lock)]
    ours, theirs = pty.openpty()
    running = subprocess.Popen(
        command, cwd=project, env={**os.environ, **environ}, stdout=subprocess.PIPE, stderr=theirs
    )
    os.close(theirs)
    shown = b""
    try:
        while data := os.read(ours, 65536):
            shown += data
    except OSError:  # the terminal's other end is closed
        pass
    finally:
        os.close(ours)
    output, _ = running.communicate(timeout=60)
    assert running.returncode == 0, shown
    assert sorted(json.loads(output)) == sorted(PACKED)
    assert b"100%" in shown
    assert f"fetched {PACKED['kernel']}".encode() in shown
