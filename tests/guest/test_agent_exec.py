"""EXEC of docs/guest-contract.md, by the agent compiled for this machine with sanitizers."""

from __future__ import annotations

import errno
import os
import pwd
import signal
import struct
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from scripts.guest.agent import AgentError, Call
from scripts.guest.agent_frames import DATA_LIMIT, Kind, command, frame
from tests.support.native_agent import NativeAgent, is_gone, wait_until

pytestmark = pytest.mark.slow

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
KILLED = (1, signal.SIGKILL)


def test_output_and_errors_come_apart_and_the_exit_status_with_them(agent: NativeAgent) -> None:
    done = agent.exec("sh", "-c", "echo out; echo err >&2; exit 3")
    assert (done.stdout, done.stderr, done.status) == (b"out\n", b"err\n", (0, 3))


def test_outcome_names_the_signal_that_ended_the_command(agent: NativeAgent) -> None:
    assert agent.exec("sh", "-c", "kill -15 $$").status == (1, signal.SIGTERM)


@pytest.mark.parametrize(
    ("words", "fields", "error"),
    [
        (["/no/such/file"], {}, errno.ENOENT),
        (["no-such-command"], {}, errno.ENOENT),
        (["/etc/passwd"], {}, errno.EACCES),
        (["true"], {"cwd": "/no/where"}, errno.ENOENT),
        (["/bin/ls"], {"cwd": "PRIVATE", "user": "nobody"}, errno.EACCES),
    ],
)
def test_command_that_cannot_run_has_an_errno(
    agent: NativeAgent, words: list[str], fields: dict[str, Any], error: int, tmp_path: Path
) -> None:
    tmp_path.chmod(0o700)
    fields = {name: str(tmp_path) if value == "PRIVATE" else value for name, value in fields.items()}
    assert agent.exec(*words, **fields).status == (2, error)


def test_variables_come_on_top_of_the_agents_own(agent: NativeAgent) -> None:
    done = agent.exec("/usr/bin/env", env={"A": "1", "HOME": "/x", "B": "two words"})
    assert sorted(line for line in done.stdout.decode().splitlines() if "SAN_" not in line) == [
        "A=1",
        "B=two words",
        "HOME=/x",
        f"PATH={PATH}",
    ]


def test_variables_can_stand_alone(agent: NativeAgent) -> None:
    assert agent.exec("/usr/bin/env", env={"ONLY": "this"}, env_alone=True).stdout == b"ONLY=this\n"


def test_first_argument_is_found_in_the_path_of_the_command(agent: NativeAgent, tmp_path: Path) -> None:
    tool = tmp_path / "own-tool"
    tool.write_text("#!/bin/sh\necho own\n")
    tool.chmod(0o755)
    assert agent.exec("own-tool").status == (2, errno.ENOENT)
    assert agent.exec("own-tool", env={"PATH": f"/bin:{tmp_path}"}).stdout == b"own\n"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"user": "daemon"}, "1 1 1 /usr/sbin"),
        ({"user": "daemon:tty"}, "1 5 5 /usr/sbin"),
        ({"user": "54321"}, "54321 0 0 /"),
        ({"user": "54321:7", "groups": ["audio", "1234"]}, "54321 7 7 29 1234 /"),
        ({"groups": ["1234"]}, "0 0 0 1234 /root"),
    ],
    ids=str,
)
def test_user_and_groups_are_those_asked_for(agent: NativeAgent, fields: dict[str, Any], expected: str) -> None:
    done = agent.exec("sh", "-c", "echo $(id -u) $(id -g) $(id -G) $HOME", **fields)
    assert done.stdout.decode().strip() == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"user": "no-such-user"}, "user no-such-user: No such file or directory"),
        ({"user": "daemon:no-such-group"}, "group no-such-group: No such file or directory"),
        ({"groups": ["no-such-group"]}, "group no-such-group: No such file or directory"),
        ({"files": [("/no/where/x", b"", 0o644, 0, 0)]}, "file /no/where/x: No such file or directory"),
        ({"files": [("/tmp", b"", 0o644, 0, 0)]}, "file /tmp: Is a directory"),
    ],
    ids=str,
)
def test_what_prevents_the_call_is_one_line(agent: NativeAgent, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(AgentError) as raised:
        agent.exec("true", **fields)
    assert raised.value.strerror == message


def test_users_name_leads_to_home_and_all_groups(agent: NativeAgent) -> None:
    name = pwd.getpwuid(1).pw_name
    done = agent.exec("id", "-nG", user=name)
    assert done.stdout.decode().split() == subprocess.check_output(["id", "-nG", name], text=True).split()


def test_terminal_has_the_size_asked_for_and_can_be_resized(agent: NativeAgent) -> None:
    script = 'stty size; trap "stty size; exit 4" WINCH; echo ready; while :; do sleep 0.05; done'
    with agent.call(Kind.EXEC, command("sh", "-c", script, tty=(33, 77))) as call:
        output, outcome = b"", b""
        for kind, payload in call.frames():
            if kind == Kind.STDOUT and b"ready" in (output + payload) and b"ready" not in output:
                call.send(frame(Kind.RESIZE, struct.pack("<II", 40, 120)))
            output += payload if kind == Kind.STDOUT else b""
            assert kind != Kind.STDERR, "a terminal has one output"
            if kind == Kind.EXIT:
                outcome = payload
                break
    assert output == b"33 77\r\nready\r\n40 120\r\n"
    assert struct.unpack_from("<II", outcome) == (0, 4)


def test_terminal_is_the_commands_own_and_its_input_ends(agent: NativeAgent) -> None:
    done = agent.exec("sh", "-c", "tty >&2; cat; echo the end", tty=(24, 80), stdin=b"typed\n", user="daemon")
    assert done.stderr == b""
    assert done.stdout.replace(b"typed\r\n", b"", 2).startswith(b"/dev/pts/")
    assert done.stdout.count(b"typed\r\n") == 2, "the terminal's echo, and cat's output"
    assert done.stdout.endswith(b"the end\r\n")


def test_each_of_several_commands_has_the_terminal(agent: NativeAgent) -> None:
    done = agent.exec(
        "sh", "-c", "echo one; tty > /dev/tty", tty=(24, 80), then=[(False, ["sh", "-c", "tty >/dev/tty"])]
    )
    first, *ttys = done.stdout.decode().split()
    assert first == "one"
    assert len(ttys) == 2 and ttys[0] == ttys[1]
    assert ttys[0].startswith("/dev/pts/")


def test_input_ends_apart_from_the_connection(agent: NativeAgent) -> None:
    done = agent.exec("sh", "-c", "cat; sleep 0.3; echo after", stdin=b"input\n")
    assert done.stdout == b"input\nafter\n"


def test_time_limit_ends_the_command_and_what_follows(agent: NativeAgent) -> None:
    start = time.monotonic()
    done = agent.exec("sh", "-c", "sleep 600", limit_ms=300, then=[(True, ["echo", "no"])])
    assert time.monotonic() - start < 60
    assert done.stdout == b""
    assert [(*outcome[:2], bool(outcome.timed_out)) for outcome in done.outcomes] == [(*KILLED, True)]


def test_time_limit_that_is_kept_leaves_no_trace(agent: NativeAgent) -> None:
    (outcome,) = agent.exec("true", limit_ms=60000).outcomes
    assert (outcome.kind, outcome.value, outcome.timed_out) == (0, 0, 0)


def test_next_command_runs_by_its_rule(agent: NativeAgent) -> None:
    done = agent.exec(
        "sh",
        "-c",
        "read line; echo first $line",
        stdin=b"one\ntwo\n",
        then=[
            (False, ["sh", "-c", "echo second; exit 7"]),
            (False, ["echo", "not this"]),
            (False, ["echo", "nor this"]),
            (True, ["cat"]),
            (False, ["no-such-command"]),
            (True, ["echo", "last"]),
        ],
    )
    assert done.stdout == b"first one\nsecond\ntwo\nlast\n"
    assert [outcome[:2] for outcome in done.outcomes] == [(0, 0), (0, 7), (0, 0), (2, errno.ENOENT), (0, 0)]


def test_files_are_in_place_before_the_command(agent: NativeAgent, tmp_path: Path) -> None:
    script, data = tmp_path / "script", tmp_path / "data"
    files = [(str(script), b"#!/bin/sh\ncat " + bytes(data), 0o4750, 1, 2), (str(data), b"\0binary\n", 0o600, 0, 0)]
    assert agent.exec(str(script), files=files).stdout == b"\0binary\n"
    status = script.stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o4750, 1, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "script"], "nothing is left beside"


def test_outcome_tells_time_and_memory(agent: NativeAgent) -> None:
    burn = "import time; block = bytearray(80 << 20)\nwhile time.process_time() < 0.3: pass"
    busy, idle = agent.exec("python3", "-c", burn, then=[(False, ["sleep", "0.4"])]).outcomes
    assert busy.user_us + busy.system_us >= 300_000
    assert busy.duration_us >= 300_000
    assert 80 << 10 <= busy.peak_kib < 800 << 10
    assert idle.duration_us >= 400_000
    assert idle.user_us + idle.system_us < 300_000


def test_signal_goes_to_the_process_group(agent: NativeAgent) -> None:
    with agent.call(Kind.EXEC, command("sh", "-c", "sleep 600 & echo ready; wait")) as call:
        for kind, payload in call.frames():
            if kind == Kind.STDOUT:
                call.send(frame(Kind.COMMAND_SIGNAL, struct.pack("<I", signal.SIGTERM)))
            if kind == Kind.EXIT:
                assert struct.unpack_from("<II", payload) == (1, signal.SIGTERM)
                return
    pytest.fail("no EXIT came")


def test_what_is_left_behind_neither_holds_nor_floods_the_call(agent: NativeAgent, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    done = agent.exec("sh", "-c", f"yes & echo $! > {pid}; sleep 0.1; echo done >&2")
    assert done.stderr == b"done\n"
    assert done.stdout.startswith(b"y\n")
    os.kill(int(pid.read_text()), signal.SIGKILL)


def test_output_that_is_not_read_stops_only_itself(agent: NativeAgent, tmp_path: Path) -> None:
    """The caller grants nothing for standard output: errors, signals and other callers go on."""
    script = f"yes & yes=$!; while [ ! -e {tmp_path}/go ]; do sleep 0.05; done; echo heard >&2; wait"
    call = Call(agent.connect(), Kind.EXEC, command("sh", "-c", script), window=DATA_LIMIT)
    with call:
        output = 0
        for kind, payload in call.frames():
            if kind == Kind.STDOUT:
                output += len(payload)
            if kind == Kind.STDOUT and output == DATA_LIMIT:
                assert agent.exec("echo", "other").stdout == b"other\n"
                (tmp_path / "go").touch()
            if kind == Kind.STDERR:
                assert payload == b"heard\n"
                call.send(frame(Kind.COMMAND_SIGNAL, struct.pack("<I", signal.SIGKILL)))
                break
        # The rest of the output is owed: the agent waits for the credit, and sends no byte without.
        call.grant(Kind.STDOUT, 1 << 20)
        rest = [(kind, payload) for kind, payload in call.frames() if kind != Kind.STDERR]
    assert output == DATA_LIMIT
    assert struct.unpack_from("<II", rest[-1][1]) == KILLED
    assert {kind for kind, _ in rest[:-1]} == {Kind.STDOUT}


def test_both_outputs_fill_the_agents_memory_to_its_end_and_no_further(agent: NativeAgent) -> None:
    """The window is larger than what the agent keeps, and the caller reads slowly: that memory is always full."""
    with Call(agent.connect(), Kind.EXEC, command("sh", "-c", "yes a & exec yes b >&2"), window=1 << 24) as call:
        call.hear_hello()
        taken = 0
        for _ in range(150):
            data = call.socket.recv(30011)
            assert data, f"the agent broke off after {taken} bytes"
            taken += len(data)
            time.sleep(0.015)


def test_input_that_is_not_taken_stops_no_signal(agent: NativeAgent) -> None:
    with agent.call(Kind.EXEC, command("sleep", "600")) as call:
        call.hear_hello()
        while call.credit:
            size = min(call.credit, DATA_LIMIT)
            call.send(frame(Kind.STDIN, bytes(size)))
            call.credit -= size
        call.send(frame(Kind.COMMAND_SIGNAL, struct.pack("<I", signal.SIGINT)))
        done = [payload for kind, payload in call.frames() if kind == Kind.EXIT]
    assert struct.unpack_from("<II", done[0]) == (1, signal.SIGINT)


def test_input_nobody_reads_goes_nowhere(agent: NativeAgent) -> None:
    assert agent.exec("sh", "-c", "exec <&-; sleep 0.3; echo enough", stdin=bytes(3_000_000)).stdout == b"enough\n"


def test_caller_that_ends_its_side_takes_the_command_along(agent: NativeAgent, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    call = agent.call(Kind.EXEC, command("sh", "-c", f"echo $$ > {pid}.new; mv {pid}.new {pid}; exec sleep 600"))
    wait_until(pid.exists)
    call.close()
    wait_until(lambda: is_gone(pid))
