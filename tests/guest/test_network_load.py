"""AF_TSI under load, on demand: a thousand streams at once, ten thousand one after another, a gigabyte each way."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import guest
from tests.support.native_agent import wait_until
from tests.support.network_guest import NetworkGuest, network_guest
from tests.support.network_storm import storm
from tests.support.tsi_host import Servers

pytestmark = [pytest.mark.slow, pytest.mark.ondemand]

STREAMS, CONNECTIONS, BYTES, DATAGRAMS = 1000, 10_000, 1 << 30, 50_000


@pytest.fixture(scope="module")
def booted(built_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NetworkGuest]:
    """A guest with the program of this load, and a limit of files that a thousand streams fit into."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 16384), hard))
    scratch = tmp_path_factory.mktemp("load")
    with network_guest(built_set, scratch, ["curl", "python3"]) as found:
        found.agent.write("/tmp/load", guest.compile_guest_program("tsi-load.c", scratch), 0o755)
        yield found
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def servers(booted: NetworkGuest) -> Iterator[Servers]:
    with Servers(lambda port: booted.host.wait_for_listener(port, 20)) as found:
        yield found


def sockets(booted: NetworkGuest) -> int:
    """How many sockets of AF_TSI the guest has, once those that are closed are gone."""
    (line,) = [line for line in booted.run("cat /proc/net/protocols").splitlines() if line.startswith("AF_TSI ")]
    return int(line.split()[2])


def wait_until_released(booted: NetworkGuest) -> None:
    end = time.monotonic() + 30
    while booted.host.sockets or [key for key in booted.device.link.streams if key[0] == 620]:
        assert time.monotonic() < end, "the host still has sockets of programs that have ended"
        time.sleep(0.2)


def test_a_thousand_streams_at_once(booted: NetworkGuest, servers: Servers) -> None:
    """Each echoes a pattern of its own."""
    assert booted.run(f"ulimit -n 4096; /tmp/load streams {servers.port} {STREAMS}", timeout=400) == f"{STREAMS} good\n"
    wait_until_released(booted)


def test_ten_thousand_connections_in_a_row(booted: NetworkGuest, servers: Servers) -> None:
    """Nothing is left of them: no socket on either side, and no memory that grows with their number."""
    booted.run(f"/tmp/load connections {servers.port} 3000", timeout=400)
    wait_until_released(booted)
    before, slab = sockets(booted), slab_kib(booted)
    assert booted.run(f"/tmp/load connections {servers.port} {CONNECTIONS}", timeout=900) == f"{CONNECTIONS} good\n"
    wait_until_released(booted)
    assert sockets(booted) == before
    # vsock keeps what was closed for some seconds more, which on a fast machine is much at a time.
    wait_until(lambda: slab_kib(booted) - slab < 2000, 120)


def slab_kib(booted: NetworkGuest) -> int:
    (line,) = [line for line in booted.run("cat /proc/meminfo").splitlines() if line.startswith("SUnreclaim:")]
    return int(line.split()[1])


@pytest.mark.parametrize("direction", ["give", "take"])
def test_a_gigabyte_arrives_unchanged(booted: NetworkGuest, servers: Servers, direction: str) -> None:
    assert booted.run(f"/tmp/load {direction} {servers.port} {BYTES}", timeout=900) == f"{BYTES} good\n"


def test_a_storm_of_datagrams(booted: NetworkGuest, servers: Servers) -> None:
    """What the guest sends reaches the host, and what it is sent is received, or counted as dropped."""
    booted.run(f"/tmp/load storm {servers.udp_port} {DATAGRAMS // 10}", timeout=900)
    slab = slab_kib(booted)
    assert storm(booted, servers, DATAGRAMS).dropped > 0, "no storm: the guest kept up"
    assert slab_kib(booted) - slab < 2000
