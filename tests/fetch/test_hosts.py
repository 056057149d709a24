"""Who a fetch talks to: credentials, certificates, proxies and names, with real servers on loopback."""

from __future__ import annotations

import contextlib
import datetime
import http.server
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from scripts.asset_build.errors import BuildError
from scripts.asset_build.fetch.locked_files import fetch
from scripts.asset_build.fetch.session import is_loopback
from scripts.asset_build.release_layout import release_folder
from supermachine_kernel._version import VERSION
from tests.support.faults_page import injects
from tests.support.faulty import Answer, Reply, Request, serve
from tests.support.small_release import (
    FOUR,
    LOCKED_FOUR,
    NAME,
    PACKED,
    PACKED_FOUR,
    assert_refused,
    assert_right_bytes,
)


def whole(request: Request, reply: Reply) -> None:
    reply.whole(PACKED)


def redirect(target: str) -> Answer:
    return lambda request, reply: reply.whole(b"", "302 Found", Location=target.format(host=request.headers["host"]))


@pytest.fixture
def netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's netrc file, whose `default` entry fits any host."""
    path = tmp_path / "netrc"
    path.write_text("default login someone password s3cret\n")
    monkeypatch.setenv("NETRC", str(path))
    return path


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


# --- credentials ---


@injects("other host")
def test_neither_token_nor_netrc_entry_goes_to_a_host_redirected_to(environ: dict[str, str], netrc: Path) -> None:
    with serve(whole) as other, serve(redirect(f"http://localhost:{other.port}/{NAME}?signature=1")) as host:
        assert_right_bytes({**environ, "SUPERMACHINE_RELEASE_URL": host.url, "GITHUB_TOKEN": "t0ken"})
    assert [request.headers.get("authorization") for request in host.requests] == ["Bearer t0ken"]
    assert [request.headers.get("authorization") for request in other.requests] == [None]


def test_the_token_does_not_come_back_with_a_redirect_from_another_host(environ: dict[str, str]) -> None:
    """The other host chooses the path, and would be shown what lies there."""

    def answer(request: Request, reply: Reply) -> None:
        if request.path == "/chosen":
            whole(request, reply)
        else:
            redirect(f"http://localhost:{other.port}/")(request, reply)

    with serve(answer) as host, serve(redirect(f"{host.url}/chosen")) as other:
        assert_right_bytes({**environ, "SUPERMACHINE_RELEASE_URL": host.url, "GITHUB_TOKEN": "t0ken"})
    assert [request.headers.get("authorization") for request in host.requests] == ["Bearer t0ken", None]


def test_the_token_goes_along_with_a_redirect_on_the_same_host(environ: dict[str, str]) -> None:
    def answer(request: Request, reply: Reply) -> None:
        (whole if request.path == "/moved" else redirect("/moved"))(request, reply)

    with serve(answer) as host:
        assert_right_bytes({**environ, "SUPERMACHINE_RELEASE_URL": host.url, "GITHUB_TOKEN": " t0ken\n"})
    assert [request.headers.get("authorization") for request in host.requests] == ["Bearer t0ken"] * 2


def test_a_redirect_that_two_parsers_read_in_two_ways_is_refused(environ: dict[str, str]) -> None:
    """It would be checked as one of the release host, which gets the token, and be sent to the other."""
    with serve(whole) as other, serve(redirect(f"{other.url}\\@{{host}}/x")) as host:
        environ.update(SUPERMACHINE_RELEASE_URL=host.url, GITHUB_TOKEN="t0ken")
        assert_refused(environ, "expected a redirect to a URL")
    assert other.requests == []


def test_no_credentials_go_over_plain_http(
    environ: dict[str, str], netrc: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A proxy on loopback sees what a plain http host would."""
    with serve(whole) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        environ.update(SUPERMACHINE_RELEASE_URL="HTTP://user:pw@mirror.invalid/releases", GITHUB_TOKEN="t0ken")
        assert_right_bytes(environ)
    (request,) = proxy.requests
    assert request.path == f"http://mirror.invalid/releases/{release_folder(VERSION)}/{NAME}"
    assert "authorization" not in request.headers
    assert "warning: http://mirror.invalid/releases is not encrypted" in capfd.readouterr().err


def test_a_password_in_the_base_is_used_and_not_shown(
    environ: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    with serve(whole) as host:
        environ["SUPERMACHINE_RELEASE_URL"] = host.url.replace("//", "//user:s3cret@")
        assert_right_bytes(environ)
    assert host.requests[0].headers["authorization"].startswith("Basic ")
    assert "s3cret" not in capfd.readouterr().err


@injects("credentials")
@pytest.mark.parametrize("token", ["s3cret s3cret", "s3cret\ns3cret", "s3cret\u20ac", "s3cret\xe9", "s3cret\x7f"])
def test_a_token_that_no_header_can_carry_is_refused_and_not_shown(token: str, environ: dict[str, str]) -> None:
    environ.update(SUPERMACHINE_RELEASE_URL="https://mirror.invalid", GITHUB_TOKEN=token)
    with pytest.raises(BuildError, match="GITHUB_TOKEN") as refused:
        assert_right_bytes(environ)
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
def test_a_base_that_cannot_be_asked_is_not_shown_whole(base: str, part: str, environ: dict[str, str]) -> None:
    line = str(assert_refused({**environ, "SUPERMACHINE_RELEASE_URL": base}, part))
    assert "s3c" not in line


def test_a_netrc_file_in_latin_1_is_named(environ: dict[str, str], netrc: Path) -> None:
    netrc.write_bytes("default login M\xfcller password s3cret\n".encode("latin-1"))
    with serve(whole) as host:
        error = assert_refused({**environ, "SUPERMACHINE_RELEASE_URL": host.url}, "a netrc file in UTF-8", "NETRC")
    assert "s3cret" not in str(error)


# --- certificates ---


def test_https_takes_the_users_own_authority_and_the_token(environ: dict[str, str], authority: trustme.CA) -> None:
    def broken_once(request: Request, reply: Reply) -> None:
        if request.number == 1:
            reply.head("200 OK", Content_Length=len(PACKED))
            reply.send(PACKED[:1000])
        else:
            reply.honour(request, PACKED)

    with serve(broken_once, tls=secured(authority.issue_cert("127.0.0.1"))) as host:
        assert_right_bytes({**environ, "SUPERMACHINE_RELEASE_URL": host.url, "GITHUB_TOKEN": "t0ken"})
    assert [request.headers.get("authorization") for request in host.requests] == ["Bearer t0ken"] * 2


@injects("bad redirect")
def test_https_is_not_redirected_to_http(environ: dict[str, str], authority: trustme.CA) -> None:
    with serve(whole) as plain:
        certificate = authority.issue_cert("127.0.0.1")
        with serve(redirect(f"{plain.url}/{NAME}"), tls=secured(certificate)) as host:
            assert_refused({**environ, "SUPERMACHINE_RELEASE_URL": host.url}, "redirects to https alone", plain.url)
    assert plain.requests == []


@pytest.mark.slow
def test_a_head_that_trickles_over_https_ends_at_the_deadline(environ: dict[str, str], authority: trustme.CA) -> None:
    def trickle(request: Request, reply: Reply) -> None:
        reply.send(b"HTTP/1.1 200 OK\r\n")
        reply.trickle(b"X: " + bytes(1000), 1, 0.3)

    started = time.monotonic()
    with serve(trickle, tls=secured(authority.issue_cert("127.0.0.1"))) as host:
        assert_refused({**environ, "SUPERMACHINE_RELEASE_URL": host.url}, "0 bytes by the end of 6 s")
        assert time.monotonic() - started < 100


@injects("certificate")
@pytest.mark.parametrize("fault", ["unknown authority", "other host", "expired"])
def test_a_certificate_that_does_not_fit_is_refused(fault: str, environ: dict[str, str], authority: trustme.CA) -> None:
    past = datetime.datetime(2001, 1, 1, tzinfo=datetime.timezone.utc)
    certificate = {
        "unknown authority": lambda: trustme.CA().issue_cert("127.0.0.1"),
        "other host": lambda: authority.issue_cert("mirror.invalid"),
        "expired": lambda: authority.issue_cert("127.0.0.1", not_before=past, not_after=past + datetime.timedelta(1)),
    }[fault]()
    with serve(whole, tls=secured(certificate)) as host:
        environ["SUPERMACHINE_RELEASE_URL"] = host.url
        assert_refused(environ, "expected a certificate that fits", "REQUESTS_CA_BUNDLE")
    assert host.requests == []


@pytest.mark.parametrize("content", [None, "", "no certificate\n"], ids=["missing", "empty", "text"])
def test_a_bundle_that_is_none_is_named(
    content: str | None, environ: dict[str, str], authority: trustme.CA, tmp_path: Path
) -> None:
    (tmp_path / "ca.pem").unlink()
    if content is not None:
        (tmp_path / "ca.pem").write_text(content)
    with serve(whole, tls=secured(authority.issue_cert("127.0.0.1"))) as host:
        environ["SUPERMACHINE_RELEASE_URL"] = host.url
        started = time.monotonic()
        assert_refused(environ, "REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
        assert time.monotonic() - started < 20, "another try ends the same"


def test_a_bundle_that_is_none_does_not_matter_to_a_host_on_loopback(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere")
    with serve(whole) as host:
        assert_right_bytes({**environ, "SUPERMACHINE_RELEASE_URL": host.url})


# --- connections ---


@contextlib.contextmanager
def polite_host() -> Iterator[tuple[str, list[object]]]:
    """A host that keeps connections open and redirects to another name of its own; its URL and its connections."""
    connections: list[object] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            connections.append(self.client_address)
            super().setup()

        def do_GET(self) -> None:
            _, folder, name = self.path.split("/")
            content = b"" if folder == release_folder(VERSION) else PACKED_FOUR[name]
            self.send_response(200 if content else 302)
            if not content:
                self.send_header("Location", f"http://localhost:{server.server_port}/files/{name}")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}", connections
        server.shutdown()


def test_all_files_come_over_one_connection_to_each_host(environ: dict[str, str]) -> None:
    with polite_host() as (url, connections):
        files = fetch(LOCKED_FOUR, {**environ, "SUPERMACHINE_RELEASE_URL": url})
    assert {name: path.read_bytes() for name, path in files.items()} == FOUR
    assert len(connections) == 2, "the host, and the one that it redirects to"


# --- proxies and names ---


@injects("proxy")
def test_a_proxy_that_is_not_there_is_named(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(whole) as gone:
        pass
    monkeypatch.setenv("HTTPS_PROXY", gone.url)
    environ["SUPERMACHINE_RELEASE_URL"] = "https://mirror.invalid"
    assert_refused(environ, "the proxy: connection refused", "HTTPS_PROXY")


def test_a_proxy_that_refuses_is_named(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(lambda request, reply: reply.whole(b"no\n", "403 Forbidden")) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        environ["SUPERMACHINE_RELEASE_URL"] = "https://mirror.invalid"
        assert_refused(environ, "the proxy", "403", "HTTPS_PROXY")
    assert {request.method for request in proxy.requests} == {"CONNECT"}


def test_what_a_server_says_instead_of_http_fills_no_error_line(environ: dict[str, str]) -> None:
    """Neither with much of it, nor with what speaks to the terminal."""
    with serve(lambda request, reply: reply.send(b"\x1b[2J" + b"x" * 20_000 + b"\r\n\r\n")) as host:
        environ["SUPERMACHINE_RELEASE_URL"] = host.url
        error = assert_refused(environ, "xxxx")
    assert len(error.found) < 300


@pytest.mark.slow
def test_a_proxy_that_trickles_ends_at_the_deadline(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(lambda request, reply: reply.trickle(b"HTTP/1.1 503 " + b"x" * 1000, 1, 0.3)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        environ["SUPERMACHINE_RELEASE_URL"] = "https://mirror.invalid"
        assert_refused(environ, "0 bytes by the end of 6 s")


def test_a_socks_proxy_is_refused_by_its_kind(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    environ["SUPERMACHINE_RELEASE_URL"] = "https://mirror.invalid"
    assert_refused(environ, "found a SOCKS proxy", "ALL_PROXY")


@injects("name")
def test_a_name_that_does_not_resolve_is_said(environ: dict[str, str]) -> None:
    assert_refused({**environ, "SUPERMACHINE_RELEASE_URL": "https://mirror.invalid"}, "mirror.invalid", "(3 tries")


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
def test_only_this_machine_is_loopback(url: str, expected: bool) -> None:
    assert is_loopback(url) is expected
