"""Every fault of a fetch, injected for real: it ends in the right bytes, or in one clear line and no wheel."""

from __future__ import annotations

import contextlib
import email.utils
import gzip
import hashlib
import json
import lzma
import os
import random
import shutil
import signal
import ssl
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme

from scripts.asset_build.errors import BuildError
from scripts.asset_build.fetch.locked_files import fetch
from scripts.asset_build.fetch.transfer import Patience
from scripts.asset_build.fetch.xz import pack
from scripts.asset_build.lock import LOCK_NAME, Lock, LockedAsset, LockedFile, LockedSet, format_lock
from scripts.asset_build.release_layout import packed_name, release_folder
from scripts.machine import environments
from supermachine_kernel._assets import ASSETS, SET
from supermachine_kernel._version import VERSION
from tests.support import faults_page, nginx
from tests.support.faulty import Answer, FaultyHost, Reply, Request, cut, serve

pytestmark = pytest.mark.slow  # a server and its silences

UNPACKED = random.Random(1).randbytes(200_000)
PACKED = pack(UNPACKED)
HALF = len(PACKED) // 2
OTHER = pack(random.Random(2).randbytes(200_000))
BOMB = lzma.compress(bytes(64 << 20), preset=0)
QUICK = Patience(connect=2, silence=0.5, total=6, tries=3, backoff=0.02, longest_wait=1.5)
NAME = packed_name(SET, "kernel")


def locked_file(content: bytes) -> LockedFile:
    return LockedFile(len(content), hashlib.sha256(content).hexdigest())


def locked(packed: bytes = PACKED, unpacked: bytes = UNPACKED, name: str = "kernel") -> LockedSet:
    return LockedSet(SET, {name: LockedAsset(unpacked=locked_file(unpacked), packed=locked_file(packed))})


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
    return lambda request, reply: (
        fault(request, reply) if request.number == 1 else reply.honour(request, PACKED, ETag='"1"')
    )


def status(line: str, **headers: Any) -> Answer:
    return lambda request, reply: reply.whole(b"no\n", line, **headers)


def body(content: bytes, **headers: Any) -> Answer:
    return lambda request, reply: reply.whole(content, **headers)


def unannounced(content: bytes) -> Answer:
    """Without Content-Length: the end of the connection is the end of the body."""

    def answer(request: Request, reply: Reply) -> None:
        reply.head("200 OK")
        reply.send(content)

    return answer


def half(request: Request, reply: Reply) -> None:
    reply.head("200 OK", Content_Length=len(PACKED), ETag='"1"')
    reply.send(PACKED[:HALF])


def half_then_reset(request: Request, reply: Reply) -> None:
    half(request, reply)
    reply.reset()


def half_then_silence(request: Request, reply: Reply) -> None:
    half(request, reply)
    reply.silence()


def never_beyond_half(request: Request, reply: Reply) -> None:
    """Honours Range, and is reset each time the same byte is reached."""
    if request.start:
        reply.head(
            "206 Partial Content",
            Content_Length=len(PACKED) - request.start,
            Content_Range=f"bytes {request.start}-{len(PACKED) - 1}/{len(PACKED)}",
        )
        reply.send(PACKED[request.start : HALF])
    else:
        reply.head("200 OK", Content_Length=len(PACKED))
        reply.send(PACKED[:HALF])
    reply.reset()


def reset(request: Request, reply: Reply) -> None:
    reply.reset()


def silence(request: Request, reply: Reply) -> None:
    reply.silence()


def after_half(second: Answer) -> Answer:
    """Half of it; to the request for the rest, `second`; then what a plain server does."""

    def answer(request: Request, reply: Reply) -> None:
        if request.number == 1:
            half(request, reply)
        elif request.number == 2:
            second(request, reply)
        else:
            reply.honour(request, PACKED)

    return answer


def wrong_range(request: Request, reply: Reply) -> None:
    reply.rest(PACKED, request.start - 1)


def other_rest(request: Request, reply: Reply) -> None:
    reply.rest(OTHER, request.start)


def changed(request: Request, reply: Reply) -> None:
    """The file is another one by now, and If-Range says so."""
    assert request.headers["if-range"] == '"1"'
    reply.whole(PACKED, ETag='"2"')


def changed_and_unaware(request: Request, reply: Reply) -> None:
    reply.rest(PACKED, request.start, ETag='"2"')


def retry_at_date(request: Request, reply: Reply) -> None:
    status("429 Too Many Requests", Retry_After=email.utils.formatdate(time.time() + 1, usegmt=True))(request, reply)


def trickle(request: Request, reply: Reply) -> None:
    reply.head("200 OK", Content_Length=len(PACKED))
    reply.trickle(PACKED[:300], 1, 0.1)


def head_without_end(request: Request, reply: Reply) -> None:
    reply.send(b"HTTP/1.1 200 OK\r\n")
    reply.trickle(b"X: " + bytes(100), 1, 0.3)


def continue_without_end(request: Request, reply: Reply) -> None:
    line = b"HTTP/1.1 100 Continue\r\n\r\n"
    reply.trickle(line * 100, len(line), 0.3)


def chunk_size_without_end(request: Request, reply: Reply) -> None:
    reply.head("200 OK", Transfer_Encoding="chunked")
    reply.trickle(b"0" * 100, 1, 0.3)


def trailers_without_end(request: Request, reply: Reply) -> None:
    """The body is whole, in one chunk; what may follow the last chunk has no end (RFC 9112, 7.1.2)."""
    reply.head("200 OK", Transfer_Encoding="chunked")
    reply.send(b"%x\r\n%s\r\n0\r\n" % (len(PACKED), PACKED))
    reply.trickle(b"X: y\r\n" * 1000, 6, 0.3)


def loop(request: Request, reply: Reply) -> None:
    reply.whole(b"", "302 Found", Location=request.path)


def ever_on(request: Request, reply: Reply) -> None:
    reply.whole(b"", "302 Found", Location=f"{request.path}x")


# --- the table ---


@dataclass(frozen=True)
class Fault:
    """A row: what the host does, whether the bytes come all the same, and what the line must say if not."""

    name: str
    answer: Answer
    line: str = ""
    lock: LockedSet = locked()  # noqa: RUF009  immutable


HTML = b"<!doctype html><title>Log in</title>"
DAMAGED = PACKED[:HALF] + bytes([PACKED[HALF] ^ 1]) + PACKED[HALF + 1 :]
HUGE_DICTIONARY = huge_dictionary()

FAULTS = [
    Fault("body cut off, with Content-Length, once", once(half)),
    Fault("body cut off, with Content-Length, always", lambda request, reply: half(request, reply), "3 tries"),
    Fault("body cut off, without Content-Length, once", once(unannounced(PACKED[:HALF]))),
    Fault("body cut off, without Content-Length, always", unannounced(PACKED[:HALF]), f"an end after {HALF} bytes"),
    Fault("longer body, with Content-Length", body(PACKED + b"x"), f"found {len(PACKED) + 1} bytes"),
    Fault("longer body, without Content-Length", unannounced(PACKED + b"x")),
    Fault("a Content-Length that is no number", body(PACKED, Content_Length="\xb2")),
    Fault("a Content-Length of 5000 digits", body(PACKED, Content_Length="9" * 5000)),
    Fault("wrong bytes of the right size", body(OTHER), "expected SHA-256"),
    Fault(
        "random bytes of the right size", body(UNPACKED + PACKED[len(UNPACKED) :]), "where b'\\xfd7zXZ\\x00' should be"
    ),
    Fault("one wrong byte, the size right", body(DAMAGED), "damage"),
    Fault("a page in HTML with status 200", body(HTML, Content_Type="text/html"), "(text/html)"),
    Fault("a page in HTML with status 200, without Content-Length", unannounced(HTML), "a web page"),
    Fault("401", status("401 Unauthorized"), "GITHUB_TOKEN"),
    Fault("403 (rate limit)", status("403 rate limit exceeded", X_RateLimit_Remaining=0), "rate limit"),
    Fault("404", status("404 Not Found"), "is this version released there?"),
    Fault("410", status("410 Gone"), "withdrawn"),
    Fault("a status that clears the screen", status("410 \x1b[2J\x9b2JGone"), r"found 410 \x1b[2J\x9b2JGone; "),
    Fault("429 with Retry-After in seconds, once", once(status("429 Too Many Requests", Retry_After=1))),
    Fault("429 with Retry-After as a date, once", once(retry_at_date)),
    Fault("429 with a Retry-After of an hour", status("429 Too Many Requests", Retry_After=3600), "to wait 3600 s"),
    Fault("429 always", status("429 Too Many Requests", Retry_After=0), "3 tries"),
    Fault("500 once", once(status("500 Internal Server Error"))),
    Fault("500 always", status("500 Internal Server Error"), "found 500 Internal Server Error (3 tries"),
    Fault("502 once", once(status("502 Bad Gateway"))),
    Fault("502 always", status("502 Bad Gateway"), "found 502 Bad Gateway (3 tries"),
    Fault("503 once", once(status("503 Service Unavailable"))),
    Fault("503 always", status("503 Service Unavailable"), "found 503 Service Unavailable (3 tries"),
    Fault("reset before the headers, once", once(reset)),
    Fault("reset before the headers, always", reset, "3 tries"),
    Fault("reset in mid-body, once", once(half_then_reset)),
    Fault("reset in mid-body, every time at the same offset", never_beyond_half, "tries"),
    Fault("silence before the headers, once", once(silence)),
    Fault("silence before the headers, always", silence, "silence for 0.5 s (3 tries"),
    Fault("silence in mid-body, once", once(half_then_silence)),
    Fault("silence in mid-body, always", half_then_silence, "silence for 0.5 s (3 tries"),
    Fault("a body that trickles", trickle, "by the end of 6 s"),
    Fault("a head that trickles", head_without_end, "0 by the end of 6 s"),
    Fault("100 Continue without end", continue_without_end, "0 by the end of 6 s"),
    Fault("a chunk's size that trickles", chunk_size_without_end, "0 by the end of 6 s"),
    Fault("trailers without end", trailers_without_end),
    Fault("206 with the wrong range", after_half(wrong_range)),
    Fault("206 with the rest of another file", after_half(other_rest)),
    Fault("416 to the request for the rest", after_half(status("416 Range Not Satisfiable"))),
    Fault("Range ignored", after_half(body(PACKED))),
    Fault("ETag changed between tries", after_half(changed)),
    Fault("ETag changed between tries, If-Range ignored", after_half(changed_and_unaware)),
    Fault("redirect loop", loop, "a loop at"),
    Fault("redirects without end", ever_on, "at most 10 redirects"),
    Fault(
        "redirect to a file URL",
        status("302 Found", Location="file:///etc/passwd"),
        "found one to file:///etc/passwd",
    ),
    Fault(
        "redirect to a URL that clears the screen",
        status("302 Found", Location="ftp://host/\x1b[2J"),
        r"found one to ftp://host/\x1b[2J; ",
    ),
    Fault(
        "a Content-Type that clears the screen",
        body(HTML, Content_Type="text/\x1b[2J"),
        r"bytes (text/\x1b[2J); ",
    ),
    Fault("redirect to no URL", status("302 Found", Location="http://[x"), "expected a redirect to a URL"),
    Fault("Content-Encoding: gzip that lies", body(PACKED, Content_Encoding="gzip")),
    Fault("Content-Encoding: gzip, and so it is", body(gzip.compress(PACKED), Content_Encoding="gzip"), "gzip"),
    Fault("xz data truncated", body(PACKED[:HALF]), "expected whole xz data", locked(PACKED[:HALF])),
    Fault("xz data corrupt", body(DAMAGED), "expected sound xz data", locked(DAMAGED)),
    Fault("xz data with trailing garbage", body(PACKED + b"x"), "more bytes after it", locked(PACKED + b"x")),
    Fault("xz data of another file", body(pack(b"x")), "once unpacked, found 1 bytes", locked(pack(b"x"))),
    Fault("xz bomb", body(BOMB), f"{len(UNPACKED)} bytes once unpacked, found more", locked(BOMB)),
    Fault("xz data that want 4 GiB of memory", body(HUGE_DICTIONARY), "of memory", locked(HUGE_DICTIONARY)),
]

ELSEWHERE = [
    "redirect to another host, with a token",
    "redirect https to http",
    "a proxy that is not there",
    "a proxy that refuses",
    "a name that does not resolve",
    "a certificate of an unknown authority",
    "a certificate for another host",
    "a certificate that has expired",
    "a folder without the file",
    "a folder with a truncated file",
    "SUPERMACHINE_OFFLINE, nothing in the cache",
    "cache folder read-only",
    "cache folder full",
    "cache folder is a file",
    "cache with a corrupted entry",
    "cache deleted in the middle",
    "kill -9 at 100 random moments",
    "16 builds at once on a cold cache",
    "nginx",
    "nginx, cut off in mid-body",
    "nginx, a truncated file",
    "a whole build, 404",
    "a whole build, wrong bytes",
    "a whole build, SUPERMACHINE_OFFLINE=1",
]


@pytest.fixture(scope="module", autouse=True)
def page() -> Iterator[None]:
    yield
    if faults_page.WRITING:
        faults_page.write([fault.name for fault in FAULTS] + ELSEWHERE)


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"SUPERMACHINE_CACHE_DIR": str(tmp_path / "cache")}


def right(environ: dict[str, str], name: str, capfd: pytest.CaptureFixture[str], lock: LockedSet | None = None) -> None:
    """The fetch gives the right bytes; a note it shows on the way goes to the page."""
    files = fetch(lock or locked(), environ, patience=QUICK)
    assert files["kernel"].read_bytes() == UNPACKED
    assert files["kernel"].parent == Path(environ["SUPERMACHINE_CACHE_DIR"])
    lines = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("fetch")]
    faults_page.record(name, "right bytes", lines[-1] if lines else "")


def refused(environ: dict[str, str], name: str, *parts: str, lock: LockedSet | None = None) -> str:
    """The fetch ends in one clear line, and leaves nothing in the cache."""
    with pytest.raises(BuildError) as error:
        fetch(lock or locked(), environ, patience=QUICK)
    line = str(error.value)
    assert_clear(line, *parts)
    faults_page.record(name, "one line", line)
    left = [path.name for path in Path(environ["SUPERMACHINE_CACHE_DIR"]).glob("*") if path.suffix != ".lock"]
    assert left == []
    return line


def assert_clear(line: str, *parts: str) -> None:
    where, _, rest = line.partition(": ")
    assert "/" in where, "the file or the URL comes first"
    assert "expected " in rest and "found" in rest and "; " in rest
    assert line.isprintable() and "Traceback" not in line and "Errno" not in line
    for part in parts:
        assert part in line


@pytest.mark.parametrize(
    "fault",
    [pytest.param(fault, id=fault.name) for fault in FAULTS],
)
def test_fault(fault: Fault, environ: dict[str, str], capfd: pytest.CaptureFixture[str]) -> None:
    with serve(fault.answer) as host:
        environ["SUPERMACHINE_RELEASE_URL"] = host.url
        if fault.line:
            refused(environ, fault.name, fault.line, host.url, NAME, lock=fault.lock)
        else:
            right(environ, fault.name, capfd)


def test_every_row_has_its_test() -> None:
    assert faults_page.WRITING or faults_page.names() == [fault.name for fault in FAULTS] + ELSEWHERE


def test_a_broken_transfer_goes_on_where_it_stopped(environ: dict[str, str]) -> None:
    with serve(once(half_then_reset)) as host:
        fetch(locked(), {**environ, "SUPERMACHINE_RELEASE_URL": host.url}, patience=QUICK)
    first, second = host.requests
    assert "range" not in first.headers
    assert 0 < second.start <= HALF
    assert second.headers["if-range"] == '"1"'
    assert second.headers["accept-encoding"] == "identity"


def test_the_hosts_wish_to_wait_is_honoured(environ: dict[str, str]) -> None:
    with serve(once(status("503 Service Unavailable", Retry_After=1))) as host:
        started = time.monotonic()
        fetch(locked(), {**environ, "SUPERMACHINE_RELEASE_URL": host.url}, patience=QUICK)
    assert time.monotonic() - started >= 1


def test_an_interrupt_ends_what_a_host_drags_out(environ: dict[str, str], tmp_path: Path) -> None:
    """Ctrl-C: the host would go on for half a minute, and Patience waits for it half an hour."""
    lock = write_lock(tmp_path / "lock", locked_four())
    with serve(head_without_end) as host:
        running = process(lock, {**environ, "SUPERMACHINE_RELEASE_URL": host.url})
        while not host.requests:
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=15)
    assert running.returncode
    assert errors.splitlines()[-1] == "KeyboardInterrupt"


def test_a_bomb_costs_nothing(environ: dict[str, str], tmp_path: Path) -> None:
    """No more is written than the lock allows: the process may not write a file of 1 MiB."""
    bomb = LockedAsset(unpacked=locked_file(UNPACKED), packed=locked_file(BOMB))
    lock = write_lock(tmp_path / "lock", LockedSet(SET, dict.fromkeys(FOUR, bomb)))
    with serve(body(BOMB)) as host:
        environ["SUPERMACHINE_RELEASE_URL"] = host.url
        running = process(lock, environ, limit="ulimit -f 2048")
        _, errors = running.communicate(timeout=60)
    assert running.returncode == 1
    assert f"expected {len(UNPACKED)} bytes once unpacked, found more" in errors


# --- hosts ---


def test_the_token_stays_with_the_release_host(
    environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "netrc").write_text("default login someone password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with serve(body(PACKED)) as other:
        elsewhere = f"http://localhost:{other.port}/{NAME}?signature=1"
        with serve(status("302 Found", Location=elsewhere)) as host:
            environ.update(SUPERMACHINE_RELEASE_URL=host.url, GITHUB_TOKEN="t0ken")
            right(environ, "redirect to another host, with a token", capfd)
    assert [request.headers.get("authorization") for request in host.requests] == ["Bearer t0ken"]
    assert [request.headers.get("authorization") for request in other.requests] == [None]


def test_the_token_is_not_sent_in_the_clear(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A proxy on loopback sees what a plain http host would."""
    with serve(body(PACKED)) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        environ.update(SUPERMACHINE_RELEASE_URL="http://mirror.invalid/releases", GITHUB_TOKEN="t0ken")
        assert fetch(locked(), environ, patience=QUICK)["kernel"].read_bytes() == UNPACKED
    (request,) = proxy.requests
    assert request.path == f"http://mirror.invalid/releases/{release_folder(VERSION)}/{NAME}"
    assert "authorization" not in request.headers
    assert "warning: http://mirror.invalid/releases is not encrypted" in capfd.readouterr().err


def test_a_password_in_the_base_is_used_and_not_shown(
    environ: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    with serve(lambda request, reply: reply.whole(PACKED) if "authorization" in request.headers else None) as host:
        environ["SUPERMACHINE_RELEASE_URL"] = host.url.replace("//", "//user:passw0rd@")
        fetch(locked(), environ, patience=QUICK)
    assert host.requests[0].headers["authorization"].startswith("Basic ")
    assert "passw0rd" not in capfd.readouterr().err


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """An authority that is trusted the way users of requests have theirs trusted."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    return authority


def secured(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


def test_https_with_an_authority_of_ones_own(
    environ: dict[str, str], authority: trustme.CA, capfd: pytest.CaptureFixture[str]
) -> None:
    with serve(once(half_then_reset), tls=secured(authority.issue_cert("127.0.0.1"))) as host:
        environ.update(SUPERMACHINE_RELEASE_URL=host.url, GITHUB_TOKEN="t0ken")
        assert fetch(locked(), environ, patience=QUICK)["kernel"].read_bytes() == UNPACKED
    assert {request.headers.get("authorization") for request in host.requests} == {"Bearer t0ken"}


def test_https_never_falls_to_http(environ: dict[str, str], authority: trustme.CA) -> None:
    with serve(body(PACKED)) as plain:
        answer = status("302 Found", Location=f"{plain.url}/{NAME}")
        with serve(answer, tls=secured(authority.issue_cert("127.0.0.1"))) as host:
            environ["SUPERMACHINE_RELEASE_URL"] = host.url
            refused(environ, "redirect https to http", "expected redirects to https", plain.url)
    assert plain.requests == []


def test_a_certificate_of_an_unknown_authority(environ: dict[str, str], authority: trustme.CA) -> None:
    refused_certificate(environ, "a certificate of an unknown authority", trustme.CA().issue_cert("127.0.0.1"))


def test_a_certificate_for_another_host(environ: dict[str, str], authority: trustme.CA) -> None:
    refused_certificate(environ, "a certificate for another host", authority.issue_cert("mirror.invalid"))


def test_a_certificate_that_has_expired(environ: dict[str, str], authority: trustme.CA) -> None:
    import datetime

    past = datetime.datetime(2001, 1, 1, tzinfo=datetime.timezone.utc)
    expired = authority.issue_cert("127.0.0.1", not_before=past, not_after=past + datetime.timedelta(1))
    refused_certificate(environ, "a certificate that has expired", expired)


def refused_certificate(environ: dict[str, str], name: str, certificate: trustme.LeafCert) -> None:
    with serve(body(PACKED), tls=secured(certificate)) as host:
        environ["SUPERMACHINE_RELEASE_URL"] = host.url
        refused(environ, name, "expected a certificate that fits", "REQUESTS_CA_BUNDLE")
    assert host.requests == []


def test_a_proxy_that_is_not_there(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(reset) as gone:
        pass
    monkeypatch.setenv("HTTPS_PROXY", gone.url)
    environ["SUPERMACHINE_RELEASE_URL"] = "https://mirror.invalid"
    refused(environ, "a proxy that is not there", "the proxy: connection refused", "HTTPS_PROXY")


def test_a_proxy_that_refuses(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(status("403 Forbidden")) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        environ["SUPERMACHINE_RELEASE_URL"] = "https://mirror.invalid"
        refused(environ, "a proxy that refuses", "the proxy", "403", "HTTPS_PROXY")
    assert {request.method for request in proxy.requests} == {"CONNECT"}


def test_a_name_that_does_not_resolve(environ: dict[str, str]) -> None:
    environ["SUPERMACHINE_RELEASE_URL"] = "https://mirror.invalid"
    refused(environ, "a name that does not resolve", "a name that does not resolve (3 tries")


# --- folders ---


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A release base: a folder with the one file."""
    folder = tmp_path / "release" / release_folder(VERSION)
    folder.mkdir(parents=True)
    (folder / NAME).write_bytes(PACKED)
    return folder.parent


@pytest.mark.parametrize("form", ["{}", "file://{}", "file://localhost{}"])
def test_a_folder_needs_no_network(release: Path, environ: dict[str, str], form: str) -> None:
    environ.update(SUPERMACHINE_RELEASE_URL=form.format(release), SUPERMACHINE_OFFLINE="1")
    assert fetch(locked(), environ)["kernel"].read_bytes() == UNPACKED


def test_a_folder_without_the_file(environ: dict[str, str], release: Path) -> None:
    (release / release_folder(VERSION) / NAME).unlink()
    environ["SUPERMACHINE_RELEASE_URL"] = str(release)
    refused(environ, "a folder without the file", "No such file", NAME)


def test_a_folder_with_a_truncated_file(environ: dict[str, str], release: Path) -> None:
    (release / release_folder(VERSION) / NAME).write_bytes(PACKED[:HALF])
    environ["SUPERMACHINE_RELEASE_URL"] = release.as_uri()
    refused(environ, "a folder with a truncated file", f"expected {len(PACKED)} bytes, found {HALF}")


def test_offline_asks_nobody(environ: dict[str, str]) -> None:
    with serve(body(PACKED)) as host:
        environ.update(SUPERMACHINE_RELEASE_URL=host.url, SUPERMACHINE_OFFLINE="TRUE")
        refused(environ, "SUPERMACHINE_OFFLINE, nothing in the cache", "no sound file", host.url)
    assert host.requests == []


# --- the cache ---


def write_lock(path: Path, lock: LockedSet) -> Path:
    path.write_text(format_lock(Lock(VERSION, {SET: lock})), encoding="utf-8")
    return path


def four(name: str) -> tuple[bytes, bytes]:
    """Small contents for each of the four names, unpacked and packed."""
    content = random.Random(name).randbytes(40_000)
    return content, pack(content)


FOUR = {asset.name: four(asset.name) for asset in ASSETS}


def locked_four() -> LockedSet:
    return LockedSet(
        SET,
        {
            name: LockedAsset(unpacked=locked_file(content), packed=locked_file(packed))
            for name, (content, packed) in FOUR.items()
        },
    )


def serve_four(pause: float) -> contextlib.AbstractContextManager[FaultyHost]:
    """A slow host of all four files: 4 KiB, then `pause` seconds."""

    def answer(request: Request, reply: Reply) -> None:
        name = request.path.rpartition("/")[2].removeprefix(f"{SET}-").removesuffix(".xz")
        reply.head("200 OK", Content_Length=len(FOUR[name][1]))
        reply.trickle(FOUR[name][1], 4096, pause)

    return serve(answer)


def process(lock: Path, environ: dict[str, str], *arguments: str, limit: str = "true") -> subprocess.Popen[str]:
    """Fetch in a process of its own, under the shell's `limit`."""
    shell = ["sh", "-c", f'{limit} && exec "$@"', "sh"]
    command = [*shell, sys.executable, "-m", "tests.support.fetch_process", str(lock), *arguments]
    project = Path(__file__).resolve().parents[2]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=project, env={**os.environ, **environ}, stdout=pipe, stderr=pipe, text=True)


def assert_right_four(output: str) -> None:
    found = {name: digest for name, (_, digest) in json.loads(output).items()}
    assert found == {name: asset.unpacked.sha256 for name, asset in locked_four().assets.items()}


def test_the_cache_is_read_only(environ: dict[str, str], tmp_path: Path) -> None:
    """What it holds is used; what it lacks is fetched for this build alone, and goes with it."""
    cache = tmp_path / "cache"
    cache.mkdir()
    held = locked_four().assets["kernel"].unpacked
    (cache / held.sha256).write_bytes(FOUR["kernel"][0])
    write_lock(tmp_path / "lock", locked_four())
    open_to_all(tmp_path)
    cache.chmod(0o555)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    temporary.chmod(0o777)
    with serve_four(0) as host:
        environ.update(SUPERMACHINE_RELEASE_URL=host.url, TMPDIR=str(temporary))
        running = process(tmp_path / "lock", environ, "--as-nobody")
        output, notes = running.communicate(timeout=60)
    cache.chmod(0o755)
    assert running.returncode == 0, notes
    assert_right_four(output)
    assert len(host.requests) == 3
    assert [path.name for path in cache.iterdir()] == [held.sha256]
    assert list(temporary.iterdir()) == []
    (note,) = [line for line in notes.splitlines() if not line.startswith("fetch")]
    faults_page.record("cache folder read-only", "right bytes", note)


def open_to_all(folder: Path) -> None:
    """pytest's folders are their owner's alone; the unprivileged user must come through."""
    for path in (folder, *folder.parents):
        with contextlib.suppress(PermissionError):
            path.chmod(path.stat().st_mode | 0o055)
        if path.name.startswith("pytest-of-"):
            return


@pytest.mark.skipif(sys.platform != "linux", reason="tmpfs is Linux's")
def test_the_cache_is_full(environ: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "full"
    folder.mkdir()
    prefix = [] if os.geteuid() == 0 else ["sudo", "-n"]
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k,mode=0777", "tmpfs", str(folder)]
    subprocess.run([*prefix, *mount], check=True)
    try:
        with serve(body(PACKED)) as host:
            environ.update(SUPERMACHINE_RELEASE_URL=host.url, SUPERMACHINE_CACHE_DIR=str(folder))
            refused(environ, "cache folder full", "No space left on device", "SUPERMACHINE_CACHE_DIR", str(folder))
    finally:
        subprocess.run([*prefix, "umount", str(folder)], check=True)


def test_a_file_is_where_the_cache_should_be(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("not a folder")
    refused(environ, "cache folder is a file", "found a file in its way", "SUPERMACHINE_CACHE_DIR")


@pytest.mark.parametrize("damage", [b"", UNPACKED[:-1], bytes(len(UNPACKED))], ids=["empty", "short", "zeros"])
def test_a_corrupted_entry_is_fetched_anew(
    environ: dict[str, str], tmp_path: Path, damage: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    entry = tmp_path / "cache" / locked_file(UNPACKED).sha256
    entry.parent.mkdir()
    entry.write_bytes(damage)
    with serve(body(PACKED)) as host:
        environ["SUPERMACHINE_RELEASE_URL"] = host.url
        right(environ, "cache with a corrupted entry", capfd)
    assert entry.read_bytes() == UNPACKED
    assert len(host.requests) == 1


def test_the_cache_is_deleted_in_the_middle(
    environ: dict[str, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def answer(request: Request, reply: Reply) -> None:
        half(request, reply)
        if request.number == 1:
            shutil.rmtree(tmp_path / "cache")
        reply.send(PACKED[HALF:])

    with serve(answer) as host:
        environ["SUPERMACHINE_RELEASE_URL"] = host.url
        right(environ, "cache deleted in the middle", capfd)


@pytest.mark.slow
def test_killed_at_any_moment(environ: dict[str, str], tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    lock = write_lock(tmp_path / "lock", locked_four())
    project = Path(__file__).resolve().parents[2]
    with serve_four(0.02) as host:
        environ["SUPERMACHINE_RELEASE_URL"] = host.url
        command = [sys.executable, "-m", "tests.support.fetch_killed", str(lock), str(seed), "100", "0.3"]
        done = subprocess.run(
            command, cwd=project, env={**os.environ, **environ}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        middle = json.loads(done.stdout)["killed in the middle"]
        assert middle >= 20, f"{middle} of 100 were killed in the middle: the moments miss the fetch"
        running = process(lock, environ)
        output, errors = running.communicate(timeout=60)
    assert running.returncode == 0, errors
    assert_right_four(output)
    faults_page.record("kill -9 at 100 random moments", "right bytes", "")


@pytest.mark.slow
def test_many_builds_at_once(environ: dict[str, str], tmp_path: Path) -> None:
    """Each file is asked for once: the others wait for the one that fetches it."""
    lock = write_lock(tmp_path / "lock", locked_four())
    with serve_four(0.05) as host:
        environ["SUPERMACHINE_RELEASE_URL"] = host.url
        running = [process(lock, environ) for _ in range(16)]
        outputs = [one.communicate(timeout=120) for one in running]
    for one, (output, errors) in zip(running, outputs):
        assert one.returncode == 0, errors
        assert_right_four(output)
    assert sorted(request.path for request in host.requests) == sorted(
        f"/{release_folder(VERSION)}/{packed_name(SET, name)}" for name in FOUR
    )
    faults_page.record("16 builds at once on a cold cache", "right bytes", "")


def test_many_threads_on_a_corrupted_cache(environ: dict[str, str], tmp_path: Path) -> None:
    """None takes away what another has just put there."""
    cache = tmp_path / "cache"
    cache.mkdir()
    for asset in locked_four().assets.values():
        (cache / asset.unpacked.sha256).write_bytes(b"damaged")
    start = threading.Barrier(8)
    with serve_four(0) as host, ThreadPoolExecutor(8) as pool:
        environ["SUPERMACHINE_RELEASE_URL"] = host.url

        def build(_: int) -> dict[str, bytes]:
            start.wait()
            return {name: path.read_bytes() for name, path in fetch(locked_four(), environ).items()}

        for files in pool.map(build, range(8)):
            assert files == {name: content for name, (content, _) in FOUR.items()}


# --- a real server ---


def test_nginx(environ: dict[str, str], release: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with nginx.serve(release, tmp_path / "nginx") as port:
        environ["SUPERMACHINE_RELEASE_URL"] = f"http://127.0.0.1:{port}"
        right(environ, "nginx", capfd)
        shutil.rmtree(tmp_path / "cache")
        with cut(port, HALF) as url:
            environ["SUPERMACHINE_RELEASE_URL"] = url
            right(environ, "nginx, cut off in mid-body", capfd)
        shutil.rmtree(tmp_path / "cache")
        (release / release_folder(VERSION) / NAME).write_bytes(PACKED[:HALF])
        environ["SUPERMACHINE_RELEASE_URL"] = f"http://127.0.0.1:{port}"
        refused(environ, "nginx, a truncated file", f"expected {len(PACKED)} bytes, found {HALF} bytes")
    served = [line.split(" ", 2) for line in (tmp_path / "nginx" / "access.log").read_text().splitlines()]
    assert [(line[0], line[2].startswith("bytes=")) for line in served] == [
        ("200", False),
        ("200", False),
        ("206", True),
        ("200", False),
    ]


# --- the whole build ---


def build(checkout: Path, out: Path, environ: dict[str, str]) -> str:
    """What `pip wheel` prints, of a build that fails and leaves no wheel."""
    write_lock(checkout / LOCK_NAME, locked_four())
    pip = [str(environments.ensure("build")), "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    inside = {**os.environ, **environ, "SUPERMACHINE_KERNEL_BUILD": ""}
    done = subprocess.run(
        [*pip, "--wheel-dir", str(out), str(checkout)], env=inside, capture_output=True, text=True, check=False
    )
    assert done.returncode
    assert not list(out.glob("*.whl"))
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout + done.stderr


def zeros(request: Request, reply: Reply) -> None:
    """The magic of xz and then nothing, of the right size."""
    sizes = {packed_name(SET, name): len(packed) for name, (_, packed) in FOUR.items()}
    reply.whole(PACKED[:6] + bytes(sizes[request.path.rpartition("/")[2]] - 6))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "answer", "part"),
    [
        ("a whole build, 404", status("404 Not Found"), "found 404 Not Found"),
        ("a whole build, wrong bytes", zeros, "expected sound xz data"),
    ],
    ids=["404", "wrong bytes"],
)
def test_a_whole_build(
    name: str, answer: Answer, part: str, copy_of_checkout: Path, environ: dict[str, str], tmp_path: Path
) -> None:
    with serve(answer) as host:
        environ["SUPERMACHINE_RELEASE_URL"] = host.url
        output = build(copy_of_checkout, tmp_path / "out", environ)
    (line,) = {line.partition("error: ")[2] for line in output.splitlines() if "error: http" in line}
    assert_clear(line, part, host.url)
    faults_page.record(name, "one line, no wheel", line)


@pytest.mark.slow
def test_a_whole_build_offline(copy_of_checkout: Path, environ: dict[str, str], tmp_path: Path) -> None:
    """Acceptance: the sources tried, in order, and what to do for each."""
    environ["SUPERMACHINE_OFFLINE"] = "1"
    output = build(copy_of_checkout, tmp_path / "out", environ)
    message = output[output.index("error: no asset set") :]
    steps = ["1. override: ", "2. tree: ", "3. release: "]
    assert [message.count(step) for step in steps] == [1, 1, 1]
    assert [message.index(step) for step in steps] == sorted(message.index(step) for step in steps)
    for cure in ("SUPERMACHINE_ASSETS_DIR", "build.sh", "SUPERMACHINE_RELEASE_URL", "SUPERMACHINE_CACHE_DIR"):
        assert cure in message
    (line,) = [line.strip() for line in message.splitlines() if "3. release: " in line]
    faults_page.record("a whole build, SUPERMACHINE_OFFLINE=1", "the sources tried, no wheel", line)
