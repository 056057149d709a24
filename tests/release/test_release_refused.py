"""What scripts/release.py refuses before it has fetched or packed a file."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from scripts import release
from scripts.asset_build.release_layout import SUMS_NAME, release_folder
from supermachine_kernel._version import VERSION
from tests.support.faulty import serve


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run the command in this process."""
    monkeypatch.setattr(sys, "argv", ["release.py"])
    return Call(capsys)


class Call:
    """Each call gives the exit status, standard output and standard error."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str) -> tuple[object, str, str]:
        try:
            status: object = release.main([*arguments])
        except SystemExit as ended:
            status = ended.code
        captured = self._capsys.readouterr()
        return status, captured.out, captured.err

    def refused(self, base: str, lock: Path, *parts: str) -> str:
        """Lock the release at `base`: the one line that says why it is not done."""
        status, _, errors = self("lock", "--from", base, "--lock", str(lock))
        assert status == 1 and not lock.exists()
        (line,) = [line for line in errors.splitlines() if line.startswith("release.py: ")]
        for part in parts:
            assert part in errors
        return line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stage", "--dry-run", "--out", __file__], f"argument --out: {__file__}: expected a folder, found a file"),
        (["source", "--out", __file__], f"argument --out: {__file__}: expected a folder, found a file"),
        (["lock", "--from", ""], "argument --from: expected a URL or a folder, found nothing"),
    ],
)
def test_a_wrong_argument_is_a_usage_error(arguments: list[str], message: str, call: Call) -> None:
    status, output, errors = call(*arguments)
    assert (status, output) == (2, "")
    assert errors.splitlines()[-1].endswith(f": error: {message}")


def test_a_command_without_its_arguments_is_a_usage_error(call: Call) -> None:
    assert call()[0] == 2
    assert call("stage")[0] == 2
    assert "lock --from" in call("--help")[1]


@pytest.mark.parametrize(
    ("sums", "part"),
    [("<html>", "found '<html>'"), ("", "found no aarch64-kernel.xz"), ("x" * 70_000, "at most 65536 bytes")],
    ids=["page", "empty", "huge"],
)
def test_sums_that_are_none(call: Call, tmp_path: Path, sums: str, part: str) -> None:
    published = tmp_path / release_folder(VERSION)
    published.mkdir()
    (published / SUMS_NAME).write_text(sums)
    call.refused(str(tmp_path), tmp_path / "lock", str(published / SUMS_NAME), part)


def test_a_base_that_is_not_there(call: Call, tmp_path: Path) -> None:
    line = call.refused(str(tmp_path / "none"), tmp_path / "lock", "No such file")
    assert str(tmp_path / "none") in line


def test_a_url_without_the_release_is_told_of_the_option(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(lambda request, reply: reply.whole(b"", "404 Not Found")) as host:
        line = call.refused(host.url, tmp_path / "lock", "404 Not Found", "with --from")
        assert "SUPERMACHINE_RELEASE_URL" not in line and "tree" not in line
        monkeypatch.setenv("SUPERMACHINE_OFFLINE", "yes")
        call.refused(host.url, tmp_path / "lock", "SUPERMACHINE_OFFLINE keeps it from being asked")
    assert len(host.requests) == 1
