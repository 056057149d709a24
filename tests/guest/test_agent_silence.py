"""Callers that say nothing, by an agent whose limits for them are short."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.guest.agent import finish
from scripts.guest.agent_frames import Kind, command, hello
from tests.support.native_agent import HASTY, NativeAgent, compile_native, is_gone, running, sources, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NativeAgent]:
    with running(compile_native("native.c", sources("client.c"), HASTY), tmp_path_factory.mktemp("agent")) as agent:
        yield agent


def test_silent_caller_loses_its_place(agent: NativeAgent) -> None:
    connection = agent.connect()
    with connection:
        connection.sendall(hello())
        start = time.monotonic()
        while connection.recv(4096):
            pass
        assert time.monotonic() - start > 1


def test_caller_that_vanished_without_a_word_is_noticed(agent: NativeAgent, tmp_path: Path) -> None:
    """It stays connected, and answers no PING."""
    pid = tmp_path / "pid"
    call = agent.call(Kind.EXEC, command("sh", "-c", f"echo $$ > {pid}.new; mv {pid}.new {pid}; exec sleep 600"))
    wait_until(pid.exists)
    wait_until(lambda: is_gone(pid))
    call.close()


def test_caller_that_answers_ping_may_be_silent(agent: NativeAgent) -> None:
    with agent.call(Kind.EXEC, command("sleep", "8")) as call:
        assert finish(call).status == (0, 0)
