"""Images of Debian's servers, run by scripts/boot.py --oci as its users do: on demand, as each takes minutes."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.support import debian
from tests.support.index import free_port
from tests.support.oci_layout import entry, layer, write

pytestmark = [pytest.mark.slow, pytest.mark.ondemand]

LIMIT = 900
"""Seconds for one image, on a machine that does many things at once."""
POSTGRES = """#!/bin/sh -e
bin=$(echo /usr/lib/postgresql/*/bin)
$bin/initdb -D /tmp/data -A trust -E UTF8 --locale=C > /tmp/log
$bin/pg_ctl -D /tmp/data -o "-k /tmp" -w -t 300 -l /tmp/log start > /dev/null
psql -h /tmp -Atc 'select count(*), sum(n) from (select generate_series(1, 100000) as n) as numbers' postgres
psql -h 127.0.0.1 -Atc 'create table kept (n int); insert into kept select 7; select n from kept' postgres
$bin/pg_ctl -D /tmp/data -w -m fast stop > /dev/null
"""
APPLICATION = """
from flask import Flask, request
application = Flask("sums")

@application.get("/sum")
def add():
    return {"sum": int(request.args["a"]) + int(request.args["b"])}

application.run(host="0.0.0.0", port=8000)
"""
UNIT = """\
[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'echo "multi-user.target is $(systemctl is-active multi-user.target)" > /dev/console'
ExecStart=systemctl --no-block {end}
"""


def files(contents: Mapping[str, str]) -> bytes:
    """A layer with these files."""
    modes = {name: 0o755 if text.startswith("#!") else 0o644 for name, text in contents.items()}
    return layer(*(entry(name, data=text.encode(), mode=modes[name]) for name, text in contents.items()))


def command(project: Path, assets: Path, layout: Path, *options: str) -> list[str]:
    program = [sys.executable, str(project / "scripts" / "boot.py"), "--oci", str(layout), "--memory", "1G"]
    return [*program, "--cpus", "2", *options, str(assets)]


@contextlib.contextmanager
def served(project: Path, assets: Path, layout: Path, port: int) -> Iterator[Callable[[], socket.socket]]:
    """An image whose port is one of this machine's; a function that connects to it, once it accepts."""
    here = free_port()
    with subprocess.Popen(command(project, assets, layout, "--port", f"{here}:{port}")) as process:

        def connect() -> socket.socket:
            end = time.monotonic() + LIMIT
            while process.poll() is None and time.monotonic() < end:
                with contextlib.suppress(OSError):
                    return socket.create_connection(("127.0.0.1", here), timeout=LIMIT)
                time.sleep(0.5)
            raise AssertionError(f"nothing listens at the image's port {port}; boot.py: {process.poll()}")

        try:
            yield connect
        finally:
            process.terminate()


def fetch(connect: Callable[[], socket.socket], path: str) -> str:
    """A page over HTTP."""
    with connect() as probe:
        host, port = probe.getpeername()
    with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=LIMIT) as answer:
        return bytes(answer.read()).decode()


def test_nginx_serves_a_page(project: Path, built_set: Path, tmp_path: Path) -> None:
    own = files(
        {"etc/nginx/sites-enabled/default": "server { listen 80; root /srv; }\n", "srv/index.html": "a page\n"},
    )
    config = {"Entrypoint": ["nginx"], "Cmd": ["-g", "daemon off;"]}
    layout = write(tmp_path / "layout", [debian.layer("nginx-light").read_bytes(), own], config)
    with served(project, built_set, layout, 80) as connect:
        assert fetch(connect, "/index.html") == "a page\n"
        assert fetch(connect, "/") == "a page\n"


def test_redis_answers(project: Path, built_set: Path, tmp_path: Path) -> None:
    config = {"Entrypoint": ["redis-server"], "Cmd": ["--save", "", "--protected-mode", "no"], "User": "1000:1000"}
    layout = write(tmp_path / "layout", [debian.layer("redis-server").read_bytes()], config)
    with served(project, built_set, layout, 6379) as connect, connect() as redis:
        answers = redis.makefile("rb")
        for asked, said in ((b"PING", b"+PONG"), (b"SET key value", b"+OK"), (b"GET key", b"$5")):
            redis.sendall(asked + b"\r\n")
            assert answers.readline() == said + b"\r\n"
        assert answers.readline() == b"value\r\n"


def test_postgres_makes_a_database_and_answers(project: Path, built_set: Path, tmp_path: Path) -> None:
    own = files({"entrypoint": POSTGRES, "etc/passwd": "root:x:0:0::/:/bin/sh\npostgres:x:100:100::/tmp:/bin/sh\n"})
    layers = [debian.layer("postgresql").read_bytes(), own]
    layout = write(tmp_path / "layout", layers, {"Entrypoint": ["/entrypoint"], "User": "postgres"})
    done = subprocess.run(
        command(project, built_set, layout), capture_output=True, text=True, check=False, timeout=LIMIT
    )
    assert (done.returncode, done.stdout.splitlines()[:1]) == (0, ["100000|5000050000"]), done.stderr
    assert done.stdout.splitlines()[-1] == "7"


def test_a_python_application_answers(project: Path, built_set: Path, tmp_path: Path) -> None:
    layers = [debian.layer("python3-flask").read_bytes(), files({"srv/sums.py": APPLICATION})]
    config = {"Cmd": ["python3", "sums.py"], "WorkingDir": "/srv", "User": "33:33"}
    layout = write(tmp_path / "layout", layers, config)
    with served(project, built_set, layout, 8000) as connect:
        assert fetch(connect, "/sum?a=3&b=4") == '{"sum":7}\n'


@pytest.mark.parametrize(("end", "status"), [("poweroff", 0), ("exit 7", 7)], ids=["poweroff", "exit"])
def test_systemd_reaches_a_target_and_ends_the_guest(
    project: Path, built_set: Path, tmp_path: Path, end: str, status: int
) -> None:
    own = files(
        {
            "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
            "etc/systemd/system/default.target": "[Unit]\nRequires=multi-user.target test.service\n",
            "etc/systemd/system/test.service": UNIT.format(end=end),
        }
    )
    config = {"Entrypoint": ["/lib/systemd/systemd"], "StopSignal": "SIGRTMIN+3"}
    layout = write(tmp_path / "layout", [debian.layer("systemd", "dbus").read_bytes(), own], config)
    options = command(project, built_set, layout, "--verbose")
    done = subprocess.run(options, capture_output=True, text=True, check=False, timeout=LIMIT)
    assert done.returncode == status, done.stderr
    assert "multi-user.target is active" in done.stderr
