"""Debian's own programs in a guest over AF_TSI, against real servers at this machine's loopback, and the other way."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from scripts.machine.packages import install_commands
from tests.support.guest import compile_guest_program, compile_with_musl
from tests.support.index import free_port
from tests.support.network_guest import NetworkGuest, network_guest
from tests.support.network_storm import storm
from tests.support.tsi_host import Servers

pytestmark = pytest.mark.slow

SIZE = 1_000_000
NAME = "name.test"
ASYNCIO_SERVER = """\
import asyncio
async def serve(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
async def main():
    server = await asyncio.start_server(serve, "0.0.0.0", 7007)
    await server.serve_forever()
asyncio.run(main())
"""
ASYNCIO_CLIENTS = """\
import asyncio, sys
async def client(number):
    reader, writer = await asyncio.open_connection("127.0.0.1", int(sys.argv[1]))
    data = bytes([number % 256]) * 20000
    writer.write(data)
    writer.write_eof()
    back = await reader.read(-1)
    writer.close()
    return back == data
async def main():
    print(sum(await asyncio.gather(*(client(number) for number in range(50)))))
asyncio.run(main())
"""


class Web(NamedTuple):
    """An nginx of this machine: its ports for HTTP/1.1 and HTTP/2, both in clear, and its folder."""

    port: int
    http2_port: int
    folder: Path


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """It has a file of some megabytes."""
    install_commands(["nginx"])
    folder = tmp_path_factory.mktemp("web")
    (folder / "file").write_bytes(os.urandom(SIZE))
    found = Web(free_port(), free_port(), folder)
    paths = " ".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    servers = f"server {{ listen 127.0.0.1:{found.port}; }} server {{ listen 127.0.0.1:{found.http2_port} http2; }}"
    (folder / "nginx.conf").write_text(
        f"daemon off; user root; pid {folder}/pid; events {{ }}"
        f" http {{ access_log off; root {folder}; {paths} {servers} }}"
    )
    with running(["nginx", "-c", str(folder / "nginx.conf"), "-e", str(folder / "log")], found.port):
        yield found


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a dnsmasq here that knows one name."""
    install_commands(["dnsmasq"])
    port = free_port()
    command = [
        "dnsmasq",
        "--keep-in-foreground",
        "--no-resolv",
        "--no-hosts",
        "--conf-file=/dev/null",
        "--bind-interfaces",
    ]
    command += [
        "--listen-address=127.0.0.1",
        f"--port={port}",
        f"--address=/{NAME}/127.0.0.1",
        "--user=root",
        "--pid-file=",
    ]
    with running(command, port):
        yield port


@pytest.fixture(scope="module")
def booted(built_set: Path, tmp_path_factory: pytest.TempPathFactory, web: Web, names: int) -> Iterator[NetworkGuest]:
    """One boot with curl and Python."""
    with network_guest(built_set, tmp_path_factory.mktemp("programs"), ["curl", "python3"]) as found:
        found.host.redirects.update({80: web.port, 8002: web.http2_port, 53: names})
        yield found


@contextlib.contextmanager
def running(command: list[str], port: int) -> Iterator[None]:
    """A server of this machine, once its port is open, until the end of the context."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            end = time.monotonic() + 60
            while not listens(port):
                assert server.poll() is None, f"{command[0]} ended with {server.returncode}"
                assert time.monotonic() < end
                time.sleep(0.05)
            yield
        finally:
            server.terminate()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def here(*command: str) -> str:
    """What a program of this machine prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("options", ["--http1.1 --parallel", "--http1.1"])
def test_curl_fetches_ten_files(booted: NetworkGuest, web: Web, options: str) -> None:
    """By a name: at once over ten connections, or one after another over one."""
    files = " ".join(f"--output file.{n} http://{NAME}/file" for n in range(10))
    curl = f"curl {options} --no-progress-meter --fail {files}"
    sums = booted.run(f"cd /tmp && {curl} 2> /dev/null && sha256sum file.* | cut -c 1-64 | uniq && rm file.*")
    assert sums.split() == [digest(web.folder / "file")]


def test_curl_fetches_over_http2(booted: NetworkGuest, web: Web) -> None:
    """A connection for each file: curl 7.88 uses none twice in clear HTTP/2, with any server and network."""
    curl = f"curl --http2-prior-knowledge --no-progress-meter --fail http://{NAME}:8002/file"
    sums = booted.run(f"for n in $(seq 5); do {curl} | sha256sum; done | cut -c 1-64 | uniq")
    assert sums.split() == [digest(web.folder / "file")]


def test_curl_uploads(booted: NetworkGuest) -> None:
    """To a server of the guest's own, through the host: out and in again."""
    at = booted.start("cd /tmp && python3 -m http.server --bind 127.0.0.1 7001", 7001)
    booted.host.redirects[7002] = int(at.rpartition(":")[2])
    booted.run("head -c 2000000 /dev/urandom > /tmp/data")
    sums = booted.run("curl --silent --fail http://127.0.0.1:7002/data | sha256sum; sha256sum < /tmp/data")
    assert len(set(sums.split())) == 2


def test_the_guest_serves_http(booted: NetworkGuest) -> None:
    at = booted.start(
        "mkdir /tmp/www; cp /etc/passwd /tmp/www; cd /tmp/www; python3 -m http.server --bind :: 7003", 7003
    )
    for _ in range(20):
        assert here("curl", "--silent", "--fail", "--noproxy", "*", f"http://{at}/passwd") == booted.run(
            "cat /etc/passwd"
        )


def test_the_resolver_of_glibc(booted: NetworkGuest) -> None:
    assert booted.run(f"getent hosts {NAME}").split() == ["127.0.0.1", NAME]
    assert booted.run("getent hosts other.test || echo unknown") == "unknown\n"
    assert booted.run(f"python3 -c 'import socket; print(socket.gethostbyname(\"{NAME}\"))'") == "127.0.0.1\n"


def test_a_name_with_addresses_of_both_families(booted: NetworkGuest) -> None:
    """glibc asks a socket for the source of each, and aborts if an IPv4 address has none."""
    program = "import socket; print(len(socket.getaddrinfo('localhost', 80)))"
    assert int(booted.run(f'python3 -c "{program}"')) >= 2


def test_the_resolver_of_musl(booted: NetworkGuest, tmp_path: Path) -> None:
    """It asks with sendto() from one socket, where glibc connects."""
    booted.agent.write("/tmp/resolve", compile_with_musl("resolve.c", tmp_path), 0o755)
    assert booted.run(f"/tmp/resolve {NAME}") == "127.0.0.1\n"


def test_asyncio_serves(booted: NetworkGuest, tmp_path: Path) -> None:
    booted.agent.write("/tmp/server.py", ASYNCIO_SERVER.encode())
    port = booted.start("python3 /tmp/server.py", 7007).rpartition(":")[2]
    (tmp_path / "clients.py").write_text(ASYNCIO_CLIENTS)
    assert here(sys.executable, str(tmp_path / "clients.py"), port) == "50\n"


def test_asyncio_connects(booted: NetworkGuest, tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "server.py").write_text(ASYNCIO_SERVER.replace("7007", str(port)))
    booted.agent.write("/tmp/clients.py", ASYNCIO_CLIENTS.encode())
    with running([sys.executable, str(tmp_path / "server.py")], port):
        assert booted.run(f"python3 /tmp/clients.py {port}") == "50\n"


def test_a_sample_of_the_load(booted: NetworkGuest, tmp_path: Path) -> None:
    """Streams at once, connections in a row, megabytes each way and datagrams; test_network_load.py has many more."""
    booted.agent.write("/tmp/load", compile_guest_program("tsi-load.c", tmp_path), 0o755)
    with Servers(lambda port: booted.host.wait_for_listener(port, 20)) as servers:
        for what, number in (("streams", 50), ("connections", 100), ("give", 4 << 20), ("take", 4 << 20)):
            assert booted.run(f"/tmp/load {what} {servers.port} {number}") == f"{number} good\n"
        storm(booted, servers, 1000)
