"""What comes from outside into the agent, at random: what it parses, and whole conversations with it."""

from __future__ import annotations

import random
import select
import socket
import time
from pathlib import Path

import pytest

from scripts.guest.agent_frames import frame
from tests.support.native import FUZZ_SECONDS, fuzz
from tests.support.native_agent import PROGRAMS, SOURCES, compile_native, running, sources, wait_until

pytestmark = pytest.mark.slow

CORPUS = PROGRAMS / "corpus"


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


def test_agent_survives_random_conversations(tmp_path: Path) -> None:
    """Commands cannot run (there is no such program), so that a mutated one does no harm to this machine."""
    seed = random.randrange(1 << 32)
    source = random.Random(seed)
    corpus = [path.read_bytes() for path in sorted(CORPUS.iterdir()) if path.name not in ("exec", "write")]
    corpus = [data.replace(b"id\0", b"-x\0") for data in corpus]
    program = compile_native("native.c", sources("client.c"))
    end, count = time.monotonic() + FUZZ_SECONDS, 0
    with running(program, tmp_path) as agent:
        descriptors = agent.descriptors()
        while time.monotonic() < end:
            count += 1
            with agent.connect() as connection:
                try:
                    connection.sendall(mutated(source, corpus))
                    if source.random() < 0.5:
                        connection.shutdown(socket.SHUT_WR)
                    while select.select([connection], [], [], 0.01)[0] and connection.recv(65536):
                        pass
                except (BrokenPipeError, ConnectionResetError):
                    pass
        assert count > 10
        wait_until(lambda: agent.children() == [])
        wait_until(lambda: agent.descriptors() == descriptors)
        assert agent.exec("echo", "alive").stdout == b"alive\n", f"after seed {seed}"
