"""VMGENID in a guest that is restored, and interrupts that are pending while CPUs are parked."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import guest, snapshot
from tests.support.draws import assert_draws_differ, more_records
from tests.support.guest import Container, configuration
from tests.support.native_agent import wait_until
from tests.support.snapshot import Guest, registers_at_rest, registers_later
from tests.support.vmgenid import INTERRUPT, RESCHEDULE, Host

pytestmark = pytest.mark.slow

RESEEDED = b"random: crng reseeded due to virtual machine fork"


@pytest.fixture
def image(tmp_path: Path) -> Container:
    made = Container()
    made.file("bin/draws", guest.compile_guest_program("draws.c", tmp_path), 0o755)
    return made


def reseeded(running: Guest) -> int:
    """How often the kernel has said that it made a new key for its random numbers."""
    return running.agent.exec("dmesg").stdout.count(RESEEDED)


def taken(running: Guest, cpus: int) -> list[int]:
    """How many of the device's interrupts each CPU has taken."""
    line = running.agent.exec("grep", "vmgenid", "/proc/interrupts").stdout.decode()
    return [int(word) for word in line.split()[1 : 1 + cpus]]


def interrupt(host: Host, running: Guest, number: int) -> None:
    """Raise the device's interrupt, the `number`th of a guest with two CPUs, and wait until it is taken."""
    host.interrupt()
    wait_until(lambda: taken(running, 2) == [number, 0])


def test_clones_draw_numbers_of_their_own_by_vmgenid_alone(built_set: Path, tmp_path: Path, image: Container) -> None:
    """Nobody says RESTORED to them. An interrupt without another number changes nothing."""
    host, saved = Host(tmp_path, 2), tmp_path / "saved"
    config = configuration("draws", "/draws")
    options = (config, image, 2)
    with snapshot.running_with(built_set, tmp_path, *options, None, "", host.arguments) as running:
        running.machine.wait_for("listening on vsock port 777", guest.LIMIT)
        interrupt(host, running, 1)
        assert reseeded(running) == 0
        host.change_number()
        interrupt(host, running, 2)
        assert reseeded(running) == 1
        interrupt(host, running, 3)
        assert reseeded(running) == 1
        more_records(running)
        running.save(saved, "migrate")
    recorded = []
    for _ in range(2):
        with snapshot.running_with(built_set, tmp_path, *options, saved, "migrate", host.arguments) as running:
            host.change_number()
            host.interrupt()
            running.monitor("cont")
            running.agent.unpark()
            recorded.append(more_records(running))
            assert reseeded(running) == 2, "once before it was saved, and once since"
    assert_draws_differ(*recorded)


def test_a_new_number_while_network_devices_change(built_set: Path, tmp_path: Path) -> None:
    """Linux tells WireGuard of it, which may wait for the lock of the network devices; an interrupt may not."""
    host, changing = Host(tmp_path, 2), "echo changing; while ip link set lo down && ip link set lo up; do :; done"
    options = (configuration("sh", "-c", changing), Container(), 2)
    with snapshot.running_with(built_set, tmp_path, *options, None, "", host.arguments) as running:
        running.machine.wait_for("changing", guest.LIMIT)
        for number in range(1, 51):
            host.change_number()
            interrupt(host, running, number)
        assert reseeded(running) == 50
        assert b"BUG: " not in running.agent.exec("dmesg").stdout


def test_parked_registers_are_the_same_with_an_interrupt_pending(built_set: Path, tmp_path: Path) -> None:
    """At a shared interrupt and at one of another CPU: before it is taken, in the guest restored then, and after."""
    host, disk, saved = Host(tmp_path, 4), snapshot.make_disk(tmp_path), tmp_path / "saved"
    pending = [(INTERRUPT, 2), (RESCHEDULE, 1), (RESCHEDULE, 3)]

    def assert_pending(running: Guest, before: list[str]) -> None:
        assert all(host.is_pending(*one) for one in pending)
        assert running.registers()[1:] == before

    def assert_taken(running: Guest, before: list[str]) -> None:
        """They are, and each CPU sleeps as before, once it has answered."""
        wait_until(lambda: registers_later(running) == before and not any(host.is_pending(*one) for one in pending))
        running.monitor("cont")

    with snapshot.echo_server() as port:
        work = snapshot.container(tmp_path, port)
        with snapshot.running(built_set, tmp_path, work, disk, 4, extra=host.arguments) as running:
            snapshot.wait_for_load(running)
            running.agent.park()
            before = registers_at_rest(running)
            for number, cpu in pending:
                host.interrupt(number, cpu)
            assert_pending(running, before)
            running.save_parked(saved, "migrate")
        options = (saved, "migrate", host.arguments)
        with snapshot.running(built_set, tmp_path, work, disk, 4, *options) as running:
            assert len(before) == 3
            host.route(INTERRUPT, 2)
            assert_pending(running, before)
            assert_taken(running, before)
            running.agent.restored()
            running.agent.unpark()
            snapshot.assert_goes_on(running)
            assert taken(running, 4) == [0, 0, 1, 0]
