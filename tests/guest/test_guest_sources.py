"""What a static analyser says of the guest's code."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from scripts.machine.packages import install_commands
from tests.support import guest

CHECKS = ["--enable=warning,style,performance,portability", "--std=c11", "--suppress=missingIncludeSystem"]
KERNEL_CHECKS = [
    *CHECKS,
    "--suppress=constParameter",  # the kernel gives the signatures of what it calls
    # Two macros of headers that are not there.
    "-Dfor_each_cpu(cpu,mask)=while ((cpu = next_cpu(mask)) < 8)",
    "-Dfor_each_online_cpu(cpu)=while ((cpu = next_cpu(0)) < 8)",
]


@pytest.mark.slow
def test_cppcheck_finds_nothing_in_init_oci_and_agent(project: Path) -> None:
    folders = [str(project / "kernel-build" / name) for name in ("init-oci", "agent")]
    programs = [*guest.SOURCES.glob("*.c"), *guest.SOURCES.glob("agent/*.c")]
    assert _cppcheck(CHECKS, *folders, *map(str, sorted(programs))) == ""


def test_cppcheck_finds_nothing_in_smpark(project: Path) -> None:
    assert _cppcheck(KERNEL_CHECKS, str(project / "kernel-build" / "smpark")) == ""


def test_cppcheck_finds_a_mistake_in_smpark(project: Path, tmp_path: Path) -> None:
    code = (project / "kernel-build" / "smpark" / "park.c").read_text()
    (tmp_path / "park.c").write_text(code + "\nint mistake(void)\n{\n\tint cpu;\n\n\treturn cpu;\n}\n")
    assert "Uninitialized variable: cpu" in _cppcheck(KERNEL_CHECKS, str(tmp_path))


def _cppcheck(checks: list[str], *sources: str) -> str:
    install_commands(["cppcheck"])
    command = ["cppcheck", "--quiet", "--inline-suppr", *checks, *sources]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True).stdout
