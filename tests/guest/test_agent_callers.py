"""Callers and frames of docs/guest-contract.md, by the agent compiled for this machine with sanitizers."""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
import time
from pathlib import Path

import pytest

from scripts.guest.agent import AgentError
from scripts.guest.agent_frames import DATA_LIMIT, WINDOW, Kind, Tag, command, field, frame, hello, string
from tests.support.native_agent import (
    THOROUGH,
    WORKERS,
    NativeAgent,
    is_gone,
    wait_until,
)

pytestmark = pytest.mark.slow

AT_ONCE = 100
COMMANDS = 10_000 if THOROUGH else 300


def exchange(agent: NativeAgent, data: bytes) -> list[tuple[int, bytes]]:
    """Send bytes as they are; the frames that come back until the agent closes, without its HELLO."""
    connection = agent.connect()
    with connection:
        connection.sendall(data)
        answer = b""
        while got := connection.recv(65536):
            answer += got
    frames = []
    while answer:
        size, kind = struct.unpack_from("<II", answer)
        assert len(answer) >= 8 + size
        frames.append((kind, answer[8 : 8 + size]))
        answer = answer[8 + size :]
    assert frames[0][0] == Kind.HELLO
    return frames[1:]


# --- the beginning of a connection ---


def test_both_sides_say_version_capabilities_and_window(agent: NativeAgent) -> None:
    connection = agent.connect()
    with connection:
        size, kind = struct.unpack("<II", connection.recv(8))
        version, oldest, capabilities, window = struct.unpack("<IIQI", connection.recv(size))
    assert (kind, version, oldest, window) == (Kind.HELLO, 2, 2, WINDOW)
    assert capabilities & 1, "it answers PING"
    assert not capabilities & 4, "there is no init-oci here"


def test_caller_of_version_1_learns_that_this_is_another(agent: NativeAgent) -> None:
    old = frame(1, struct.pack("<II", 1, 0) + b"id\0\0")
    assert exchange(agent, old) == [(18, struct.pack("<II", 2, errno.EPROTONOSUPPORT))]


@pytest.mark.parametrize(("version", "oldest"), [(1, 1), (3, 3), (9, 4)])
def test_versions_without_a_common_one_are_refused(agent: NativeAgent, version: int, oldest: int) -> None:
    ((kind, payload),) = exchange(agent, hello(version, oldest) + frame(Kind.STATUS))
    assert (kind, payload[:4]) == (Kind.ERROR, struct.pack("<I", errno.EPROTONOSUPPORT))
    assert payload[4:] == b"this agent speaks protocol version 2 alone"


def test_later_version_that_speaks_2_is_served(agent: NativeAgent) -> None:
    longer = struct.pack("<IIQI", 7, 1, ~0 & (1 << 64) - 1, 4096) + b"what comes later"
    ((kind, _),) = exchange(agent, frame(Kind.HELLO, longer) + frame(Kind.STATUS))
    assert kind == Kind.STATE


def test_hello_in_single_bytes_is_understood(agent: NativeAgent) -> None:
    connection = agent.connect()
    with connection:
        for byte in hello() + frame(Kind.STATUS):
            connection.sendall(bytes([byte]))
            time.sleep(0.002)
        answer = b""
        while not answer.count(struct.pack("<II", 28, Kind.STATE)):
            answer += connection.recv(65536)


# --- what is not valid ---

WRONG_REQUESTS = {
    "noise": (bytes(range(256)), errno.EPROTO, "expected HELLO and a request"),
    "request first": (frame(Kind.STATUS), errno.EPROTO, "expected HELLO and a request"),
    "two HELLOs": (hello() + hello(), errno.ENOTSUP, "the request is unknown here"),
    "short HELLO": (frame(Kind.HELLO, bytes(19)), errno.EPROTO, "expected HELLO and a request"),
    "window of nothing": (hello(window=0), errno.EPROTO, "expected HELLO and a request"),
    "unknown request": (hello() + frame(43), errno.ENOTSUP, "the request is unknown here"),
    "request beyond the limit": (
        hello() + struct.pack("<II", (1 << 20) + 1, Kind.EXEC),
        errno.EPROTO,
        "expected HELLO and a request",
    ),
    "long control": (hello() + frame(Kind.STATUS, bytes(5000)), errno.E2BIG, "the request is longer than 4096 bytes"),
    "no ARG": (hello() + frame(Kind.EXEC), errno.EINVAL, "there is no ARG"),
    "cut field": (hello() + frame(Kind.EXEC, struct.pack("<II", 1, 9) + b"x"), errno.EINVAL, "a field is cut off"),
    "field beyond the frame": (
        hello() + frame(Kind.EXEC, struct.pack("<II", 1, 0xFFFFFFFF)),
        errno.EINVAL,
        "a field is cut off",
    ),
    "ARG without NUL": (hello() + frame(Kind.EXEC, field(Tag.ARG, b"id")), errno.EINVAL, "ARG is no string"),
    "ARG with two NULs": (hello() + frame(Kind.EXEC, field(Tag.ARG, b"i\0d\0")), errno.EINVAL, "ARG is no string"),
    "empty program": (hello() + frame(Kind.EXEC, command("")), errno.EINVAL, "a command's first ARG is empty"),
    "NEXT first": (
        hello() + frame(Kind.EXEC, field(Tag.NEXT, bytes(4)) + command("id")),
        errno.EINVAL,
        "NEXT comes before a command",
    ),
    "NEXT last": (
        hello() + frame(Kind.EXEC, command("id") + field(Tag.NEXT, bytes(4))),
        errno.EINVAL,
        "no command follows NEXT",
    ),
    "too many commands": (
        hello() + frame(Kind.EXEC, command("id", then=[(False, ["id"])] * 1024)),
        errno.EINVAL,
        "there are more than 1024 commands",
    ),
    "ENV without =": (
        hello() + frame(Kind.EXEC, command("id") + string(Tag.ENV, "A")),
        errno.EINVAL,
        "ENV is not NAME=VALUE",
    ),
    "relative CWD": (hello() + frame(Kind.EXEC, command("id", cwd="etc")), errno.EINVAL, "a path is not absolute"),
    "FILE without a path": (
        hello() + frame(Kind.EXEC, command("id") + field(Tag.FILE, struct.pack("<IIII", 0, 0, 0, 9) + b"/x\0")),
        errno.EINVAL,
        "FILE has no absolute path",
    ),
    "limit of 0": (hello() + frame(Kind.EXEC, command("id", limit_ms=0)), errno.EINVAL, "a number is out of its range"),
    "field of another request": (
        hello() + frame(Kind.EXEC, command("id") + string(Tag.PATH, "/x")),
        errno.EINVAL,
        "EXEC has a field that is unknown here",
    ),
    "READ without PATH": (hello() + frame(Kind.READ), errno.EINVAL, "there is no PATH"),
    "RESTORED without ENTROPY": (
        hello() + frame(Kind.RESTORED, string(Tag.HOSTNAME, "clone")),
        errno.EINVAL,
        "there is no ENTROPY",
    ),
    "31 bytes of ENTROPY": (
        hello() + frame(Kind.RESTORED, field(Tag.ENTROPY, bytes(31))),
        errno.EINVAL,
        "ENTROPY has less than 32 bytes",
    ),
    "signal 65": (
        hello() + frame(Kind.SIGNAL, field(Tag.NOTICE_SIGNAL, struct.pack("<I", 65))),
        errno.EINVAL,
        "a number is out of its range",
    ),
}


@pytest.mark.parametrize("name", WRONG_REQUESTS)
def test_wrong_request_is_answered_with_one_line(agent: NativeAgent, name: str) -> None:
    data, error, line = WRONG_REQUESTS[name]
    ((kind, payload),) = exchange(agent, data)
    assert kind == Kind.ERROR
    assert struct.unpack("<I", payload[:4])[0] == error
    assert payload[4:].decode() == line


WRONG_FRAMES = {
    "second request": frame(Kind.EXEC, command("id")),
    "unknown kind": frame(77),
    "signal 0": frame(Kind.COMMAND_SIGNAL, bytes(4)),
    "signal of 2 bytes": frame(Kind.COMMAND_SIGNAL, b"\x0f\0"),
    "too long": struct.pack("<II", DATA_LIMIT + 1, Kind.STDIN),
    "input after its end": frame(Kind.STDIN_END) + frame(Kind.STDIN, b"x"),
    "more input than granted": frame(Kind.STDIN, bytes(DATA_LIMIT)) * 7,
    "resize without a terminal": frame(Kind.RESIZE, struct.pack("<II", 1, 1)),
    "credit for no stream": frame(Kind.CREDIT, struct.pack("<II", Kind.STDIN, 1)),
    "DATA": frame(Kind.DATA, b"x"),
}


@pytest.mark.parametrize("name", WRONG_FRAMES)
def test_wrong_frame_ends_its_own_connection_only(agent: NativeAgent, name: str, tmp_path: Path) -> None:
    pid, done = tmp_path / "pid", tmp_path / "done"
    other = agent.call(Kind.EXEC, command("sh", "-c", f"while [ ! -e {done} ]; do sleep 0.05; done; echo fine"))
    script = f"echo $$ > {pid}.new; mv {pid}.new {pid}; exec sleep 600"
    with agent.call(Kind.EXEC, command("sh", "-c", script)) as call:
        wait_until(pid.exists)
        call.send(WRONG_FRAMES[name])
        assert {kind for kind, _ in call.frames()} <= {Kind.CREDIT}
    wait_until(lambda: is_gone(pid))
    done.touch()
    with other:
        assert [payload for kind, payload in other.frames() if kind == Kind.STDOUT] == [b"fine\n"]


# --- many callers ---


def test_callers_at_once_are_served_in_turn_and_none_is_reset(agent: NativeAgent, tmp_path: Path) -> None:
    order = tmp_path / "order"
    script = "echo {0} >> {1}; echo {0}"
    calls = [agent.call(Kind.EXEC, command("sh", "-c", script.format(number, order))) for number in range(AT_ONCE)]
    for number, call in enumerate(calls):
        with call:
            frames = [(kind, payload) for kind, payload in call.frames(120) if kind != Kind.CREDIT]
        assert frames[0] == (Kind.STDOUT, b"%d\n" % number)
        assert struct.unpack_from("<II", frames[-1][1]) == (0, 0)
    began = [int(line) for line in order.read_text().split()]
    assert sorted(began) == list(range(AT_ONCE))
    assert max(abs(place - number) for place, number in enumerate(began)) <= 2 * WORKERS, "they begin in turn"


def test_callers_from_many_threads_all_get_their_answer(agent: NativeAgent) -> None:
    outputs: list[bytes] = []

    def call(number: int) -> None:
        outputs.append(agent.exec("echo", str(number)).stdout)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outputs) == sorted(b"%d\n" % number for number in range(AT_ONCE))


def test_status_is_answered_at_once_while_others_wait(agent: NativeAgent) -> None:
    calls = [agent.call(Kind.EXEC, command("sleep", "600")) for _ in range(WORKERS + 5)]
    wait_until(lambda: agent.status()[-2:] == (WORKERS, 5))
    assert len(os.listdir(f"/proc/{agent.pid}/task")) == 1, "a thread on a parked CPU would keep it from ending"
    calls.pop().close()
    wait_until(lambda: agent.status()[-2:] == (WORKERS, 4))
    for call in calls:
        call.close()
    wait_until(lambda: agent.status()[-2:] == (0, 0))


def test_commands_in_a_row_leave_nothing_behind(agent: NativeAgent) -> None:
    wait_until(lambda: agent.children() == [])
    descriptors = agent.descriptors()
    for number in range(COMMANDS):
        assert agent.exec("echo", str(number)).stdout == b"%d\n" % number
    wait_until(lambda: agent.children() == [])
    wait_until(lambda: agent.descriptors() == descriptors)


def test_park_without_the_module_says_so(agent: NativeAgent) -> None:
    if os.cpu_count() == 1:
        agent.park()
        agent.unpark()
        return
    with pytest.raises(AgentError) as raised:
        agent.park()
    assert raised.value.errno == errno.ENODEV
    with pytest.raises(AgentError) as raised:
        agent.unpark()
    assert raised.value.errno == errno.EALREADY


def test_connection_that_is_reset_frees_its_place(agent: NativeAgent) -> None:
    wait_until(lambda: agent.children() == [])
    before = agent.descriptors()
    for data in (b"", hello(), hello() + frame(Kind.STATUS), hello() + frame(Kind.EXEC, command("sleep", "600"))):
        connection = agent.connect()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.sendall(data)
        connection.close()
    wait_until(lambda: agent.children() == [] and agent.descriptors() == before)
