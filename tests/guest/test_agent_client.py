"""The client in C that hosts copy, kernel-build/agent/client.c, against the agent; both compiled with sanitizers."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from scripts.guest.agent_frames import Kind, command, frame, hello
from tests.support.native_agent import SOURCES, NativeAgent, compile_native, running, sources, wait_until

pytestmark = pytest.mark.slow

BIG = 3_000_000
NEARLY_FULL = 8 + 65536 + 4096 - 264 - 128
"""Bytes that wait in the client, when it has room for 128 more and for the 264 that it keeps for frames of its own."""


class Client(NamedTuple):
    """The compiled client and the agent it calls."""

    program: Path
    agent: NativeAgent

    def run(self, *words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run a call to its end."""
        command = [str(self.program), str(self.agent.path), *words]
        return subprocess.run(command, input=stdin, capture_output=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("client")
    program = compile_native("call.c", [str(SOURCES / "client.c")])
    agent = compile_native("native.c", sources("client.c"))
    with running(agent, folder) as running_agent:
        yield Client(program, running_agent)


def test_client_hands_on_output_errors_and_outcome(client: Client) -> None:
    done = client.run("exec", "sh", "-c", "echo out; echo err >&2; exit 9")
    assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"err\noutcome 0 9\n", 0)


def test_client_sends_input_while_output_comes(client: Client) -> None:
    data = os.urandom(BIG)
    assert client.run("exec", "cat", stdin=data).stdout == data


def test_slow_reader_of_the_client_loses_nothing(client: Client) -> None:
    command = [str(client.program), str(client.agent.path), "exec", "sh", "-c", f"head -c {BIG} /dev/zero; echo end"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL) as slow:
        time.sleep(4.5)  # longer than the agent bears with a caller that answers no PING
        assert slow.stdout is not None
        assert slow.stdout.read() == bytes(BIG) + b"end\n"
    assert slow.returncode == 0


def test_frames_and_many_pings_at_once_fit_into_the_clients_memory(client: Client, tmp_path: Path) -> None:
    """Its agent reads nothing until there is room for a PONG to each of 33 PING, or for frames, but not for both."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        words = [str(client.program), str(tmp_path / "socket"), "frames", "true"]
        caller = subprocess.Popen(words, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        agent, _ = listener.accept()
    with caller, agent:
        assert caller.stdin is not None
        pipe = caller.stdin.fileno()
        agent.sendall(hello())
        put = len(hello() + frame(Kind.EXEC, command("true")) + frame(Kind.STDIN_END))
        wait_until(lambda: unread(agent) == put)
        while missing := NEARLY_FULL - (put - unread(agent)):
            put += os.write(pipe, bytes(min(missing, 4096)))
            wait_until(lambda: not unread(pipe))
            time.sleep(0.01)  # for the client to send what it has read
        caller.send_signal(signal.SIGSTOP)
        os.waitpid(caller.pid, os.WUNTRACED)
        os.write(pipe, bytes(256))
        agent.sendall(frame(Kind.PING) * 33)
        caller.send_signal(signal.SIGCONT)
        wait_until(lambda: not unread(agent, termios.TIOCOUTQ))
        agent.sendall(frame(Kind.EXIT, bytes(40)))
        agent.shutdown(socket.SHUT_WR)
        while agent.recv(65536):
            pass
        assert caller.communicate()[1] == b"outcome 0 0\n"
    assert caller.returncode == 0


def unread(file: socket.socket | int, what: int = termios.FIONREAD) -> int:
    """How many bytes lie unread in a socket or pipe; by TIOCOUTQ, the memory of those its other end has not read."""
    return int(struct.unpack("i", fcntl.ioctl(file, what, bytes(4)))[0])


def test_reader_that_has_gone_does_not_stop_the_command(client: Client, tmp_path: Path) -> None:
    script = f"echo one; sleep 0.3; echo two; sleep 0.3; touch {tmp_path}/done"
    piped = f"trap '' PIPE; {client.program} {client.agent.path} exec sh -c '{script}' < /dev/null | head -n 1"
    subprocess.run(["bash", "-c", piped], check=True, capture_output=True)
    assert (tmp_path / "done").exists()


def test_client_reads_and_writes_files(client: Client, tmp_path: Path) -> None:
    data = os.urandom(BIG)
    assert client.run("write", str(tmp_path / "file"), stdin=data).returncode == 0
    assert (tmp_path / "file").read_bytes() == data
    assert client.run("read", str(tmp_path / "file")).stdout == data


def test_client_puts_files_in_place(client: Client, tmp_path: Path) -> None:
    assert client.run("placed", str(tmp_path / "file")).stdout == b"placed\n"


def test_client_shows_the_agents_line(client: Client) -> None:
    done = client.run("read", "/no/such")
    assert (done.returncode, done.stderr) == (1, b"error 2: /no/such: No such file or directory\n")


def test_client_takes_the_state(client: Client) -> None:
    assert client.run("status").stdout == b"4 0 0\n"


def test_client_says_when_the_request_is_too_long(client: Client) -> None:
    words = ["x" * 100_000] * 11
    done = client.run("exec", *words)
    assert (done.returncode, done.stderr) == (1, b"error 0: the request is over 1 MiB, or there is no memory\n")
