"""What a static analyser says of the guest's programs."""

from __future__ import annotations

import subprocess
from pathlib import Path

from scripts.machine.packages import install_commands
from tests.support import guest

CHECKS = ["--enable=warning,style,performance,portability", "--std=c11", "--suppress=missingIncludeSystem"]


def test_cppcheck_finds_nothing_in_init_oci(project: Path) -> None:
    install_commands(["cppcheck"])
    sources = [str(project / "kernel-build" / "init-oci"), *map(str, sorted(guest.SOURCES.glob("*.c")))]
    command = ["cppcheck", "--quiet", "--inline-suppr", "--error-exitcode=1", *CHECKS, *sources]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout
