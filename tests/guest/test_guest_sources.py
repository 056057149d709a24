"""What a static analyser says of the guest's programs."""

from __future__ import annotations

import subprocess
from pathlib import Path

from scripts.machine.packages import install_commands
from tests.support import guest

CHECKS = ["--enable=warning,style,performance,portability", "--std=c11", "--suppress=missingIncludeSystem"]


def test_cppcheck_finds_nothing_in_init_oci_and_agent(project: Path) -> None:
    install_commands(["cppcheck"])
    folders = [str(project / "kernel-build" / name) for name in ("init-oci", "agent")]
    programs = [*guest.SOURCES.glob("*.c"), *guest.SOURCES.glob("agent/*.c")]
    sources = [*folders, *map(str, sorted(programs))]
    command = ["cppcheck", "--quiet", "--inline-suppr", "--error-exitcode=1", *CHECKS, *sources]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout
