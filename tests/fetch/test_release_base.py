"""The release base that SUPERMACHINE_RELEASE_URL names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast

import pytest

from scripts.asset_build.errors import BuildError
from scripts.asset_build.fetch.locked_files import Base, is_offline, parse_base
from scripts.asset_build.fetch.progress import Progress
from scripts.asset_build.fetch.transfer import PATIENCE, Sink
from scripts.asset_build.release_layout import BASE, release_folder
from supermachine_kernel._version import VERSION


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, BASE),
        ("", BASE),
        ("https://mirror.example/a/", "https://mirror.example/a"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("HTTP://Mirror.example/A", "http://Mirror.example/A"),
        (" https://mirror.example/a/\n", "https://mirror.example/a"),
        ("https://mirror.example/a?#", "https://mirror.example/a"),
        ("file:///a%20b", Path("/a b")),
        ("file://localhost/a", Path("/a")),
        ("file:/a", Path("/a")),
        ("/a/b", Path("/a/b")),
        ("a/b", Path.cwd() / "a" / "b"),
        ("/a ", Path("/a ")),
        ("a:b", Path.cwd() / "a:b"),
    ],
)
def test_a_base(text: str | None, expected: str | Path) -> None:
    assert parse_base(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "ftp://mirror.example",
        "https:mirror.example",
        "https://",
        "https://mirror.example:port",
        "https://mirror.example/?a=b",
        "https://[::1",
        "file://elsewhere/a",
        "file://",
    ],
)
def test_a_base_that_is_none(text: str) -> None:
    with pytest.raises(BuildError, match="SUPERMACHINE_RELEASE_URL") as error:
        parse_base(text)
    assert text in str(error.value)
    assert "expected an https" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text", ["htp://user:hunter2@host/a", "http://user:hunter2@host:99999/a", "http://u:hunter2@h/x?y"]
)
def test_credentials_of_a_base_that_is_none_are_not_shown(text: str) -> None:
    with pytest.raises(BuildError) as refused:
        parse_base(text, "--from")
    assert "hunter2" not in str(refused.value)
    assert str(refused.value).startswith("--from=")


def test_a_pipe_in_a_folder_release_does_not_hang(tmp_path: Path) -> None:
    """A lone pipe would be waited for without end."""
    folder = tmp_path / release_folder(VERSION)
    folder.mkdir()
    os.mkfifo(folder / "aarch64-kernel.xz")
    with Progress(1) as progress, pytest.raises(BuildError, match="no regular file"):
        Base(tmp_path, None, PATIENCE, progress).bring("aarch64-kernel.xz", cast(Sink, None), 1)


@pytest.mark.parametrize(
    ("value", "offline"),
    [
        *((value, True) for value in ("1", "true", "yes", "TRUE", "Yes")),
        *((value, False) for value in (None, "", "0", "false", "no", "False", "NO")),
    ],
)
def test_offline(value: str | None, offline: bool) -> None:
    assert is_offline({} if value is None else {"SUPERMACHINE_OFFLINE": value}) is offline


@pytest.mark.parametrize("value", ["2", "on", "y", " 1", "maybe\n"])
def test_a_value_of_offline_that_says_neither_is_refused(value: str) -> None:
    """It went online: who sets it means something."""
    with pytest.raises(BuildError, match=r"SUPERMACHINE_OFFLINE=.*expected 1, true or yes") as refused:
        is_offline({"SUPERMACHINE_OFFLINE": value})
    assert "\n" not in str(refused.value)


def test_a_base_that_is_not_encrypted_is_warned_of_in_any_case(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(1) as progress:
        Base(parse_base("HTTP://mirror.invalid"), None, PATIENCE, progress)
    assert "http://mirror.invalid is not encrypted" in capsys.readouterr().err
