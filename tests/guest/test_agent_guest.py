"""The agent by docs/guest-contract.md, in guests that are booted with it."""

from __future__ import annotations

import errno
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from scripts.guest import qemu
from scripts.guest.agent import Agent, AgentError
from scripts.guest.agent_frames import Kind, command, frame
from scripts.guest.device import Device
from tests.support import guest
from tests.support.disk import image
from tests.support.guest import Container, assert_ended_well, boot, configuration, said, scripted
from tests.support.native_agent import THOROUGH, wait_until

pytestmark = pytest.mark.slow

PARKS = 5
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def test_commands_through_the_agent_s_own_caller_do_what_they_say(built_set: Path, tmp_path: Path) -> None:
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
        "env: ": f"A=1 B=2 HOME=/root PATH={DEFAULT_PATH}",
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


def test_agent_with_one_cpu_parks_without_the_module(built_set: Path, tmp_path: Path) -> None:
    with Device() as device:
        config = configuration("sleep", "1000000", on_exit="idle")
        with guest.running(
            built_set, tmp_path, config, Container(), vsock=device, cpus=1, without=["smpark.ko"]
        ) as machine:
            machine.wait_for("listening on vsock port 777", guest.LIMIT)
            agent = Agent(lambda: device.connect(777, timeout=120))
            agent.park()
            assert agent.status().parked == 1
            agent.unpark()
            assert agent.exec("echo", "on").stdout == b"on\n"
            agent.power_off()
            assert_ended_well(machine.wait(guest.LIMIT))


def test_restored_waits_for_no_disk_while_parked(built_set: Path, tmp_path: Path) -> None:
    """The root's journal is always at work, and its thread may be on a parked CPU."""
    upper = image(tmp_path / "upper", "mkfs.ext4", megabytes=32)
    flush = "while :; do echo $$ > /flushed; sync; done"
    with Device() as device:
        config = configuration("sh", "-c", f"({flush}) & {flush}", upper="/dev/vda")
        with guest.running(
            built_set, tmp_path, config, Container(), vsock=device, cpus=4, extra=guest.disks(upper)
        ) as machine:
            machine.wait_for("listening on vsock port 777", guest.LIMIT)
            agent = Agent(lambda: device.connect(777, timeout=120))
            seen = set()
            for number in range(PARKS):
                agent.park()
                agent.restored(machine_id=f"{number:032x}", notice_file="/notice")
                agent.unpark()
                assert agent.read("/etc/machine-id")[0] == b"%032x\n" % number
                seen.add(agent.read("/notice")[0])
            assert len(seen) == PARKS
            agent.power_off()
            assert_ended_well(machine.wait(guest.LIMIT))


# --- called by the host ---

CALLERS = 200
COMMANDS = 10_000 if THOROUGH else 50
STREAM = (1 << 30) if THOROUGH else (8 << 20)
COPY = ["busybox", "dd", "bs=64k", "iflag=fullblock"]  # head and wc take the bytes one by one
HELD, RUNNING, ENDED = 1, 2, 3
SLACK_FILES = 256
"""How many the kernel's count of open files may be behind by, as each CPU has a part of it; one per command is more."""
SLACK_KIB = 4096
"""By how much the kernel's own memory may grow while its caches fill: a few hundred bytes per command are more."""
WORKLOAD = "trap 'echo told > /told' USR1; trap 'exit 7' TERM; echo $$ > /started; while :; do sleep 0.1; done"
LOCKED_KIB = 200
"""More than the kernel's statistics of locked memory may be behind by, and less than the agent has."""
WATCH = f"""
until [ -e /enough ]; do
    while read -r name kib unit; do [ "$name" != Mlocked: ] || now=$kib; done < /proc/meminfo
    [ "$now" -lt {LOCKED_KIB} ] && state=free || state=locked
    [ $state = "$last" ] || echo "memory: $last to $state, $now KiB" > /dev/console
    last=$state
done
"""


class Booted(NamedTuple):
    """A guest and its agent."""

    machine: qemu.Machine
    agent: Agent


@pytest.fixture(scope="module")
def agent(booted: Booted) -> Agent:
    return booted.agent


@pytest.fixture(scope="module")
def booted(built_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Booted]:
    """A guest whose workload is held at first; the tests below go through its life in order."""
    config = configuration("sh", "-c", WORKLOAD, hold="exec", on_exit="idle", hostname="source")
    scratch = tmp_path_factory.mktemp("guest")
    with Device() as device:
        with guest.running(built_set, scratch, config, Container(), vsock=device, cpus=4) as machine:
            machine.wait_for("listening on vsock port 777", guest.LIMIT)
            agent = Agent(lambda: device.connect(777, timeout=120))
            yield Booted(machine, agent)
            agent.park()
            agent.power_off()
            seen = guest.ended(machine)
        assert not device.complaints
    assert_ended_well(seen)


def test_workload_is_held_until_go(agent: Agent) -> None:
    assert agent.status()[0] == HELD
    with pytest.raises(AgentError) as raised:
        agent.signal(15)
    assert raised.value.errno == errno.ESRCH
    agent.go()
    wait_until(lambda: agent.status()[0] == RUNNING)
    with pytest.raises(AgentError) as raised:
        agent.go()
    assert raised.value.errno == errno.EALREADY


def test_callers_at_once_from_the_host_are_all_served(agent: Agent) -> None:
    outputs: list[bytes] = []

    def call(number: int) -> None:
        outputs.append(agent.exec("echo", str(number), timeout=300).stdout)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outputs) == sorted(b"%d\n" % number for number in range(CALLERS))


class Left(NamedTuple):
    """What there is in all of the guest: the agent's own open files are among those counted."""

    processes: int
    files: int
    kernel_kib: int


def what_is_there(agent: Agent) -> Left:
    processes = agent.exec("sh", "-c", "ls /proc | grep -c '^[0-9]'").stdout
    memory = re.search(rb"SUnreclaim: +(\d+) kB", agent.read("/proc/meminfo")[0])
    assert memory
    return Left(int(processes), int(agent.read("/proc/sys/fs/file-nr")[0].split()[0]), int(memory[1]))


def test_commands_in_a_row_leave_nothing_behind(agent: Agent) -> None:
    before = [what_is_there(agent) for _ in range(5)]  # the workload makes processes of its own
    most = Left(*map(max, zip(*before)))
    for number in range(COMMANDS):
        assert agent.exec("echo", str(number)).stdout == b"%d\n" % number
    wait_until(lambda: what_is_there(agent).processes <= most.processes)
    wait_until(lambda: what_is_there(agent).files <= most.files + SLACK_FILES)
    after = what_is_there(agent)
    print(f"{COMMANDS} commands: before {most}, after {after}")
    assert after.kernel_kib <= most.kernel_kib + SLACK_KIB
    assert agent.status()[-2:] == (0, 0)


def test_streams_go_through_in_each_direction(agent: Agent) -> None:
    taken = 0
    with agent.call(Kind.EXEC, command(*COPY, f"count={STREAM >> 16}", "if=/dev/zero")) as call:
        for kind, payload in call.frames():
            if kind == Kind.STDOUT:
                taken += len(payload)
                call.grant(kind, len(payload))
    assert taken == STREAM
    left = STREAM
    with agent.call(Kind.EXEC, command(*COPY, "of=/dev/null")) as call:
        call.hear_hello()
        frames = call.frames()
        while left:
            while not call.credit:
                next(frames)
            size = min(call.credit, 65536, left)
            call.send(frame(Kind.STDIN, bytes(size)))
            call.credit -= size
            left -= size
        call.send(frame(Kind.STDIN_END))
        said = b"".join(payload for kind, payload in frames if kind == Kind.STDERR)
    assert said.startswith(b"%d+0 records in\n" % (STREAM >> 16))


def test_files_and_terminals_work_in_the_guest(agent: Agent) -> None:
    content = os.urandom(300_000)
    agent.write("/file", content, 0o640, (1000, 50))
    assert agent.read("/file") == (content, (0o640, 1000, 50))
    done = agent.exec("sh", "-c", "ls -l /dev/fd/0; id -un", tty=(24, 80), user="app")
    assert b"/dev/pts/" in done.stdout
    assert done.stdout.endswith(b"app\r\n")


def test_parked_agent_answers_and_lets_others_wait(agent: Agent) -> None:
    agent.park()
    with pytest.raises(AgentError) as raised:
        agent.park()
    assert raised.value.errno == errno.EBUSY
    assert agent.status()[0] == RUNNING
    assert agent.status().parked == 1
    for steer in (agent.go, lambda: agent.signal(15)):
        with pytest.raises(AgentError) as raised:
            steer()
        assert raised.value.errno == errno.EBUSY
    with agent.call(Kind.EXEC, command("echo", "later")) as call:
        wait_until(lambda: agent.status().waiting == 1)
        agent.unpark()
        assert [payload for kind, payload in call.frames() if kind == Kind.STDOUT] == [b"later\n"]
    assert agent.status().parked == 0
    with pytest.raises(AgentError) as raised:
        agent.unpark()
    assert raised.value.errno == errno.EALREADY


def test_parked_agent_is_locked_in_memory(booted: Booted) -> None:
    """No process of the image sees the agent, so a watcher on CPU 0 sees how much is locked in all of the guest."""
    booted.agent.exec("sh", "-c", f"busybox taskset 1 sh -c '{WATCH}' > /dev/null 2>&1 < /dev/null &")
    booted.machine.wait_for("^memory:  to free", guest.LIMIT)
    booted.agent.park()
    booted.machine.wait_for("^memory: free to locked", guest.LIMIT)
    booted.agent.unpark()
    booted.machine.wait_for("^memory: locked to free", guest.LIMIT)
    booted.agent.exec("touch", "/enough")


def test_restored_says_at_once_what_failed_and_while_parked_at_unpark(agent: Agent) -> None:
    with pytest.raises(AgentError, match="NOTICE_FILE: No such file"):
        agent.restored(notice_file="/no/such/notice")
    agent.park()
    agent.restored(notice_file="/no/such/notice")
    with pytest.raises(AgentError, match="NOTICE_FILE: No such file"):
        agent.unpark()
    assert agent.status().parked == 0


@pytest.mark.parametrize("parked", [False, True])
def test_restored_renews_clock_randomness_and_identity(agent: Agent, parked: bool) -> None:
    agent.exec("sh", "-c", "date -s '2001-02-03 04:05:06'; rm -f /told /notice; : > /etc/machine-id")
    monotonic = float(agent.exec("cat", "/proc/uptime").stdout.split()[0])
    old = agent.call(Kind.EXEC, command("sleep", "600"))
    wait_until(lambda: agent.status().served == 1)
    if parked:
        agent.park()
    uncertainty = agent.restored(hostname="clone", machine_id="", notice_signal=10, notice_file="/notice")
    if parked:
        agent.unpark()
    before = time.time()
    guests = float(agent.exec("date", "+%s").stdout)
    assert before - 1 - uncertainty / 1e9 < guests < time.time() + uncertainty / 1e9
    assert float(agent.exec("cat", "/proc/uptime").stdout.split()[0]) > monotonic
    with old:
        assert [kind for kind, _ in old.frames()] == [], "old connections are dropped"
    assert agent.exec("hostname").stdout == b"clone\n"
    machine_id = agent.read("/etc/machine-id")[0].decode()
    assert len(machine_id) == 33
    assert machine_id[12] == "4"
    assert agent.read("/notice")[0].startswith(b"restored ")
    wait_until(lambda: agent.exec("cat", "/told").stdout == b"told\n")


def test_signal_ends_the_workload_and_status_tells_how(agent: Agent) -> None:
    agent.signal(15)
    wait_until(lambda: agent.status()[0] == ENDED)
    assert agent.status()[1:3] == (0, 7)
