"""docs/faults.md: a row for each kind of fault, which the tests of the fetch inject."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, TypeVar

Test = TypeVar("Test", bound=Callable[..., Any])

PAGE = Path(__file__).resolve().parents[2] / "docs" / "faults.md"

RIGHT = "The build has the right bytes"
REFUSED = "The build ends in one line, and there is no wheel"

_HEAD = """\
# Faults of a fetch, and what comes of each

A build that takes its assets from the release ends in the right bytes, or in one line that says what was expected, what
was found and what to do; then there is no wheel. Each fault was injected for real, on loopback, by a test in
`tests/fetch/`. `python3 -m tests.support.faults_page` writes this page from its rows.
"""

ROWS = {
    RIGHT: {
        "broken once": ("the connection ends, is reset or falls silent, once", "the fetch goes on at the next byte"),
        "busy once": ("408, 429 or 5xx, once, with or without Retry-After", "the host is asked again when it wishes"),
        "no resume": ("Range is ignored, or answered with 416 or with other bytes", "the file starts again"),
        "false header": ("Content-Length, Content-Encoding or ETag say what is not so", "the bytes decide"),
        "more than the file": ("more bytes, or headers without end, follow the file", "they are not read"),
        "other host": ("a redirect to another host", "the token and the netrc entry are not sent there"),
        "read-only cache": ("the cache cannot be written", "it is read; the rest is kept for this build alone"),
        "damaged cache": ("an entry of the cache is damaged", "it is fetched anew"),
        "deleted cache": ("the cache, or a temporary file in it, is deleted meanwhile", "it is written again"),
        "killed": ("a build is killed at any moment", "the next one takes nothing that is not whole"),
        "many builds": ("16 builds on a cold cache, also without file locks", "with locks, each file is fetched once"),
        "nginx": ("a real nginx, cut off in mid-body", "the fetch goes on at the next byte"),
    },
    REFUSED: {
        "broken always": ("the connection breaks at each try", "the last failure, the number of tries"),
        "trickle": ("a head, a body or a chunk's size comes a byte at a time", "what had come when the time was over"),
        "busy always": ("408, 429 or 5xx at each try, or a Retry-After of an hour", "the status, the wait asked for"),
        "status": ("401, 403, 404, 410", "the status, and what it means for this host"),
        "wrong content": ("another file, a web page, a truncated or compressed body", "size, type or SHA-256 found"),
        "wrong xz data": ("locked `.xz` files that are none, or are bombs", "what is wrong with them"),
        "bad redirect": ("a redirect to http, to no host, to a file, or without end", "where it leads"),
        "bad answer": ("two Content-Length headers; control characters", "them, escaped"),
        "certificate": ("unknown authority, other host, expired; REQUESTS_CA_BUNDLE is none", "what is wrong with it"),
        "proxy": ("a proxy that is not there, refuses, or is a SOCKS proxy", "that it is the proxy"),
        "name": ("a host name that does not resolve", "the resolver's message"),
        "credentials": ("a URL, token or netrc file that cannot be sent", "which one, and never the secret"),
        "bad folder": ("a release folder without the file, with a truncated one or a pipe", "its path"),
        "offline": ("SUPERMACHINE_OFFLINE, and nothing in the cache", "the sources tried, and what to set"),
        "full cache": ("the cache is full, a file, or always emptied", "its folder, SUPERMACHINE_CACHE_DIR"),
        "missing module": ("a Python without lzma or ssl", "the module, if something must be fetched"),
    },
}


def injects(row: str) -> Callable[[Test], Test]:
    """Mark a test as one that injects a fault of that row."""
    assert any(row in rows for rows in ROWS.values()), row
    return lambda test: test


def render() -> str:
    """The text of the page."""
    text = _HEAD
    for outcome, rows in ROWS.items():
        what = "how" if outcome == RIGHT else "the line names"
        text += f"\n## {outcome}\n\n| fault | {what} |\n|---|---|\n"
        text += "".join(f"| {fault} | {more} |\n" for fault, more in rows.values())
    return text


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
