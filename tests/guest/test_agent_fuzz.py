"""What comes from outside into the agent, at random: what it parses, and whole conversations with it."""

from __future__ import annotations

import contextlib
import random
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from scripts.guest.agent import Agent, AgentError
from scripts.guest.agent_frames import Kind, frame
from scripts.guest.device import Device
from tests.support import guest
from tests.support.guest import Container, assert_ended_well, configuration
from tests.support.native import FUZZ_SECONDS, fuzz
from tests.support.native_agent import PROGRAMS, SOURCES, compile_native, running, sources, wait_until

pytestmark = pytest.mark.slow

CORPUS = PROGRAMS / "corpus"
LOOPBACK_PER_SECOND = 20
"""How many conversations in the guest stand for a second of fuzzing."""


def test_parser_survives_what_a_fuzzer_finds(tmp_path: Path) -> None:
    parsing = [PROGRAMS / "fuzz.c", *(SOURCES / name for name in ("frame.c", "request.c", "ring.c"))]
    fuzz(tmp_path, parsing, SOURCES, CORPUS)


def mutated(source: random.Random, corpus: list[bytes]) -> bytes:
    """A conversation of the corpus with frames added, bytes changed, and its end cut off, or not."""
    data = bytearray(source.choice(corpus))
    for _ in range(source.randrange(4)):
        data += frame(source.choice([*range(30, 75), source.getrandbits(32)]), source.randbytes(source.randrange(70)))
    for _ in range(source.choice([0, 0, 1, 3, 20])):
        data[source.randrange(len(data))] = source.getrandbits(8)
    return bytes(data[: source.randrange(1, len(data) + 1)] if source.random() < 0.3 else data)


def harmless(source: random.Random) -> bytes:
    """A conversation that does not ask for the end of the guest, or of the agent compiled for this machine."""
    while True:
        data = mutated(source, corpus())
        if struct.pack("<I", Kind.POWER_OFF) not in data:
            return data


def corpus() -> list[bytes]:
    """Conversations to begin from. Commands cannot run (there is no such program), so a mutated one does no harm."""
    found = [path.read_bytes() for path in sorted(CORPUS.iterdir()) if path.name not in ("exec", "write")]
    return [data.replace(b"id\0", b"-x\0") for data in found]


def converse(connection: socket.socket, data: bytes, ends: bool) -> None:
    """Send it all, and take what comes until that stops for a moment."""
    with connection, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.sendall(data)
        if ends:
            connection.shutdown(socket.SHUT_WR)
        while select.select([connection], [], [], 0.01)[0] and connection.recv(65536):
            pass


def test_agent_survives_random_conversations(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    source = random.Random(seed)
    program = compile_native("native.c", sources("client.c"))
    with running(program, tmp_path) as agent:
        descriptors = agent.descriptors()
        end, count = time.monotonic() + FUZZ_SECONDS, 0
        while time.monotonic() < end:
            count += 1
            converse(agent.connect(), harmless(source), source.random() < 0.5)
        assert count > 10
        wait_until(lambda: agent.children() == [])
        wait_until(lambda: agent.descriptors() == descriptors)
        assert agent.exec("echo", "alive").stdout == b"alive\n", f"after seed {seed}"


class Fuzzed(NamedTuple):
    """A guest to fuzz, and the way to it from the host."""

    agent: Agent
    device: Device


@pytest.fixture(scope="module")
def fuzzed(built_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzzed]:
    """It must end well, and its agent must not have ended before."""
    scratch, container = tmp_path_factory.mktemp("guest"), Container()
    container.file("bin/vsock-send", guest.compile_guest_program("vsock-send.c", scratch), 0o755)
    with Device() as device:
        config = configuration("sleep", "1000000", on_exit="idle")
        with guest.running(built_set, scratch, config, container, vsock=device) as machine:
            machine.wait_for("listening on vsock port 777", guest.LIMIT)
            agent = Agent(lambda: device.connect(777, timeout=120))
            yield Fuzzed(agent, device)
            agent.power_off()
            seen = guest.ended(machine)
    assert_ended_well(seen)
    assert "the agent ended" not in seen.text


def unpark(agent: Agent) -> None:
    """One of the conversations may have been PARK."""
    with contextlib.suppress(AgentError, ConnectionError):
        agent.unpark()


@contextlib.contextmanager
def unparking(agent: Agent) -> Iterator[None]:
    """While READ may wait for UNPARK, somebody calls it again and again."""
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(0.2):
            unpark(agent)

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def assert_well(agent: Agent, seed: int) -> None:
    unpark(agent)
    assert agent.exec("echo", "alive").stdout == b"alive\n", f"after seed {seed}"
    wait_until(lambda: agent.status()[-2:] == (0, 0))


def test_agent_of_a_guest_survives_random_conversations_from_the_host(fuzzed: Fuzzed) -> None:
    seed = random.randrange(1 << 32)
    source = random.Random(seed)
    end, count = time.monotonic() + FUZZ_SECONDS, 0
    while time.monotonic() < end or count < 10:
        count += 1
        converse(fuzzed.device.connect(777, timeout=120), harmless(source), source.random() < 0.5)
    assert_well(fuzzed.agent, seed)


def test_agent_of_a_guest_survives_random_conversations_over_loopback(fuzzed: Fuzzed) -> None:
    """In the background: RESTORED ends other calls, and PARK may stop the program until UNPARK."""
    seed = random.randrange(1 << 32)
    source = random.Random(seed)
    conversations = [harmless(source) for _ in range(LOOPBACK_PER_SECOND * FUZZ_SECONDS)]
    packed = b"".join(struct.pack("<I", len(data)) + data for data in conversations)
    fuzzed.agent.write("/conversations", packed)
    fuzzed.agent.exec("sh", "-c", "(vsock-send < /conversations > /had.new; mv /had.new /had) > /dev/null 2>&1 &")

    def had() -> bytes:
        with contextlib.suppress(AgentError, ConnectionError):
            return fuzzed.agent.read("/had")[0]
        return b""

    with unparking(fuzzed.agent):
        wait_until(lambda: had() == b"%d\n" % len(conversations), guest.LIMIT + FUZZ_SECONDS)
    assert_well(fuzzed.agent, seed)
