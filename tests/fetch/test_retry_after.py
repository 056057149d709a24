"""The header by which a host says when to ask again (RFC 9110, 10.2.3): in seconds, or as a date."""

from __future__ import annotations

import email.utils
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.asset_build.fetch.transfer import parse_retry_after


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 86400))
def test_seconds_to_wait_are_read(seconds: int) -> None:
    assert parse_retry_after(f" {seconds} ") == pytest.approx(min(seconds, 21600)), "a day is as good as six hours"


@settings(deadline=None, max_examples=50)
@given(st.integers(-86400, 20000))
def test_a_date_to_wait_for_is_read(seconds: int) -> None:
    found = parse_retry_after(email.utils.formatdate(time.time() + seconds, usegmt=True))
    assert found == pytest.approx(max(seconds, 0), abs=3)


@settings(deadline=None, max_examples=50)
@given(st.none() | st.text() | st.from_regex(r"[0-9]{1,5000}", fullmatch=True))
def test_any_other_text_is_no_wait(text: str | None) -> None:
    found = parse_retry_after(text)
    assert found is None or found >= 0
