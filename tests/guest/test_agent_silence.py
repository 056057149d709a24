"""Callers that say nothing, by an agent whose limits for them are short."""

from __future__ import annotations

import os
import signal
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


def test_caller_that_answers_ping_may_be_silent_also_when_the_agent_did_not_run(agent: NativeAgent) -> None:
    """The agent's process of one of the callers is stopped for longer than a caller may be silent."""
    with agent.call(Kind.EXEC, command("sleep", "10")) as stopped:
        stopped.hear_hello()
        wait_until(lambda: len(agent.children()) == 1)
        (worker,) = agent.children()
        wait_until(lambda: has_children(worker))
        os.kill(worker, signal.SIGSTOP)
        with agent.call(Kind.EXEC, command("sleep", "7")) as silent:
            assert finish(silent).status == (0, 0)
        os.kill(worker, signal.SIGCONT)
        time.sleep(1)  # nothing comes from this caller before it is looked for
        assert finish(stopped).status == (0, 0)


def has_children(pid: int) -> bool:
    """Whether the process has started another."""
    return bool(Path(f"/proc/{pid}/task/{pid}/children").read_text())
