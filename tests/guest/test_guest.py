"""The agent and smpark by the guest contract, docs/guest-contract.md, in guests that are booted with it."""

from __future__ import annotations

import errno
import re
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest

from scripts.guest import qemu
from tests.support import guest
from tests.support.guest import Container, assert_ended_well, boot, configuration, said, scripted

pytestmark = pytest.mark.slow

EXEC, STDIN, SIGNAL, STDOUT, STDERR, EXIT = 1, 2, 3, 16, 17, 18
FRAME_LIMIT = 1 << 20
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def frame(kind: int, payload: bytes = b"") -> bytes:
    return struct.pack("<II", len(payload), kind) + payload


def command(*argv: str, env: Sequence[str] = (), cwd: str = "") -> bytes:
    strings = b"".join(word.encode() + b"\0" for word in [*argv, *env, cwd])
    return frame(EXEC, struct.pack("<II", len(argv), len(env)) + strings)


def frames(data: bytes) -> list[tuple[int, bytes]]:
    """The frames of a whole stream, written down from the contract and from nothing else."""
    found = []
    while data:
        size, kind = struct.unpack_from("<II", data)
        assert len(data) >= 8 + size
        found.append((kind, data[8 : 8 + size]))
        data = data[8 + size :]
    return found


def output(answer: list[tuple[int, bytes]], kind: int) -> bytes:
    return b"".join(payload for found, payload in answer if found == kind)


@pytest.mark.parametrize("cpus", [1, 4])
def test_smpark(built_set: Path, tmp_path: Path, cpus: int) -> None:
    checks = ["smpark"] if cpus == 1 else ["smpark", "smpark-faults", "smpark"]
    seen = selftest(built_set, tmp_path, checks, cpus)
    assert_ended_well(seen)
    parked = f"smpark: ok: parked and released {cpus - 1} of {cpus} CPUs"
    faults = "smpark-faults: ok: a late CPU, a killed caller, unloading and CPU hotplug end well"
    assert said(seen, "selftest: ") == ([parked] if cpus == 1 else [parked, faults, parked])
    assert said(seen, "init-oci: exit status ") == ["0"]
    assert not re.search(r"WARNING|BUG|rcu:.*stall|Call trace", seen.text)


def test_power_off_while_parked(built_set: Path, tmp_path: Path) -> None:
    seen = selftest(built_set, tmp_path, ["poweroff"], 4)
    assert_ended_well(seen)
    assert not said(seen, "selftest: ")


def selftest(assets: Path, scratch: Path, checks: list[str], cpus: int) -> qemu.Boot:
    container = Container()
    container.file("agent", (assets / "supermachine-agent").read_bytes(), 0o755)
    return boot(assets, scratch, configuration("/agent", "selftest", *checks), container, cpus=cpus)


def test_agent_commands(built_set: Path, tmp_path: Path) -> None:
    """Commands through the agent's own caller: what goes in, what comes out, how they end, several at once."""
    container = scripted(built_set, "agent-commands.sh")
    container.file("bin/nonblocking", guest.compile_guest_program("nonblocking.c", tmp_path), 0o755)
    seen = boot(built_set, tmp_path, configuration("agent-commands.sh"), container)
    assert_ended_well(seen)
    expected = {
        "out: ": "a b",
        "err: ": "no",
        "status: ": "9",
        "signal: ": "143",
        "missing: ": "127",
        "not a program: ": "126",
        "no folder: ": "127",
        "cwd: ": "/etc /",
        "env: ": "A=1 B=2",
        "own env: ": f"HOME=/root PATH={DEFAULT_PATH}",
        "big: ": "3000000",
        "both ways: ": "6000000",
        "unread: ": "enough",
        "left behind: ": "y",
        "unheard: ": "/done",
        "nonblocking: ": "3000000",
        "late: ": "200000 9",
        "closed input: ": "0",
        "closed output: ": "9",
        "closed errors: ": "9",
        "together: ": "8",
        "gone: ": "/dev/null",
        "gone: /dev/z": "ero",
        "not root: ": "125",
    }
    assert {prefix: said(seen, prefix)[:1] for prefix in expected} == {k: [v] for k, v in expected.items()}


def test_agent_frames(built_set: Path, tmp_path: Path) -> None:
    """The wire format, spoken by another program; what is not valid ends its own connection only."""
    valid = {
        "output": command("sh", "-c", "echo out; echo err >&2; exit 3"),
        "stdin": command("cat") + frame(STDIN, b"one ") + frame(STDIN, b"two") + frame(STDIN),
        "signal": command("sleep", "60") + frame(SIGNAL, struct.pack("<I", 15)),
        "not run": command("/no/such/file"),
        "environment": command("/bin/sh", "-c", "echo $WORD; pwd", env=["WORD=x y"], cwd="/etc"),
    }
    invalid = {
        "not EXEC first": frame(STDIN, b"x"),
        "no arguments": frame(EXEC, struct.pack("<II", 0, 0) + b"\0"),
        "empty EXEC": frame(EXEC),
        "more strings than said": frame(EXEC, struct.pack("<II", 1, 0) + b"id\0\0\0"),
        "fewer strings than said": frame(EXEC, struct.pack("<II", 3, 0) + b"id\0\0"),
        "a count beyond memory": frame(EXEC, struct.pack("<II", 0xFFFFFFFF, 0xFFFFFFFF) + b"id\0\0"),
        "no last NUL": frame(EXEC, struct.pack("<II", 1, 0) + b"id\0/"),
        "too long": struct.pack("<II", FRAME_LIMIT + 1, EXEC),
        "a second EXEC": command("sleep", "60") + command("id"),
        "unknown kind": command("sleep", "60") + frame(77),
        "signal 0": command("sleep", "60") + frame(SIGNAL, struct.pack("<I", 0)),
        "signal of 2 bytes": command("sleep", "60") + frame(SIGNAL, b"\x0f\0"),
        "noise": bytes(range(256)),
        "too long after a valid one": command("sleep", "60") + struct.pack("<II", 0xFFFFFFFF, STDIN),
    }
    cases = [*valid.values(), *invalid.values()]
    container = scripted(built_set, "agent-frames.sh")
    container.file("bin/vsock-raw", guest.compile_guest_program("vsock-raw.c", tmp_path), 0o755)
    container.file("half", command("sleep", "60"))
    for index, case in enumerate(cases):
        container.file(f"cases/{index}", case)
    seen = boot(built_set, tmp_path, configuration("agent-frames.sh"), container)
    assert_ended_well(seen)
    answers = {}
    for line in said(seen, "case "):
        number, status, *data = line.replace(":", "").split()
        assert status == "0", f"case {number}: the agent did not close"
        answers[int(number)] = frames(bytes.fromhex("".join(data)))
    named = dict(zip([*valid, *invalid], (answers[index] for index in range(len(cases)))))
    assert output(named["output"], STDOUT) == b"out\n"
    assert output(named["output"], STDERR) == b"err\n"
    assert named["output"][-1] == (EXIT, struct.pack("<II", 0, 3))
    assert output(named["stdin"], STDOUT) == b"one two"
    assert named["stdin"][-1] == (EXIT, struct.pack("<II", 0, 0))
    assert named["signal"] == [(EXIT, struct.pack("<II", 1, 15))]
    assert named["not run"] == [(EXIT, struct.pack("<II", 2, errno.ENOENT))]
    assert output(named["environment"], STDOUT) == b"x y\n/etc\n"
    assert {name: named[name] for name in invalid} == {name: [] for name in invalid}
    assert said(seen, "unprivileged: ") == ["0 "]
    assert said(seen, "half: ") == ["0 "], "a caller that ends its side is gone"
    assert said(seen, "left: ") == ["0"], "the commands of broken connections are gone"
    assert said(seen, "good: ") == ["still here"]
