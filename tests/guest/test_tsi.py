"""AF_TSI in guests without a network device: the cases of tests/guest/tsi/, each a test, with the host at its ways."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from scripts.guest import qemu
from scripts.guest.agent import Agent
from scripts.guest.behaviour import LIBKRUN, STANDARD, Behaviour
from scripts.guest.device import Device
from scripts.guest.tsi import Host
from tests.support import guest
from tests.support.guest import Container, assert_ended_well, configuration, said
from tests.support.tsi_host import Servers

pytestmark = pytest.mark.slow

DEBUGGED = (guest.SOURCES / "debugged.sh").read_bytes()
HIJACK = f"{qemu.COMMAND_LINE} tsi_hijack tsi_hijack_unix"
LIMIT = 400.0
SOURCES = sorted((guest.SOURCES / "tsi").glob("*.c"))
CASES = [name for source in SOURCES for name in re.findall(r"^CASE\((\w+)\)", source.read_text(), re.MULTILINE)]
RELEASED = 15.0
"""Seconds in which a host has forgotten all, libkrun's delay included."""


class Ran(NamedTuple):
    """How the cases went: `said` has the outcome of each."""

    said: dict[str, str]
    complaints: list[str]
    left: list[str]
    seen: qemu.Boot


@pytest.fixture(scope="module", params=[STANDARD, LIBKRUN], ids=["standard", "libkrun"])
def ran(request: pytest.FixtureRequest, built_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """One boot in which all cases run."""
    return run_cases(built_set, tmp_path_factory.mktemp("tsi"), request.param)


def run_cases(
    assets: Path,
    scratch: Path,
    behaviour: Behaviour,
    *before: str,
    memory: str = qemu.MEMORY,
    limit: float = LIMIT,
) -> Ran:
    """Boot a guest of `assets` that runs all cases; `before` are the words before theirs on its command line."""
    container = Container()
    container.file("bin/cases", guest.compile_guest_program("tsi/*.c", scratch), 0o755)
    container.file("bin/debugged", DEBUGGED, 0o755)
    device = Device(behaviour)
    host = Host(device.link)
    with Servers(lambda port: host.wait_for_listener(port, 20)) as servers, device:
        config = configuration(*before, "cases", *servers.arguments, on_exit="idle")
        with guest.running(
            assets, scratch, config, container, vsock=device, memory=memory, command_line=HIJACK
        ) as machine:
            machine.wait_for("^cases: done$", limit)
            left = what_is_left(host, device)
            machine.wait_for("^init-oci: exit status", limit)
            Agent(lambda: device.connect(777, timeout=guest.LIMIT)).power_off()
            seen = machine.wait(limit)
        outcomes = dict(line.split(": ", 1) for line in said(seen, "case "))
        return Ran(outcomes, device.complaints, left, seen)


def what_is_left(host: Host, device: Device) -> list[str]:
    """The host's sockets and streams, once it has had time to forget them; a guest that still runs forgets nothing."""
    end = time.monotonic() + RELEASED
    while (host.sockets or host.accepted or device.link.streams) and time.monotonic() < end:
        time.sleep(0.2)
    accepted = [f"accepted connection {key}" for key in host.accepted]
    return [f"socket {port:#x}" for port in host.sockets] + accepted + [f"stream {key}" for key in device.link.streams]


@pytest.mark.parametrize("case", CASES)
def test_the_case_holds(ran: Ran, case: str) -> None:
    assert ran.said[case] == "ok"


def test_the_guest_powers_off_without_a_warning(ran: Ran) -> None:
    assert_ended_well(ran.seen)
    assert not re.search(r"WARNING|BUG|Oops|Call trace|rcu:.*stall", ran.seen.text)


def test_the_kernel_knows_the_words_that_hosts_say_to_it(ran: Ran) -> None:
    assert "tsi_hijack_unix" in ran.seen.text
    assert "Unknown kernel command line" not in ran.seen.text


def test_guest_did_nothing_wrong(ran: Ran) -> None:
    """Also: nothing but zeros behind the addresses on the wire."""
    assert ran.complaints == []


def test_nothing_is_left_when_the_programs_have_ended(ran: Ran) -> None:
    assert ran.left == []
