"""What the transfer reads from headers and URLs; its faults are in test_transfer_faults."""

from __future__ import annotations

import email.utils
import threading
import time
from typing import cast

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.asset_build.errors import BuildError
from scripts.asset_build.fetch.progress import Progress
from scripts.asset_build.fetch.transfer import (
    PATIENCE,
    ReleaseHost,
    Sink,
    download,
    is_loopback,
    parse_content_range,
    parse_retry_after,
    shown,
)
from tests.support.faulty import Reply, Request, serve


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


def release_host(base: str, token: str | None = None) -> ReleaseHost:
    return ReleaseHost(base, token, PATIENCE, threading.Event(), "--from")


def test_a_token_may_end_in_a_newline() -> None:
    """As it does when it was read from a file."""
    with serve(lambda request, reply: reply.whole(b"")) as host, requests.Session() as session:
        release_host(host.url, " t0ken\n").open(session, host.url, {}).close()
        release_host(host.url, " \n").open(session, host.url, {}).close()
    assert [request.headers.get("authorization") for request in host.requests] == ["Bearer t0ken", None]


@pytest.mark.parametrize("token", ["s3cret s3cret", "s3cret\ns3cret", "s3cret\u20ac", "s3cret\xe9", "s3cret\x7f"])
def test_a_token_that_cannot_be_sent_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(BuildError, match="GITHUB_TOKEN") as refused:
        release_host("https://mirror.invalid", token)
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    ("base", "part"),
    [
        ("http://us\u20acer:s3cret@127.0.0.1:9", "not Latin-1"),
        ("http://us%E2%82%ACer:s3cret@127.0.0.1:9", "not Latin-1"),
        ("http://user:s3c\\ret@127.0.0.1:9", "cannot be parsed"),
        ("http://user:s3cret@.:9", "cannot be parsed"),
    ],
)
def test_a_base_that_cannot_be_asked_is_not_shown_whole(base: str, part: str) -> None:
    with Progress(None) as progress, pytest.raises(BuildError, match=part) as refused:
        download(release_host(base), f"{base}/x", cast(Sink, None), None, progress)
    assert "s3c" not in str(refused.value)


def test_a_redirect_that_two_parsers_read_in_two_ways_is_refused() -> None:
    """Checked as one of the release host, which gets the token, and sent to the other."""
    with serve(lambda request, reply: reply.whole(b"")) as other:

        def answer(request: Request, reply: Reply) -> None:
            reply.whole(b"", "302 Found", Location=f"{other.url}\\@{request.headers['host']}/x")

        with serve(answer) as host, requests.Session() as session, pytest.raises(BuildError, match="a redirect to"):
            release_host(host.url, "t0ken").open(session, host.url, {})
    assert other.requests == []
