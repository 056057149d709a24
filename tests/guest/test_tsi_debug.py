"""AF_TSI in a kernel that watches itself (`build.sh --debug`): all cases, all faults of the host, and random calls.

On demand: that kernel takes long to build, and is slow. Whatever it complains about on its console is a fault.
"""

from __future__ import annotations

import random
import re
import struct
import subprocess
from pathlib import Path

import pytest

from scripts.guest import qemu, tsi_messages
from scripts.guest.behaviour import LIBKRUN, STANDARD, Behaviour
from scripts.guest.device import Device
from scripts.guest.tsi import Host
from tests.guest.test_tsi import CASES, DEBUGGED, HIJACK, run_cases
from tests.guest.test_tsi_faults import FAULTS, run_faults
from tests.support import guest
from tests.support.guest import Container, assert_ended_well, configuration, said
from tests.support.tsi_host import Servers

pytestmark = [pytest.mark.slow, pytest.mark.ondemand]

LIMIT = 3000.0
MEMORY = "1G"
SECONDS = 600
SEED = 20261125
COMPLAINT = (
    r"WARNING|BUG|KASAN|UBSAN|Oops|Call trace|rcu:.*stall|INFO: task|possible (recursive|circular)|kmemleak: .*unref"
)


@pytest.fixture(scope="module")
def debug_set(project: Path) -> Path:
    """The set with that kernel; built unless it is in the build's cache."""
    build = project / "kernel-build" / "scripts" / "build.sh"
    subprocess.run(["bash", str(build), "--debug"], check=True)
    return project / "kernel-build" / "out" / "aarch64-debug"


def assert_no_complaint(seen: qemu.Boot) -> None:
    """The guest also came to the end of debugged.sh, which looks for lost memory."""
    assert_ended_well(seen)
    assert said(seen, "debugged: ") == ["done"]
    lines = [line.text for line in seen.lines]
    found = [number for number, line in enumerate(lines) if re.search(COMPLAINT, line)]
    assert not found, "\n".join(lines[found[0] : found[0] + 60])


@pytest.mark.parametrize("behaviour", [STANDARD, LIBKRUN], ids=["standard", "libkrun"])
def test_cases(debug_set: Path, tmp_path: Path, behaviour: Behaviour) -> None:
    ran = run_cases(debug_set, tmp_path, behaviour, "debugged", memory=MEMORY, limit=LIMIT)
    assert ran.said == dict.fromkeys(CASES, "ok")
    assert ran.complaints == []
    assert_no_complaint(ran.seen)


def test_faults_of_the_host(debug_set: Path, tmp_path: Path) -> None:
    seen = run_faults(debug_set, tmp_path, "debugged", memory=MEMORY, limit=LIMIT)
    assert [said(seen, f"case {fault}: ") for fault in FAULTS] == [["ok"]] * len(FAULTS)
    assert_no_complaint(seen)


def test_random_calls_for_ten_minutes(debug_set: Path, tmp_path: Path) -> None:
    """In half of the processes allocations of the kernel fail, and one answer of the host in ten is wrong."""
    container = Container()
    container.file("bin/random", guest.compile_guest_program("tsi-random.c", tmp_path), 0o755)
    container.file("bin/debugged", DEBUGGED, 0o755)
    choose = random.Random(SEED)

    def reply(port: int, operation: int, request: tsi_messages.Request, wanted: bytes) -> list[bytes]:
        if choose.random() < 0.9:
            return [wanted]
        wrong = [[], [b""], [wanted[:2]], [wanted] * 2, [struct.pack("<i", -choose.randrange(200))]]
        return choose.choice([*wrong, [choose.randbytes(choose.randrange(3732))]])

    with Device() as device:
        host = Host(device.link, on_reply=reply)
        with Servers(lambda port: host.wait_for_listener(port, 1)) as servers:
            config = configuration("debugged", "random", str(SECONDS), str(SEED), *servers.arguments)
            with guest.running(
                debug_set, tmp_path, config, container, vsock=device, memory=MEMORY, command_line=HIJACK
            ) as machine:
                seen = machine.wait(LIMIT)
    (line,) = said(seen, "random: ")
    assert line.endswith(" 0 stuck")
    assert_no_complaint(seen)
