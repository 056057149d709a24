"""What is kept of a console that prints without end, with a script in the place of QEMU."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.guest import qemu


@pytest.fixture
def machine(tmp_path: Path) -> qemu.Machine:
    """A console of 300,000 lines, and then one of 1 MiB."""
    program = tmp_path / "qemu"
    program.write_text(
        "#!/bin/sh\necho first\nseq 300000\nhead -c 1048576 /dev/zero | tr '\\0' x\nprintf '\\nlast\\n'\n"
    )
    program.chmod(0o755)
    emulator = qemu.Emulator(str(program), qemu.MACHINE, qemu.HOST_COMMAND_LINE)
    return qemu.Machine(tmp_path / "kernel", tmp_path / "initramfs", cpus=1, emulator=emulator)


@pytest.mark.slow
def test_the_last_lines_are_kept_and_long_ones_are_cut(machine: qemu.Machine) -> None:
    with machine:
        seen = machine.wait(120)
    assert seen.status == 0
    assert len(seen.lines) == 100_000
    assert max(len(line.text) for line in seen.lines) == 64 << 10
    assert seen.lines[-1].text == "last"


@pytest.mark.slow
def test_a_line_is_found_while_others_are_forgotten(machine: qemu.Machine) -> None:
    with machine:
        assert machine.wait_for("^last$", 120).text == "last"
        assert machine.wait_for("^300000$", 120).text == "300000"
        with pytest.raises(TimeoutError, match="QEMU ended"):
            machine.wait_for("^first$", 120)
