"""What a release host can do wrong, injected for real: the right bytes come, or one clear line and no wheel."""

from __future__ import annotations

import email.utils
import gzip
import lzma
import random
import shutil
import signal
import struct
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from scripts.asset_build.fetch.xz import pack
from scripts.asset_build.lock import LockedAsset, LockedSet
from scripts.asset_build.release_layout import release_folder
from supermachine_kernel._version import VERSION
from tests.support import faults_page, nginx
from tests.support.faults_page import injects
from tests.support.faulty import Answer, Reply, Request, cut, serve
from tests.support.sets import SET
from tests.support.small_release import (
    FOUR,
    HALF,
    NAME,
    PACKED,
    UNPACKED,
    assert_refused,
    assert_right_bytes,
    locked,
    measure,
    start_fetch,
    write_lock,
)

pytestmark = pytest.mark.slow  # a server and its silences

OTHER = pack(random.Random(2).randbytes(200_000))
BOMB = lzma.compress(bytes(64 << 20), preset=0)
HTML = b"<!doctype html><title>Log in</title>"
DAMAGED = PACKED[:HALF] + bytes([PACKED[HALF] ^ 1]) + PACKED[HALF + 1 :]


def huge_dictionary() -> bytes:
    """An .xz whose header asks for a dictionary of 4 GiB less 1 (the .xz file format, 3.1 and 5.3.1)."""
    content = bytearray(PACKED)
    size = (content[12] + 1) * 4
    place = content.index(b"\x21\x01", 13) + 2
    content[place] = 40
    content[12 + size - 4 : 12 + size] = struct.pack("<I", zlib.crc32(content[12 : 12 + size - 4]))
    return bytes(content)


# --- what the host does ---


def once(fault: Answer) -> Answer:
    """The fault at the first request, then what a plain server does."""
    return lambda request, reply: fault(request, reply) if request.number == 1 else reply.honour(request, PACKED)


def status(line: str, **headers: Any) -> Answer:
    return lambda request, reply: reply.whole(b"no\n", line, **headers)


def body(content: bytes, **headers: Any) -> Answer:
    return lambda request, reply: reply.whole(content, **headers)


def without_length(content: bytes) -> Answer:
    """The end of the connection is the end of the body."""

    def answer(request: Request, reply: Reply) -> None:
        reply.head("200 OK")
        reply.send(content)

    return answer


def half(request: Request, reply: Reply) -> None:
    reply.head("200 OK", Content_Length=len(PACKED), ETag='"1"')
    reply.send(PACKED[:HALF])


def half_with_a_folded_etag(request: Request, reply: Reply) -> None:
    reply.send(OK + b'ETag: "1\r\n 2"\r\nContent-Length: %d\r\n\r\n' % len(PACKED) + PACKED[:HALF])


def half_then_reset(request: Request, reply: Reply) -> None:
    half(request, reply)
    reply.reset()


def half_then_silence(request: Request, reply: Reply) -> None:
    half(request, reply)
    reply.silence()


def never_beyond_half(request: Request, reply: Reply) -> None:
    """Honours Range, and is reset each time the same byte is reached."""
    reply.head("206 Partial Content" if request.start else "200 OK", Content_Length=len(PACKED) - request.start)
    reply.send(PACKED[request.start : HALF])
    reply.reset()


def reset(request: Request, reply: Reply) -> None:
    reply.reset()


def silence(request: Request, reply: Reply) -> None:
    reply.silence()


def a_few_bytes(request: Request, reply: Reply) -> None:
    """Honours Range, and breaks off after a thousand bytes of each try."""
    reply.head("206 Partial Content" if request.start else "200 OK", Content_Length=len(PACKED) - request.start)
    reply.send(PACKED[request.start : request.start + 1000])


def after_half(second: Answer) -> Answer:
    """Half of it; to the request for the rest, `second`; then what a plain server does."""

    def answer(request: Request, reply: Reply) -> None:
        if request.number == 1:
            half(request, reply)
        elif request.number == 2:
            assert request.start == HALF
            second(request, reply)
        else:
            reply.honour(request, PACKED)

    return answer


def wrong_range(request: Request, reply: Reply) -> None:
    reply.rest(PACKED, request.start - 1)


def rest_of_another_file(request: Request, reply: Reply) -> None:
    reply.rest(OTHER, request.start, ETag='"2"')


def retry_at_date(request: Request, reply: Reply) -> None:
    status("429 Too Many Requests", Retry_After=email.utils.formatdate(time.time() + 1, usegmt=True))(request, reply)


def trickle(head: bytes, endless: bytes, piece: int = 1) -> Answer:
    """`head`, then `endless` in pieces, slowly."""

    def answer(request: Request, reply: Reply) -> None:
        reply.send(head)
        reply.trickle(endless, piece, 0.3)

    return answer


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
ONE_CHUNK = CHUNKED + b"%x\r\n%s\r\n0\r\n" % (len(PACKED), PACKED)
endless_head = trickle(OK, b"X: " + bytes(1000))


def redirect_loop(request: Request, reply: Reply) -> None:
    reply.whole(b"", "302 Found", Location=request.path)


def endless_redirect(request: Request, reply: Reply) -> None:
    reply.head("302 Found", Location=request.path)
    reply.trickle(bytes(1000), 1, 0.3)


def redirects_without_end(request: Request, reply: Reply) -> None:
    reply.whole(b"", "302 Found", Location=f"{request.path}x")


def raw(head: bytes) -> Answer:
    """The header lines as they are, then the file."""
    return lambda request, reply: reply.send(OK + head + b"\r\n" + PACKED)


@dataclass(frozen=True)
class Fault:
    """What the host does; `line` is what the one line must say, empty if the right bytes come all the same."""

    row: str
    name: str
    answer: Answer
    line: str = ""
    lock: LockedSet = locked()  # noqa: RUF009  immutable


FAULTS = [
    Fault("broken once", "body cut off, with Content-Length", once(half)),
    Fault("broken once", "body cut off, without Content-Length", once(without_length(PACKED[:HALF]))),
    Fault("broken once", "reset before the headers", once(reset)),
    Fault("broken once", "reset in mid-body", once(half_then_reset)),
    Fault("broken once", "silence before the headers", once(silence)),
    Fault("broken once", "silence in mid-body", once(half_then_silence)),
    Fault("busy once", "429 with Retry-After in seconds", once(status("429 Too Many Requests", Retry_After=1))),
    Fault("busy once", "429 with Retry-After as a date", once(retry_at_date)),
    Fault("busy once", "429 with a Retry-After that is neither", once(status("429 Busy", Retry_After="soon"))),
    Fault("busy once", "403 with Retry-After", once(status("403 Forbidden", Retry_After=1))),
    *(Fault("busy once", f"{code}", once(status(f"{code} Trouble"))) for code in (408, 500, 502, 503, 504)),
    Fault("no resume", "206 with the wrong range", after_half(wrong_range)),
    Fault("no resume", "206 with the rest of another file", after_half(rest_of_another_file)),
    Fault("no resume", "416", after_half(status("416 Range Not Satisfiable"))),
    Fault("no resume", "Range ignored", after_half(body(PACKED, ETag='"2"'))),
    Fault("false header", "a Content-Length that is no number", body(PACKED, Content_Length="\xb2")),
    Fault("false header", "a Content-Length of 5000 digits", body(PACKED, Content_Length="9" * 5000)),
    Fault("false header", "Content-Encoding: gzip of what is none", body(PACKED, Content_Encoding="gzip")),
    Fault("false header", "a folded ETag, and a break", once(half_with_a_folded_etag)),
    Fault("more than the file", "a longer body, without Content-Length", without_length(PACKED + b"x")),
    Fault("more than the file", "trailers without end", trickle(ONE_CHUNK, b"X: y\r\n" * 1000, 6)),
    Fault("more than the file", "a redirect whose body has no end", once(endless_redirect)),
    Fault("broken always", "body cut off, with Content-Length", half, "3 tries"),
    Fault("broken always", "body cut off, without", without_length(PACKED[:HALF]), f"an end after {HALF} bytes"),
    Fault("broken always", "reset before the headers", reset, "3 tries"),
    Fault("broken always", "a thousand bytes of each try", a_few_bytes, "more expected) (3 tries"),
    Fault("broken always", "reset in mid-body, at the same byte", never_beyond_half, "connection reset by peer"),
    Fault("broken always", "silence before the headers", silence, "timed out (3 tries"),
    Fault("broken always", "silence in mid-body", half_then_silence, "timed out (3 tries"),
    Fault("trickle", "a body", trickle(OK + b"\r\n", PACKED), "by the end of 6 s"),
    Fault("trickle", "a head", endless_head, "0 bytes by the end of 6 s"),
    Fault(
        "trickle", "100 Continue without end", trickle(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100, 25), "0 bytes by"
    ),
    Fault("trickle", "a chunk's size", trickle(CHUNKED, b"0" * 1000), "0 bytes by the end of 6 s"),
    Fault("busy always", "429", status("429 Too Many Requests", Retry_After=0), "3 tries"),
    Fault("busy always", "Retry-After of an hour", status("429 Busy", Retry_After=3600), "asks to wait 3600 s"),
    *(
        Fault("busy always", f"{code}", status(f"{code} Trouble"), f"found {code} Trouble (3 tries")
        for code in (500, 502, 503)
    ),
    Fault("status", "401", status("401 Unauthorized"), "GITHUB_TOKEN"),
    Fault("status", "403", status("403 rate limit exceeded", X_RateLimit_Remaining=0), "rate limit"),
    Fault("status", "404", status("404 Not Found"), "is this version released there?"),
    Fault("status", "410", status("410 Gone"), "withdrawn"),
    Fault("wrong content", "a longer body, with Content-Length", body(PACKED + b"x"), f"found {len(PACKED) + 1} bytes"),
    Fault("wrong content", "wrong bytes of the right size", body(OTHER), "expected SHA-256"),
    Fault("wrong content", "one wrong byte", body(DAMAGED), "expected SHA-256"),
    Fault("wrong content", "a page in HTML", body(HTML, Content_Type="text/html"), "found 36 bytes (text/html)"),
    Fault("wrong content", "a page in HTML, without Content-Length", without_length(HTML), "an end after 36 bytes"),
    Fault("wrong content", "gzip", body(gzip.compress(PACKED), Content_Encoding="gzip"), "(gzip)"),
    Fault("wrong xz data", "truncated", body(PACKED[:HALF]), "expected whole xz data", locked(PACKED[:HALF])),
    Fault("wrong xz data", "none", body(HTML), "expected sound xz data", locked(HTML)),
    Fault("wrong xz data", "corrupt", body(DAMAGED), "expected sound xz data", locked(DAMAGED)),
    Fault("wrong xz data", "trailing bytes", body(PACKED + b"x"), "more bytes after it", locked(PACKED + b"x")),
    Fault("wrong xz data", "of another file", body(OTHER), "once unpacked", locked(OTHER)),
    Fault("wrong xz data", "shorter than locked", body(pack(b"x")), "once unpacked, found 1 bytes", locked(pack(b"x"))),
    Fault("wrong xz data", "a bomb", body(BOMB), f"at most {len(UNPACKED)} bytes once unpacked, found", locked(BOMB)),
    Fault("wrong xz data", "4 GiB of memory", body(huge_dictionary()), "memory usage", locked(huge_dictionary())),
    Fault("bad redirect", "a loop", redirect_loop, "at most 10 redirects"),
    Fault("bad redirect", "without end", redirects_without_end, "at most 10 redirects"),
    Fault("bad redirect", "to a file", status("302 Found", Location="file:///etc/passwd"), "to file:///etc/passwd"),
    Fault("bad redirect", "to no URL", status("302 Found", Location="http://[x"), "expected a redirect to a URL"),
    Fault("bad redirect", "in no UTF-8", status("302 Found", Location="\xff"), "expected a redirect to a URL"),
    Fault(
        "bad redirect", "that clears the screen", status("302 F", Location="ftp://host/\x1b[2J"), r"ftp://host/\x1b[2J"
    ),
    Fault("bad answer", "a status that clears the screen", status("410 \x1b[2J\x9b2J"), r"found 410 \x1b[2J\x9b2J; "),
    Fault("bad answer", "a type that clears the screen", body(HTML, Content_Type="\x1b[2J"), r"bytes (\x1b[2J); "),
    Fault(
        "bad answer", "two lengths", raw(b"Content-Length: 5\r\nContent-Length: 6\r\n"), "expected one Content-Length"
    ),
]


@pytest.mark.parametrize("fault", [pytest.param(fault, id=f"{fault.row}: {fault.name}") for fault in FAULTS])
def test_a_fault_ends_in_the_right_bytes_or_in_one_line(fault: Fault, environ: dict[str, str]) -> None:
    assert fault.row in faults_page.ROWS[faults_page.REFUSED if fault.line else faults_page.RIGHT]
    with serve(fault.answer) as host:
        environ["SUPERMACHINE_RELEASE_URL"] = host.url
        if fault.line:
            assert_refused(environ, fault.line, host.url, NAME, lock=fault.lock)
        else:
            assert_right_bytes(environ)


def test_the_page_has_the_rows_that_tests_inject() -> None:
    assert faults_page.PAGE.read_text(encoding="utf-8") == faults_page.render(), "python3 -m tests.support.faults_page"
    injected = {fault.row for fault in FAULTS}
    sources = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    for rows in faults_page.ROWS.values():
        assert [row for row in rows if row not in injected and f'@injects("{row}")' not in sources] == []


def test_a_broken_transfer_goes_on_where_it_stopped(environ: dict[str, str]) -> None:
    with serve(once(half_then_reset)) as host:
        assert_right_bytes({**environ, "SUPERMACHINE_RELEASE_URL": host.url})
    first, second = host.requests
    assert "range" not in first.headers
    assert 0 < second.start <= HALF
    assert second.headers["accept-encoding"] == "identity"


def test_the_wait_that_a_host_asks_for_is_kept(environ: dict[str, str]) -> None:
    with serve(once(status("503 Service Unavailable", Retry_After=1))) as host:
        started = time.monotonic()
        assert_right_bytes({**environ, "SUPERMACHINE_RELEASE_URL": host.url})
    assert time.monotonic() - started >= 1


@pytest.mark.parametrize("answer", [endless_head, trickle(b"", bytes(1))], ids=["a head that trickles", "nothing"])
def test_an_interrupt_ends_a_fetch_at_once(answer: Answer, environ: dict[str, str], tmp_path: Path) -> None:
    """Ctrl-C: the host would go on for minutes, and the limits allow half an hour."""
    with serve(answer) as host:
        running = start_fetch(write_lock(tmp_path / "lock"), {**environ, "SUPERMACHINE_RELEASE_URL": host.url})
        while not host.requests:
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=60)
    assert running.returncode
    assert errors.splitlines()[-1] == "KeyboardInterrupt"


def test_a_bomb_is_not_written_to_the_disk(environ: dict[str, str], tmp_path: Path) -> None:
    """The process may not write a file of 1 MiB: a write beyond that would kill it."""
    bomb = LockedAsset(unpacked=measure(UNPACKED), packed=measure(BOMB))
    lock = write_lock(tmp_path / "lock", LockedSet(SET, dict.fromkeys(FOUR, bomb)))
    with serve(body(BOMB)) as host:
        environ["SUPERMACHINE_RELEASE_URL"] = host.url
        running = start_fetch(lock, environ, shell_limit="ulimit -f 2048")
        _, errors = running.communicate(timeout=60)
    assert running.returncode == 1
    assert f"expected at most {len(UNPACKED)} bytes once unpacked, found more" in errors


@injects("nginx")
def test_nginx_serves_whole_cut_off_and_truncated_files(environ: dict[str, str], release: Path, tmp_path: Path) -> None:
    with nginx.serve(release, tmp_path / "nginx") as port:
        environ["SUPERMACHINE_RELEASE_URL"] = f"http://127.0.0.1:{port}"
        assert_right_bytes(environ)
        shutil.rmtree(tmp_path / "cache")
        with cut(port, HALF) as url:
            assert_right_bytes({**environ, "SUPERMACHINE_RELEASE_URL": url})
        shutil.rmtree(tmp_path / "cache")
        (release / release_folder(VERSION) / NAME).write_bytes(PACKED[:HALF])
        assert_refused(environ, f"expected {len(PACKED)} bytes, found {HALF} bytes")
    served = [line.split(" ", 2) for line in (tmp_path / "nginx" / "access.log").read_text().splitlines()]
    assert [(line[0], line[2].startswith("bytes=")) for line in served] == [
        ("200", False),
        ("200", False),
        ("206", True),
        ("200", False),
    ]
