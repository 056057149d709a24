"""Whole builds from a release that is not there or not right, and releases that lie in a folder."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from scripts.asset_build.lock import LOCK_NAME
from scripts.asset_build.release_layout import release_folder
from scripts.machine import environments
from supermachine_kernel._version import VERSION
from tests.support.faults_page import injects
from tests.support.faulty import Answer, Reply, Request, serve
from tests.support.small_release import (
    HALF,
    NAME,
    PACKED,
    PACKED_FOUR,
    assert_clear,
    assert_refused,
    assert_right_bytes,
    write_lock,
)

# --- whole builds ---


def failing_build(checkout: Path, out: Path, environ: dict[str, str]) -> str:
    """What `pip wheel` prints of a build that fails and leaves no wheel."""
    write_lock(checkout / LOCK_NAME)
    pip = [str(environments.ensure("build")), "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    inside = {**os.environ, **environ, "SUPERMACHINE_KERNEL_BUILD": ""}
    done = subprocess.run(
        [*pip, "--wheel-dir", str(out), str(checkout)], env=inside, capture_output=True, text=True, check=False
    )
    assert done.returncode
    assert not list(out.glob("*.whl"))
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout + done.stderr


def not_found(request: Request, reply: Reply) -> None:
    reply.whole(b"no\n", "404 Not Found")


def zeros(request: Request, reply: Reply) -> None:
    """The right size, and nothing else."""
    reply.whole(bytes(len(PACKED_FOUR[request.path.rpartition("/")[2]])))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "part"),
    [(not_found, "found 404 Not Found"), (zeros, "expected SHA-256")],
    ids=["404", "wrong bytes"],
)
def test_a_build_without_its_files_says_why_and_makes_no_wheel(
    answer: Answer, part: str, copy_of_checkout: Path, environ: dict[str, str], tmp_path: Path
) -> None:
    with serve(answer) as host:
        environ["SUPERMACHINE_RELEASE_URL"] = host.url
        output = failing_build(copy_of_checkout, tmp_path / "out", environ)
    (line,) = {line.partition("error: ")[2] for line in output.splitlines() if "error: http" in line}
    assert_clear(line, part, host.url)


@pytest.mark.slow
@injects("offline")
def test_an_offline_build_lists_the_sources_it_tried_in_order(
    copy_of_checkout: Path, environ: dict[str, str], tmp_path: Path
) -> None:
    environ["SUPERMACHINE_OFFLINE"] = "1"
    output = failing_build(copy_of_checkout, tmp_path / "out", environ)
    message = output[output.index("error: no asset set") :]
    steps = ["1. override: ", "2. tree: ", "3. release: "]
    assert [message.count(step) for step in steps] == [1, 1, 1]
    assert [message.index(step) for step in steps] == sorted(message.index(step) for step in steps)
    for cure in ("SUPERMACHINE_ASSETS_DIR", "build.sh", "SUPERMACHINE_RELEASE_URL", "SUPERMACHINE_CACHE_DIR"):
        assert cure in message


def test_offline_asks_no_host(environ: dict[str, str]) -> None:
    with serve(lambda request, reply: reply.whole(PACKED)) as host:
        environ.update(SUPERMACHINE_RELEASE_URL=host.url, SUPERMACHINE_OFFLINE="TRUE")
        assert_refused(environ, "no sound file", host.url)
    assert host.requests == []


# --- folders ---


@pytest.mark.parametrize("form", ["{}", "file://{}", "file://localhost{}"])
def test_a_folder_is_read_offline(release: Path, environ: dict[str, str], form: str) -> None:
    assert_right_bytes({**environ, "SUPERMACHINE_RELEASE_URL": form.format(release), "SUPERMACHINE_OFFLINE": "1"})


@injects("bad folder")
@pytest.mark.parametrize(
    ("content", "part"), [(None, "No such file"), (PACKED[:HALF], f"expected {len(PACKED)} bytes, found {HALF}")]
)
def test_a_folder_without_the_right_file_is_named(
    content: bytes | None, part: str, release: Path, environ: dict[str, str]
) -> None:
    path = release / release_folder(VERSION) / NAME
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert_refused({**environ, "SUPERMACHINE_RELEASE_URL": release.as_uri()}, part, str(path))
