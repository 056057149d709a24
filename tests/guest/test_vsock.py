"""The vsock device of the tests, with a real guest at its other end."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from scripts.guest.agent import Agent, Done
from scripts.guest.behaviour import LIBKRUN, STANDARD, Behaviour
from scripts.guest.device import Device
from scripts.guest.qemu import Machine
from tests.support import guest
from tests.support.guest import Container, assert_ended_well

pytestmark = pytest.mark.slow

AGENT, ECHO, NOBODY, OURS = 777, 5000, 5001, 6000
MIB = 1 << 20


class Booted(NamedTuple):
    """A guest, its device, and a pipe to its shell."""

    machine: Machine
    device: Device


@pytest.fixture(scope="module", params=[STANDARD, LIBKRUN], ids=["standard", "libkrun"])
def booted(
    request: pytest.FixtureRequest, built_set: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Booted]:
    """One boot for all tests of a behaviour, with the agent and an echo server."""
    behaviour: Behaviour = request.param
    scratch = tmp_path_factory.mktemp("vsock")
    container = Container()
    container.file("bin/vsock-echo", guest.compile_guest_program("vsock-echo.c", scratch), 0o755)
    config = f"lower=/container\nenv=BUFFER={buffer_for(behaviour)}\narg=vsock-echo\narg=listen\narg={ECHO}\n"
    with Device(behaviour) as device:
        with guest.running(built_set, scratch, config, container, vsock=device) as machine:
            machine.wait_for("listening on vsock port 777", guest.LIMIT)
            machine.wait_for(f"listening on {ECHO}", guest.LIMIT)
            yield Booted(machine, device)
            Agent(lambda: device.connect(AGENT)).power_off()
            seen = guest.ended(machine)
        assert not device.complaints
    assert_ended_well(seen)


def buffer_for(behaviour: Behaviour) -> int:
    """The guest's buffer: Linux sends no more than its own buffer's size ahead, and libkrun tells credit late."""
    return max(behaviour.buffer, 256 << 10)


def agent(device: Device, *argv: str, stdin: bytes = b"") -> Done:
    """Run a command through the agent, called from the host."""
    return Agent(lambda: device.connect(AGENT)).exec(*argv, stdin=stdin)


def exchange(sock: socket.socket, data: bytes) -> bytes:
    """Send `data` while reading as much back."""
    sender = threading.Thread(target=sock.sendall, args=(data,))
    sender.start()
    with sock.makefile("rb") as stream:
        back = stream.read(len(data))
    sender.join()
    return back


def pattern(size: int, seed: int = 0) -> bytes:
    """Bytes in which no shift and no loss goes unseen."""
    return b"".join(struct.pack("<II", seed, number) for number in range(size // 8))


def test_agent_is_called_by_the_host(booted: Booted) -> None:
    done = agent(booted.device, "sh", "-c", "cat; exit 5", stdin=b"from CID 2")
    assert (done.stdout, done.status) == (b"from CID 2", (0, 5))


def test_output_of_megabytes_comes_through_whatever_credit_the_host_gives(booted: Booted) -> None:
    assert len(agent(booted.device, "head", "-c", str(6 * MIB), "/dev/zero").stdout) == 6 * MIB


def test_a_port_at_which_nobody_listens_refuses(booted: Booted) -> None:
    with pytest.raises(ConnectionRefusedError, match=f"vsock port {NOBODY} of the guest: refused"):
        booted.device.connect(NOBODY)


def test_megabytes_come_back_unchanged(booted: Booted) -> None:
    data = pattern(8 * MIB)
    with booted.device.connect(ECHO, timeout=60) as sock:
        assert exchange(sock, data) == data


def test_the_end_of_the_host_s_data_is_seen(booted: Booted) -> None:
    """The guest reads what came before it; the other direction stays open, unless the host is as libkrun."""
    with booted.device.connect(ECHO) as sock:
        sock.sendall(b"last words")
        sock.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: sock.recv(100), b""))
    assert answer in ([b"last words"] if booted.device.link.behaviour.half_close else [b"", b"last words"])


def test_many_streams_at_once(booted: Booted) -> None:
    data = {number: pattern(64 << 10, number) for number in range(100)}
    socks = {number: booted.device.connect(ECHO, timeout=60) for number in data}
    back: dict[int, bytes] = {}
    threads = [
        threading.Thread(target=lambda n=number: back.update({n: exchange(socks[n], data[n])})) for number in data
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for sock in socks.values():
        sock.close()
    assert [number for number in data if back[number] != data[number]] == []


def test_guest_connects_to_the_host(booted: Booted) -> None:
    data = pattern(MIB)
    done: list[Done] = []
    connect = f"BUFFER={buffer_for(booted.device.link.behaviour)} vsock-echo connect {OURS}"
    with booted.device.listen(OURS) as listener:
        caller = threading.Thread(target=lambda: done.append(agent(booted.device, "sh", "-c", connect)))
        caller.start()
        sock, guest_port = listener.accept(timeout=30)
        with sock:
            assert guest_port > 1023
            assert exchange(sock, data) == data
            sock.shutdown(socket.SHUT_WR)
            caller.join()
    assert [one.status for one in done] == [(0, 0)]


def test_guest_is_refused(booted: Booted) -> None:
    done = agent(booted.device, "vsock-echo", "connect", str(OURS))
    assert done.status == (0, 1)
    assert b"connect: Connection reset by peer\n" in done.stderr


def test_no_stream_is_left(booted: Booted) -> None:
    with booted.device.connect(ECHO) as sock:
        sock.sendall(b"and then the caller goes away")
    agent(booted.device, "true")
    assert booted.device.call(lambda: len(booted.device.link.streams)) == 0


def test_port_that_is_taken(booted: Booted) -> None:
    with booted.device.listen(OURS), pytest.raises(OSError, match=f"vsock port {OURS} of the host: taken"):
        booted.device.listen(OURS)
