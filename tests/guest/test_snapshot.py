"""Guests under load that are parked through the agent, saved, and restored in a new QEMU.

The ordinary run takes a sample. All of it:
SUPERMACHINE_TEST_SNAPSHOTS=100 python3 scripts/test.py -- -k test_snapshot
"""

from __future__ import annotations

import os
import re
import shutil
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.guest.agent_frames import Kind, command
from tests.support import guest, snapshot
from tests.support.draws import assert_draws_differ, more_records
from tests.support.guest import Container
from tests.support.native_agent import wait_until
from tests.support.snapshot import Guest, assert_goes_on, registers_at_rest, wait_for_load

pytestmark = pytest.mark.slow

SNAPSHOTS = int(os.environ.get("SUPERMACHINE_TEST_SNAPSHOTS", "5"))
"""How many a row has."""
CLOCK_NS = 10_000_000
"""How far a restored clock may be off."""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    with snapshot.echo_server() as port:
        yield snapshot.container(tmp_path_factory.mktemp("program"), port)


def broken(running: Guest) -> int:
    """How often the guest was told that its connection to the host is broken."""
    return int(running.agent.exec("snapshot-load", "broken").stdout)


def assert_clock_is_right(running: Guest, uncertainty: int) -> None:
    """Within 10 ms, or what the agent said where the way to the guest takes longer; the best of some tries."""
    errors = []
    for _ in range(20):
        before = time.time_ns()
        guests = int(running.agent.exec("snapshot-load", "clock").stdout)
        after = time.time_ns()
        errors.append(max(before - guests, guests - after, 0))
        if errors[-1] <= max(CLOCK_NS, uncertainty):
            return
    pytest.fail(f"the clock is off by {min(errors)} ns, and the agent said by at most {uncertainty} ns")


def go_on(running: Guest) -> int:
    """Continue, tell the agent, and unpark; by how much the agent says that the clock may be off."""
    running.monitor("cont")
    uncertainty = running.agent.restored()
    running.agent.unpark()
    return uncertainty


def announce(running: Guest) -> None:
    """What QEMU does five times after a migration. One in thousands of them stopped the network device for good."""
    running.monitor("announce-self", initial=1, max=1, step=1, rounds=1000)


@pytest.mark.parametrize(("cpus", "kind"), [(4, "migrate"), (8, "savevm")])
def test_snapshots_in_a_row_all_wake_up(
    built_set: Path, tmp_path: Path, image: Container, cpus: int, kind: str
) -> None:
    """Each guest is restored from its predecessor, so that what breaks once shows in all that follow."""
    disk, saved = snapshot.make_disk(tmp_path), tmp_path / "saved"
    with snapshot.running(built_set, tmp_path, image, disk, cpus) as running:
        wait_for_load(running)
        told = broken(running)
        running.save(saved, kind)
    for number in range(1, SNAPSHOTS + 1):
        with snapshot.running(built_set, tmp_path, image, disk, cpus, saved, kind) as running:
            uncertainty = go_on(running)
            announce(running)
            assert_goes_on(running)
            assert_clock_is_right(running, uncertainty)
            before, told = told, broken(running)
            assert told > before, "the connection to the host was not told broken"
            print(f"snapshot {number} of {SNAPSHOTS} at {cpus} CPUs by {kind}: all goes on, clock {uncertainty} ns")
            if number < SNAPSHOTS:
                saved.unlink(missing_ok=True)
                running.save(saved, kind)


def test_guests_of_one_snapshot_differ_and_old_connections_end(
    built_set: Path, tmp_path: Path, image: Container
) -> None:
    disk, saved = snapshot.make_disk(tmp_path), tmp_path / "saved"
    with snapshot.running(built_set, tmp_path, image, disk, 2) as running:
        wait_for_load(running)
        old = running.agent.call(Kind.EXEC, command("sh", "-c", "sleep 4321"))
        wait_until(lambda: running.agent.status().served == 1)
        running.agent.exec("sh", "-c", ": > /draws; draws /draws > /dev/null 2>&1 < /dev/null &")
        more_records(running)
        running.save(saved, "migrate")
        old.socket.close()
    drawn, boots = [], []
    recorded: list[list[tuple[int, bytes]]] = []
    for number in range(2):
        clone = tmp_path / f"clone{number}"
        shutil.copy(disk, clone)
        with snapshot.running(built_set, tmp_path, image, clone, 2, saved, "migrate") as running:
            running.monitor("cont")
            running.agent.restored(hostname=f"clone{number}", machine_id="")
            running.agent.unpark()
            recorded.append(more_records(running))
            drawn.append(
                running.agent.exec("snapshot-load", "random", then=[(False, ["snapshot-load", "random"])]).stdout
            )
            boots.append(
                running.agent.exec("cat", "/etc/machine-id", "/etc/hostname", then=[(True, ["hostname"])]).stdout
            )
            wait_until(lambda: running.agent.status().served == 0)
            assert b"sleep 4321" not in running.agent.exec("ps").stdout, "the command of an old connection"
    first, second = (bytes.fromhex(text.decode().replace("\n", "")) for text in drawn)
    pieces = {first[at : at + 4] for at in range(len(first) - 3)}
    assert not [at for at in range(len(second) - 3) if second[at : at + 4] in pieces]
    assert_draws_differ(*recorded)
    assert boots[0].split()[0] != boots[1].split()[0]
    assert [text.split()[-1] for text in boots] == [b"clone0", b"clone1"]


def test_parked_registers_are_the_same_at_every_capture(built_set: Path, tmp_path: Path, image: Container) -> None:
    """From PARK to UNPARK, also after calls to the agent that interrupt every CPU."""
    disk = snapshot.make_disk(tmp_path)
    with snapshot.running(built_set, tmp_path, image, disk, 4) as running:
        line = running.machine.wait_for(r"^\[SUPERMACHINE-SMPARK\] state_gpa=0x[0-9a-f]+ version=1$", guest.LIMIT)
        wait_for_load(running)
        for _ in range(2):
            captures = []
            running.agent.park()
            for _ in range(3):
                running.agent.restored()  # sets the clock, which interrupts every CPU
                captures.append(registers_at_rest(running))
                page = read_memory(running, int(line.text.split("=")[1].split()[0], 16), 48, tmp_path)
                running.monitor("cont")
            assert_state(page, 4)
            running.agent.unpark()
            assert_goes_on(running)
            assert len(captures[0]) == 3
            for capture in captures:
                assert capture == captures[0]
            assert len([line for line in running.machine.lines if "state_gpa" in line.text]) == 1
            for registers in captures[0]:
                assert re.findall(r"X(?:0\d|1[0-7]|19|2[0-8])=([0-9a-f]+)", registers) == ["0" * 16] * 28


def read_memory(running: Guest, address: int, size: int, scratch: Path) -> bytes:
    file = scratch / "memory"
    running.monitor("pmemsave", val=address, size=size, filename=str(file))
    return file.read_bytes()


def assert_state(page: bytes, cpus: int) -> None:
    """As the contract has the state page, while parked."""
    magic, version, size, count, state, sequence, cpu = struct.unpack_from("<8s6I", page)
    arrived = struct.unpack_from(f"<{cpus}I", page, 32)
    assert (magic, version, count, state, cpu) == (b"SMPARK\r\n", 1, cpus, 2, 0)
    assert size >= 32 + 4 * cpus
    assert sequence % 2 == 1
    assert list(arrived[1:]) == [sequence] * (cpus - 1)
