"""The release base that SUPERMACHINE_RELEASE_URL names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from scripts.asset_build.errors import BuildError
from scripts.asset_build.fetch.release_url import display_url, is_offline, parse_location
from scripts.asset_build.release_layout import BASE, release_folder
from supermachine_kernel._version import VERSION
from tests.support.small_release import NAME, assert_refused


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
def test_a_url_or_folder_is_taken(text: str | None, expected: str | Path) -> None:
    assert parse_location(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "ftp://mirror.example",
        "https:mirror.example",
        "https://",
        "https://mirror.example:port",
        "https://[::1",
        "file://elsewhere/a",
        "file://",
    ],
)
def test_what_is_neither_url_nor_folder_is_refused(text: str) -> None:
    with pytest.raises(BuildError, match="SUPERMACHINE_RELEASE_URL") as error:
        parse_location(text)
    assert text in str(error.value)
    assert "expected an https" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "htp://user:hunter2@host/a",
        "http://user:hunter2@host:99999/a",
        "http://u:hunter2@h/x?y",
        "https://mirror.example/a?signature=hunter2",
        "https://mirror.example/a#hunter2",
        "https://[mirror.example/a?signature=hunter2",
        "htp://user:hunter2@host/a?b@c",
        "https:user:hunter2@host",
    ],
)
def test_neither_password_nor_query_of_a_refused_base_is_shown(text: str) -> None:
    with pytest.raises(BuildError) as refused:
        parse_location(text, "--from")
    assert "hunter2" not in str(refused.value)
    assert str(refused.value).startswith("--from=")


def test_neither_password_nor_query_of_a_url_is_shown() -> None:
    assert display_url("https://user:pass@host:1/path?signature=x#y") == "https://host:1/path"


def test_a_pipe_in_a_folder_is_not_waited_for(tmp_path: Path, environ: dict[str, str]) -> None:
    folder = tmp_path / release_folder(VERSION)
    folder.mkdir()
    os.mkfifo(folder / NAME)
    assert_refused({**environ, "SUPERMACHINE_RELEASE_URL": str(tmp_path)}, "found a device, socket or pipe")


@pytest.mark.parametrize(
    ("value", "offline"),
    [
        *((value, True) for value in ("1", "true", "yes", "TRUE", "Yes")),
        *((value, False) for value in (None, "", "0", "false", "no", "False", "NO")),
    ],
)
def test_offline_has_words_for_yes_and_no(value: str | None, offline: bool) -> None:
    assert is_offline({} if value is None else {"SUPERMACHINE_OFFLINE": value}) is offline


@pytest.mark.parametrize("value", ["2", "on", "y", " 1", "maybe\n"])
def test_a_value_of_offline_that_says_neither_is_refused(value: str) -> None:
    """It went online: who sets it means something."""
    with pytest.raises(BuildError, match=r"SUPERMACHINE_OFFLINE=.*expected 1, true or yes") as refused:
        is_offline({"SUPERMACHINE_OFFLINE": value})
    assert "\n" not in str(refused.value)
