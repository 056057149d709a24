"""The release base that SUPERMACHINE_RELEASE_URL names."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.asset_build.errors import BuildError
from scripts.asset_build.layout import BASE
from scripts.asset_build.release import parse_base


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, BASE),
        ("", BASE),
        ("https://mirror.example/a/", "https://mirror.example/a"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("file:///a%20b", Path("/a b")),
        ("file://localhost/a", Path("/a")),
        ("/a/b", Path("/a/b")),
        ("a/b", Path.cwd() / "a" / "b"),
    ],
)
def test_a_base(text: str | None, expected: str | Path) -> None:
    assert parse_base(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "ftp://mirror.example",
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
