"""Large programs that ask much of the kernel, each in a guest of its own: on demand, as each takes minutes.

docs/guest-kernel.md says what they need.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from tests.support import debian
from tests.support.oci_layout import entry, layer, write

pytestmark = [pytest.mark.slow, pytest.mark.ondemand]

SCRIPT = Path(__file__).with_name("large-programs.sh")
PROGRAMS = {
    "buildah_makes_an_image": ["buildah", "busybox-static", "crun"],
    "chromium_renders_a_page": ["chromium", "util-linux"],
    "dockerd_runs_containers": ["busybox-static", "docker.io", "iptables"],
    "java_keeps_to_its_limits": ["default-jre-headless", "liblucene8-java"],
    "mariadb_makes_a_database": ["mariadb-client-core", "mariadb-server-core", "mawk"],
    "mysql_makes_a_database": ["mysql-client-core", "mysql-server-core"],
    "node_with_threads": ["nodejs"],
    "python_with_io_uring": ["fio", "python3-minimal", "liburing2"],
    "qemu_user_runs_programs_for_amd64": [],
}
"""The functions of the script, and the packages that they need."""
SUITES = {"mysql_makes_a_database": "sid"}
"""The suite of Debian that has the packages, where it is not that of this machine."""
FILES: Mapping[str, Mapping[str, Callable[[], Path]]] = {
    "python_with_io_uring": {"uring.py": lambda: SCRIPT.with_name("uring.py")},
    "qemu_user_runs_programs_for_amd64": {
        "amd64/busybox": lambda: debian.file("busybox-static", "bin/busybox", "amd64"),
        "usr/bin/qemu-x86_64-static": lambda: debian.file("qemu-user-static", "usr/bin/qemu-x86_64-static"),
    },
}
"""Files that they need besides."""
LIMIT = 1800
"""Seconds for one program, on a machine that does many things at once."""


@pytest.mark.parametrize(("name", "packages"), PROGRAMS.items())
def test_a_large_program_works(
    project: Path, built_set: Path, tmp_path: Path, name: str, packages: Sequence[str]
) -> None:
    own = [entry("large-programs.sh", data=SCRIPT.read_bytes(), mode=0o755)]
    own += [entry(path, data=file().read_bytes(), mode=0o755) for path, file in FILES.get(name, {}).items()]
    layers = [debian.layer(*packages, suite=SUITES.get(name)).read_bytes(), layer(*own)]
    layout = write(tmp_path / "layout", layers, {"Entrypoint": ["/large-programs.sh"], "Cmd": [name]})
    volume = tmp_path / "volume.ext4"
    subprocess.run(["mkfs.ext4", "-q", volume, "2G"], check=True, capture_output=True)

    command = [sys.executable, str(project / "scripts" / "boot.py"), "--oci", str(layout), str(built_set)]
    command += ["--memory", "2G", "--cpus", "2", "--volume", f"{volume}:/data"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT)

    assert (done.returncode, done.stdout) == (0, f"{name}: ok\n"), done.stderr


def test_each_function_of_the_script_is_run() -> None:
    functions = set(re.findall(r"^(\w+)\(\) ", SCRIPT.read_text(), re.MULTILINE))
    assert functions == set(PROGRAMS)
