"""smpark by the guest contract, docs/guest-contract.md, in guests that are booted with it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scripts.guest import qemu
from tests.support import guest
from tests.support.guest import Container, assert_ended_well, boot, configuration, said

pytestmark = pytest.mark.slow

FAULTS = "faults: ok: a late CPU, a killed caller, unloading and CPU hotplug end well"


def run_checks(assets: Path, scratch: Path, checks: list[str], cpus: int, *disks: Path) -> qemu.Boot:
    """Boot a container whose entrypoint runs these checks of smpark-test.c in turn."""
    container = Container()
    container.file("bin/smpark-test", guest.compile_guest_program("smpark-test.c", scratch), 0o755)
    script = "; ".join(f"smpark-test {check}" for check in checks)
    return boot(assets, scratch, configuration("sh", "-c", script), container, cpus=cpus, extra=guest.disks(*disks))


def test_one_cpu_parks_nobody(built_set: Path, tmp_path: Path) -> None:
    seen = run_checks(built_set, tmp_path, ["parking"], 1)
    assert_ended_well(seen)
    assert said(seen, "smpark-test: ") == ["parking: ok: parked and released 0 of 1 CPUs"]


def test_caller_reads_a_disk_while_parked_and_moves_to_its_interrupts_or_is_refused(
    built_set: Path, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"".join(bytes([number]) * 4096 for number in range(64)))
    seen = run_checks(built_set, tmp_path, ["disk"], 3, disk)
    assert_ended_well(seen)
    assert said(seen, "smpark-test: ") == [
        "disk: ok: read the disk while parked, from the CPU of its interrupts, and refused when there were two"
    ]


def test_cpus_park_and_go_on_whatever_goes_wrong(built_set: Path, tmp_path: Path) -> None:
    """The last check powers off while CPUs are parked, and says nothing."""
    seen = run_checks(built_set, tmp_path, ["parking", "faults", "parking", "poweroff"], 4)
    assert_ended_well(seen)
    parked = "parking: ok: parked and released 3 of 4 CPUs"
    assert said(seen, "smpark-test: ") == [parked, FAULTS, parked]
    assert not re.search(r"WARNING|BUG|rcu:.*stall|Call trace", seen.text)
