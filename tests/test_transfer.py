"""What the transfer reads from headers and URLs; its faults are in test_transfer_faults."""

from __future__ import annotations

import email.utils
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.asset_build.transfer import is_loopback, parse_content_range, parse_retry_after, shown


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**60), st.integers(0, 2**60), st.integers(0, 2**60), st.booleans())
def test_a_range_is_read(first: int, more: int, rest: int, told: bool) -> None:
    last = first + more
    size = last + 1 + rest if told else None
    assert parse_content_range(f"bytes {first}-{last}/{'*' if size is None else size}") == (first, last, size)


@settings(deadline=None, max_examples=50)
@given(st.text() | st.from_regex(r"bytes [0-9*-]{0,6}/[0-9*]{0,4}", fullmatch=True))
def test_any_text_is_a_range_that_can_be_or_none(text: str) -> None:
    span = parse_content_range(text)
    if span is not None:
        first, last, size = span
        assert 0 <= first <= last
        assert size is None or last < size


@pytest.mark.parametrize(
    "text", ["bytes */100", "bytes 5-4/9", "bytes 0-9/9", "bytes 0-9", "items 0-1/2", "bytes \u0660-\u0661/\u0662"]
)
def test_what_is_no_range(text: str) -> None:
    assert parse_content_range(text) is None


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 86400))
def test_seconds_to_wait(seconds: int) -> None:
    assert parse_retry_after(f" {seconds} ") == pytest.approx(min(seconds, 21600)), "a day is as good as six hours"


@settings(deadline=None, max_examples=50)
@given(st.integers(-86400, 20000))
def test_a_date_to_wait_for(seconds: int) -> None:
    found = parse_retry_after(email.utils.formatdate(time.time() + seconds, usegmt=True))
    assert found == pytest.approx(max(seconds, 0), abs=3)


@settings(deadline=None, max_examples=50)
@given(st.none() | st.text() | st.from_regex(r"[0-9]{1,5000}", fullmatch=True))
def test_any_text_is_a_wait_or_none(text: str | None) -> None:
    found = parse_retry_after(text)
    assert found is None or found >= 0


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8000/x", True),
        ("http://127.9.9.9/x", True),
        ("http://[::1]:8000/x", True),
        ("http://localhost/x", True),
        ("http://localhost.example/x", False),
        ("http://127.0.0.1.example/x", False),
        ("http://10.0.0.1/x", False),
        ("http://user@example.invalid/127.0.0.1", False),
    ],
)
def test_loopback(url: str, expected: bool) -> None:
    assert is_loopback(url) is expected


def test_what_is_shown_of_a_url_is_no_secret() -> None:
    assert shown("https://user:pass@host:1/path?signature=x#y") == "https://host:1/path"
