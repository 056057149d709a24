"""Programs that ask much of the kernel, unmodified, in one guest; docs/guest-kernel.md says what they need."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import debian
from tests.support.oci_layout import entry, layer, write

pytestmark = [pytest.mark.slow, pytest.mark.ondemand]

PACKAGES = ["busybox-static", "crun", "cryptsetup-bin", "e2fsprogs", "iproute2", "iptables", "iputils-ping", "keyutils"]
PACKAGES += ["linux-perf", "mount", "nftables", "runc", "tcpdump", "util-linux", "wireguard-tools"]
SCRIPT = Path(__file__).with_name("programs.sh")
NAMES = re.findall(r"^(\w+)\(\) ", SCRIPT.read_text(), re.MULTILINE)[1:]
"""The functions of the script but the first, which calls them."""


@pytest.fixture(scope="module")
def said(project: Path, built_set: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the script said of each program."""
    script = layer(entry("programs.sh", data=SCRIPT.read_bytes(), mode=0o755))
    packages = debian.layer(*PACKAGES).read_bytes()
    layout = write(tmp_path_factory.mktemp("image") / "layout", [packages, script], {"Entrypoint": ["/programs.sh"]})
    command = [sys.executable, str(project / "scripts" / "boot.py"), "--oci", str(layout), str(built_set)]
    done = subprocess.run([*command, "--memory", "2G", "--cpus", "2"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)


@pytest.mark.parametrize("name", NAMES)
def test_a_program_that_asks_much_of_the_kernel_works(name: str, said: dict[str, str]) -> None:
    assert said.get(name) == "ok"
