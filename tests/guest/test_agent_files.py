"""Files and streams through the agent compiled for this machine with sanitizers."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from pathlib import Path

import pytest

from scripts.guest.agent import AgentError, Call
from scripts.guest.agent_frames import DATA_LIMIT, Kind, Tag, command, frame, string
from tests.support.native_agent import THOROUGH, NativeAgent, wait_until

pytestmark = pytest.mark.slow

STREAM = (1 << 30) if THOROUGH else (32 << 20)


def test_file_is_written_whole_with_owner_and_mode(agent: NativeAgent, tmp_path: Path) -> None:
    path, content = tmp_path / "file", os.urandom(3_000_001)
    path.symlink_to("/etc/passwd")
    assert agent.write(str(path), content, 0o4710, (3, 4)) == len(content)
    status = path.lstat()
    assert stat.S_ISREG(status.st_mode)
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o4710, 3, 4)
    assert path.read_bytes() == content
    assert agent.read(str(path)) == (content, (0o4710, 3, 4))
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_empty_file_is_written_and_read(agent: NativeAgent, tmp_path: Path) -> None:
    assert agent.write(str(tmp_path / "empty"), b"") == 0
    assert agent.read(str(tmp_path / "empty"))[0] == b""


def test_file_that_is_broken_off_is_not_there(agent: NativeAgent, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    call = agent.call(Kind.WRITE, string(Tag.PATH, str(path)))
    call.send(frame(Kind.DATA, bytes(DATA_LIMIT)))
    wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
    call.close()
    wait_until(lambda: [entry.name for entry in tmp_path.iterdir()] == ["file"])
    assert path.read_bytes() == b"old"


def test_file_of_proc_is_read_to_its_end(agent: NativeAgent) -> None:
    assert b"Linux version" in agent.read("/proc/version")[0]


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("/no/such", "/no/such: No such file or directory"),
        ("/etc", "/etc: Is a directory"),
        ("/dev/zero", "/dev/zero: Invalid argument"),
        ("FIFO", "FIFO: Invalid argument"),
    ],
)
def test_what_is_no_file_is_not_read(agent: NativeAgent, path: str, line: str, tmp_path: Path) -> None:
    fifo = str(tmp_path / "fifo")
    os.mkfifo(fifo)
    with pytest.raises(AgentError) as raised:
        agent.read(path.replace("FIFO", fifo))
    assert raised.value.strerror == line.replace("FIFO", fifo)


@pytest.mark.parametrize(
    ("path", "line"), [("/no/such", "/no/such: No such file or directory"), ("/etc/", "/etc/: Is a directory")]
)
def test_file_that_cannot_be_is_not_written(agent: NativeAgent, path: str, line: str) -> None:
    with pytest.raises(AgentError) as raised:
        agent.write(path, b"x" * 1_000_000)
    assert raised.value.strerror == line


def test_full_disk_is_an_error_and_leaves_the_old_file(agent: NativeAgent, tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", tmp_path], check=True)
    try:
        agent.write(str(tmp_path / "file"), b"old")
        with pytest.raises(AgentError) as raised:
            agent.write(str(tmp_path / "file"), bytes(1_000_000))
        assert raised.value.errno == errno.ENOSPC
        assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"old")]
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_streams_go_through_in_each_direction(agent: NativeAgent) -> None:
    """Without a byte too much in the listening process, and with both ends checked."""
    piece = bytes(range(256)) * 256
    taken = 0
    with agent.call(Kind.EXEC, command("sh", "-c", f"yes 0123456789abcde | head -c {STREAM}")) as call:
        for kind, payload in call.frames():
            if kind == Kind.STDOUT:
                expected = b"0123456789abcde\n"
                assert payload[:64] == (expected * 6)[taken % 16 :][: len(payload[:64])]
                taken += len(payload)
                call.grant(kind, len(payload))
    assert taken == STREAM
    with agent.call(Kind.EXEC, command("cksum")) as call:
        call.hear_hello()
        send_pieces(call, piece, STREAM // len(piece))
        output = [payload for kind, payload in call.frames() if kind == Kind.STDOUT]
    assert output[0].split()[1] == b"%d" % STREAM


def send_pieces(call: Call, piece: bytes, count: int) -> None:
    """Send the piece so often, as the agent grants it, and the end."""
    frames = call.frames()
    for _ in range(count):
        while call.credit < len(piece):
            assert next(frames)[0] == Kind.CREDIT
        call.send(frame(Kind.STDIN, piece))
        call.credit -= len(piece)
    call.send(frame(Kind.STDIN_END))
