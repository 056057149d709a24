"""What goes wrong in a call and in the machine around it, by the agent compiled for this machine with sanitizers."""

from __future__ import annotations

import contextlib
import errno
import struct
import subprocess
from pathlib import Path

import pytest

from scripts.guest.agent import AgentError
from scripts.guest.agent_frames import DATA_LIMIT, Kind, Tag, command, field, frame, hello, string
from tests.support.native_agent import SOURCES, NativeAgent, compile_native, running, wait_until

pytestmark = pytest.mark.slow

ENTROPY = field(Tag.ENTROPY, bytes(32))


@pytest.fixture(scope="module")
def limits() -> Path:
    return compile_native("limits.c", [str(SOURCES / name) for name in ("channel.c", "util.c", "frame.c")])


def test_error_has_its_room_when_everything_else_is_full(limits: Path) -> None:
    subprocess.run([str(limits), "error"], check=True, timeout=60)


def test_children_that_do_not_end_are_not_waited_for(limits: Path) -> None:
    """As those of a guest that powers off: one of them may wait for a device that never answers."""
    subprocess.run([str(limits), "children"], check=True, timeout=60)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(frame(Kind.STDIN, b"x"), id="another kind"),
        pytest.param(struct.pack("<II", DATA_LIMIT + 1, Kind.DATA), id="too long"),
    ],
)
@pytest.mark.parametrize("kind", [Kind.READ, Kind.WRITE])
def test_wrong_frame_to_a_file_is_answered_with_error(
    agent: NativeAgent, kind: Kind, data: bytes, tmp_path: Path
) -> None:
    """There is no command that runs; the file is neither whole nor changed."""
    path = tmp_path / "file"
    path.write_bytes(bytes(1 << 20))
    with pytest.raises(AgentError) as raised, agent.call(kind, string(Tag.PATH, str(path))) as call:
        call.send(data)
        for found, _ in call.frames():
            assert found != Kind.DONE
    assert raised.value.errno == errno.EPROTO
    assert path.read_bytes() == bytes(1 << 20)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_error_in_the_middle_of_a_file_has_its_own_reason(agent: NativeAgent) -> None:
    """Nothing is mapped at the beginning of a process's memory."""
    with pytest.raises(AgentError) as raised:
        agent.read("/proc/self/mem")
    assert (raised.value.errno, raised.value.strerror) == (errno.EIO, "/proc/self/mem: Input/output error")


NAMES = {
    "a control character": (b"/no/a\nb\x1b[1m\x7f", "/no/a?b?[1m?"),
    "no UTF-8": (b"/no/\xff\xc3/\xc0\xaf/\xbf\xbf/\xed\xa0\x80", "/no/??/??/??/???"),
    "all lengths": ("/no/é€\U0001f600".encode(), "/no/é€\U0001f600"),
    "ends of lines": ("/no/\x85\u2028\u2029".encode(), "/no/????????"),
    "cut": (b"/no/" + "€".encode() * 200, "/no/" + "€" * 132),
}


@pytest.mark.parametrize("name", NAMES)
def test_error_is_one_line_of_utf_8_whatever_the_path(agent: NativeAgent, name: str) -> None:
    path, shown = NAMES[name]
    with pytest.raises(AgentError) as raised, agent.call(Kind.READ, field(Tag.PATH, path + b"\0")) as call:
        list(call.frames())
    assert raised.value.strerror == f"{shown}: No such file or directory"


def test_long_path_of_a_file_is_cut_between_characters(agent: NativeAgent) -> None:
    content = struct.pack("<IIII", 0o644, 0, 0, 605) + b"/no/" + "€".encode() * 200 + b"\0"
    with pytest.raises(AgentError) as raised, agent.call(Kind.EXEC, field(Tag.FILE, content) + command("true")) as call:
        list(call.frames())
    assert raised.value.strerror == f"file /no/{'€' * 132}: No such file or directory"


def test_ping_among_the_answers_to_clock_ask_is_answered(agent: NativeAgent) -> None:
    answered = []
    with pytest.raises(AgentError) as raised, agent.call(Kind.RESTORED, ENTROPY + field(Tag.CLOCK)) as call:
        call.send(frame(Kind.PONG) + frame(Kind.PING))
        for kind, _ in call.frames():
            answered.append(kind)
    assert raised.value.errno == errno.ENOTSUP, "the clock of this machine is not set, but all was asked"
    assert answered.count(Kind.PONG) == 1


def test_restored_drops_a_caller_whose_request_is_not_whole(agent: NativeAgent) -> None:
    """At once, and not after the silence that such a caller may keep."""
    wait_until(lambda: agent.children() == [])
    with agent.connect() as connection:
        connection.sendall(hello() + struct.pack("<II", 100, Kind.EXEC) + bytes(10))
        wait_until(lambda: len(agent.children()) == 1)
        with pytest.raises(AgentError):
            agent.restored(clock=False)
        wait_until(lambda: agent.children() == [], 20)


def test_park_is_refused_once_the_guest_powers_off(program: Path, tmp_path: Path) -> None:
    """The agent powers off when the caller of POWER_OFF has closed, and needs all CPUs for that."""
    with contextlib.ExitStack() as after, running(program, tmp_path) as agent:
        call = agent.call(Kind.POWER_OFF)
        after.callback(call.socket.close)
        assert [kind for kind, _ in call.frames()] == [Kind.DONE]
        with pytest.raises(AgentError) as raised:
            agent.park()
        assert raised.value.errno == errno.ESHUTDOWN
