"""More of Debian's programs over AF_TSI, servers and clients on both sides: on demand, as it takes many packages."""

from __future__ import annotations

import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.machine.packages import install_packages
from tests.guest.test_network_programs import digest, here, running
from tests.support.index import free_port
from tests.support.network_guest import NetworkGuest, network_guest

pytestmark = [pytest.mark.slow, pytest.mark.ondemand]

CLIENTS = ["redis-server", "redis-tools", "postgresql", "postgresql-client", "iperf3", "nginx-light", "rsync"]
CLIENTS += ["openssh-client", "openssh-server", "git", "wrk"]
PACKAGES = [*CLIENTS, "curl", "python3-pip", "apt"]
PASSWD = (
    "root:x:0:0:root:/root:/bin/sh\npostgres:x:100:100:postgres:/tmp:/bin/sh\nsshd:x:101:65534::/run/sshd:/bin/false\n"
)
FILES = {
    "etc/passwd": PASSWD + "www-data:x:33:33::/var/www:/bin/false\n",
    "etc/group": "root:x:0:\npostgres:x:100:\nnogroup:x:65534:\nwww-data:x:33:\nssl-cert:x:102:\n",
    "etc/shadow": "root:*:19000:0:99999:7:::\n",
}
SIZE = 5_000_000


@pytest.fixture(scope="module")
def booted(built_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NetworkGuest]:
    """One boot with all of them."""
    install_packages(CLIENTS)
    with network_guest(built_set, tmp_path_factory.mktemp("servers"), PACKAGES, FILES, memory="2G") as found:
        yield found


@pytest.fixture
def files(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A folder that is served over HTTP here, and the port."""
    folder = tmp_path / "files"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, server.server_port
        server.shutdown()
        thread.join()


def port_of(at: str) -> str:
    return at.rpartition(":")[2]


def test_redis_in_the_guest(booted: NetworkGuest) -> None:
    at = booted.start("redis-server --port 6379 --bind 127.0.0.1 --save '' --dir /tmp", 6379)
    assert here("redis-cli", "-p", port_of(at), "set", "key", "value") == "OK\n"
    assert here("redis-cli", "-p", port_of(at), "get", "key") == "value\n"
    done = here("redis-benchmark", "-p", port_of(at), "-n", "2000", "-c", "20", "-P", "4", "-q", "-t", "set,get")
    assert len(re.findall(r"requests per second", done)) == 2


def test_the_guest_s_redis_clients_use_a_server_of_the_host(booted: NetworkGuest, tmp_path: Path) -> None:
    port = free_port()
    with running(
        ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)], port
    ):
        assert booted.run(f"redis-cli -p {port} set key value; redis-cli -p {port} get key") == "OK\nvalue\n"
        done = booted.run(f"redis-benchmark -p {port} -n 2000 -c 20 -P 4 -q -t set,get")
        assert len(re.findall(r"requests per second", done)) == 2


def postgres_programs() -> Path:
    return max(Path("/usr/lib/postgresql").glob("*/bin"))


def test_postgres_in_the_guest(booted: NetworkGuest) -> None:
    booted.run("mkdir -p /tmp/pg && chown postgres /tmp/pg")
    initdb = "$(echo /usr/lib/postgresql/*/bin)/initdb -D /tmp/pg/data -A trust -E UTF8 --locale=C"
    booted.run(f"busybox su postgres -c '{initdb}'", timeout=400)
    server = "$(echo /usr/lib/postgresql/*/bin)/postgres -D /tmp/pg/data -k /tmp/pg -c listen_addresses=127.0.0.1"
    at = booted.start(f"busybox su postgres -c '{server}'", 5432)
    connection = f"host=127.0.0.1 port={port_of(at)} user=postgres dbname=postgres sslmode=disable"
    end = time.monotonic() + 120
    while subprocess.run([str(postgres_programs() / "pg_isready"), "-q", "-d", connection], check=False).returncode:
        assert time.monotonic() < end, "the server is still starting"
        time.sleep(0.5)
    query = "select count(*), sum(n) from (select generate_series(1, 100000) as n) as numbers"
    assert here(str(postgres_programs() / "psql"), "-Atc", query, connection) == "100000|5000050000\n"


def test_the_guest_s_psql_uses_a_server_of_the_host(booted: NetworkGuest, tmp_path: Path) -> None:
    port, user = free_port(), ["runuser", "-u", "nobody", "--"]
    data = Path("/tmp", f"supermachine-postgres-{os.getpid()}")
    data.mkdir()
    try:
        shutil.chown(data, "nobody")
        initdb = [*user, str(postgres_programs() / "initdb"), "-D", str(data / "db"), "-A", "trust", "-U", "postgres"]
        subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, cwd="/")
        server = [str(postgres_programs() / "postgres"), "-D", str(data / "db"), "-k", str(data), "-p", str(port)]
        with running([*user, *server, "-c", "listen_addresses=127.0.0.1"], port):
            psql = f"psql 'host=127.0.0.1 port={port} user=postgres dbname=postgres sslmode=disable'"
            query = "select repeat('x', 1000) from generate_series(1, 2000)"
            assert booted.run(f'{psql} -Atc "{query}" | wc -c').strip() == str(2000 * 1001)
    finally:
        shutil.rmtree(data)


@pytest.mark.parametrize("options", [[], ["-R"], ["-P", "4"], ["-u", "-b", "1M"]], ids=["up", "down", "four", "udp"])
def test_the_guest_s_iperf3_uses_a_server_of_the_host(booted: NetworkGuest, options: list[str]) -> None:
    port = free_port()
    with running(["iperf3", "-s", "-B", "127.0.0.1", "-p", str(port)], port):
        report = json.loads(booted.run(f"iperf3 -J -c 127.0.0.1 -p {port} -t 3 {' '.join(options)}"))
    assert "error" not in report
    end = report["end"]
    assert (end["sum"] if "-u" in options else end["sum_received"])["bytes"] > 100_000


def test_iperf3_in_the_guest(booted: NetworkGuest) -> None:
    at = booted.start("iperf3 -s -B 127.0.0.1 -p 5201", 5201)
    report = json.loads(here("iperf3", "-J", "-c", "127.0.0.1", "-p", port_of(at), "-t", "3"))
    assert report["end"]["sum_received"]["bytes"] > 1_000_000


def test_nginx_in_the_guest_and_wrk_here(booted: NetworkGuest) -> None:
    config = (
        "daemon off; user root; worker_processes 2; events {} http { access_log off; root /tmp/site;"
        " client_body_temp_path /tmp/b; server { listen 8090; listen [::]:8090; } }"
    )
    booted.agent.write("/tmp/nginx.conf", config.encode())
    booted.run("mkdir -p /tmp/site /var/lib/nginx /var/log/nginx && echo page > /tmp/site/index.html")
    at = booted.start("nginx -c /tmp/nginx.conf", 8090)
    report = here("wrk", "-t", "1", "-c", "20", "-d", "5", f"http://{at}/")
    assert "Socket errors" not in report and "Non-2xx" not in report
    assert int(re.findall(r"(\d+) requests in", report)[0]) > 50


def test_git_clones_over_http(booted: NetworkGuest, files: tuple[Path, int], tmp_path: Path) -> None:
    folder, port = files
    work = tmp_path / "work"
    git = ["git", "-C", str(work), "-c", "user.name=a", "-c", "user.email=a@example.com"]
    subprocess.run(["git", "init", "-q", str(work)], check=True)
    for number in range(20):
        (work / f"file{number}").write_bytes(os.urandom(50000))
        subprocess.run([*git, "add", "."], check=True)
        subprocess.run([*git, "commit", "-q", "-m", f"number {number}"], check=True)
    subprocess.run(["git", "clone", "-q", "--bare", str(work), str(folder / "repository.git")], check=True)
    subprocess.run(["git", "-C", str(folder / "repository.git"), "update-server-info"], check=True)
    cloned = booted.run(
        f"cd /tmp && git clone -q http://127.0.0.1:{port}/repository.git clone && git -C clone rev-parse HEAD"
    )
    assert cloned == here(*git, "rev-parse", "HEAD")


def test_pip_installs_from_an_index(booted: NetworkGuest, files: tuple[Path, int], tmp_path: Path) -> None:
    folder, port = files
    source = tmp_path / "source"
    source.mkdir()
    (source / "setup.py").write_text(
        "from setuptools import setup; setup(name='greeting', version='1', py_modules=['greeting'])"
    )
    (source / "greeting.py").write_text("print('hello from pip')")
    (folder / "greeting").mkdir()
    wheel = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(folder / "greeting"),
    ]
    subprocess.run([*wheel, str(source)], check=True)
    pip = f"python3 -m pip install -q --no-cache-dir --target /tmp/site --index-url http://127.0.0.1:{port}/ greeting"
    booted.run(pip, timeout=300)
    assert booted.run("PYTHONPATH=/tmp/site python3 -c 'import greeting'") == "hello from pip\n"


def test_rsync_copies_files_both_ways(booted: NetworkGuest, tmp_path: Path) -> None:
    """From a daemon here to the guest, and from one in the guest."""
    (tmp_path / "module").mkdir()
    (tmp_path / "module" / "file").write_bytes(os.urandom(SIZE))
    config = tmp_path / "rsyncd.conf"
    config.write_text(f"use chroot = no\n[module]\npath = {tmp_path}/module\n")
    port = free_port()
    daemon = ["rsync", "--daemon", "--no-detach", "--address=127.0.0.1", f"--port={port}", f"--config={config}"]
    with running(daemon, port):
        booted.run(f"rsync -r rsync://127.0.0.1:{port}/module/ /tmp/got/")
    assert booted.run("sha256sum < /tmp/got/file").split()[0] == digest(tmp_path / "module" / "file")
    booted.agent.write("/tmp/rsyncd.conf", b"use chroot = no\nuid = root\n[module]\npath = /tmp/got\n")
    at = booted.start("rsync --daemon --no-detach --port=8730 --config=/tmp/rsyncd.conf", 8730)
    subprocess.run(["rsync", "-r", f"rsync://127.0.0.1:{port_of(at)}/module/", str(tmp_path / "back")], check=True)
    assert digest(tmp_path / "back" / "file") == digest(tmp_path / "module" / "file")


SSH = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes", "-F", "none"]
SSHD = ["-D", "-o", "UsePAM=no", "-o", "StrictModes=no", "-o", "PidFile=none", "-f", "/dev/null"]


def test_ssh_to_the_guest(booted: NetworkGuest, tmp_path: Path) -> None:
    key, data = ssh_key(tmp_path), os.urandom(SIZE)
    booted.run("mkdir -p /run/sshd && ssh-keygen -q -t ed25519 -N '' -f /tmp/host-key")
    booted.agent.write("/tmp/authorized", key.with_suffix(".pub").read_bytes())
    options = [*SSHD, "-p", "2222", "-h", "/tmp/host-key", "-o", "AuthorizedKeysFile=/tmp/authorized"]
    at = booted.start(f"/usr/sbin/sshd {' '.join(options)}", 2222)
    command = ["ssh", *SSH, "-i", str(key), "-p", port_of(at), "root@127.0.0.1", "cat"]
    assert subprocess.run(command, input=data, stdout=subprocess.PIPE, check=True, timeout=300).stdout == data


def test_ssh_from_the_guest(booted: NetworkGuest, tmp_path: Path) -> None:
    key, port = ssh_key(tmp_path), free_port()
    Path("/run/sshd").mkdir(exist_ok=True)
    options = [*SSHD, "-h", str(key), "-o", f"AuthorizedKeysFile={key}.pub", "-o", "ListenAddress=127.0.0.1"]
    booted.agent.write("/tmp/key", key.read_bytes(), 0o600)
    booted.agent.write("/tmp/sent", os.urandom(SIZE))
    with running(["/usr/sbin/sshd", *options, "-p", str(port)], port):
        ssh = f"ssh {' '.join(SSH)} -q -i /tmp/key -p {port} root@127.0.0.1"
        sums = booted.run(f"{ssh} sha256sum < /tmp/sent; sha256sum < /tmp/sent", timeout=300)
    assert len(set(sums.splitlines())) == 1


def ssh_key(folder: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "key")], check=True)
    return folder / "key"


def test_apt_downloads_from_an_index(booted: NetworkGuest, files: tuple[Path, int], tmp_path: Path) -> None:
    folder, port = files
    (tmp_path / "greeting/DEBIAN").mkdir(parents=True)
    control = "Package: greeting\nVersion: 1\nArchitecture: all\nMaintainer: a <a@example.com>\nDescription: hello\n"
    (tmp_path / "greeting/DEBIAN/control").write_text(control)
    (tmp_path / "greeting/data").write_bytes(os.urandom(SIZE))
    package = folder / "greeting.deb"
    subprocess.run(
        ["dpkg-deb", "--build", str(tmp_path / "greeting"), str(package)], check=True, stdout=subprocess.DEVNULL
    )
    index = f"{control}Filename: ./greeting.deb\nSize: {package.stat().st_size}\nSHA256: {digest(package)}\n"
    (folder / "Packages").write_text(index)
    booted.agent.write("/tmp/sources.list", f"deb [trusted=yes] http://127.0.0.1:{port} ./\n".encode())
    apt = "apt-get -qq -o APT::Sandbox::User=root -o Dir::Etc::SourceList=/tmp/sources.list -o Dir::Etc::SourceParts=-"
    booted.run("mkdir -p /var/lib/dpkg /var/lib/apt/lists /var/cache/apt/archives && touch /var/lib/dpkg/status")
    got = booted.run(
        f"cd /tmp && {apt} update && {apt} download greeting && sha256sum < greeting_1_all.deb", timeout=400
    )
    assert got.split()[-2] == digest(package)
