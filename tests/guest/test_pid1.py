"""Entrypoints that want to be PID 1: the init systems of images, in booted guests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import debian, guest
from tests.support.guest import Container, assert_ended_well, boot, configuration, said

pytestmark = pytest.mark.slow

UNIT = """\
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'echo "service under $(cat /proc/1/comm) in $(systemd-detect-virt)" > /dev/console'
ExecStart=systemctl --no-block poweroff
"""
SYSTEMD = {
    "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
    "etc/systemd/system/default.target": "[Unit]\nRequires=test.service sysinit.target\n",
    "etc/systemd/system/test.service": UNIT,
}
RUNIT = {
    "etc/runit/1": "#!/bin/sh\nmkdir -p /run/runit\n",
    "etc/runit/2": "#!/bin/sh\nexec runsvdir -P /service\n",
    "etc/runit/3": "#!/bin/sh\necho 'stage 3'\n",
    "service/test/run": '#!/bin/sh\necho "service under $(cat /proc/1/comm)"\n/lib/runit/runit-init 0\nexec sleep 10\n',
}
S6 = {
    "scan/test/run": '#!/bin/sh\necho "service under $(cat /proc/1/comm)"\ns6-svscanctl -t /scan\nexec sleep 10\n',
    "scan/.s6-svscan/finish": '#!/bin/sh\necho "finish is PID $$"\nexit 5\n',
}


@pytest.mark.parametrize(
    ("program", "files", "proof", "end"),
    [
        (["/lib/systemd/systemd"], SYSTEMD, "service under systemd in container-other", "the image powers off"),
        (["/sbin/runit"], RUNIT, "service under runit", "the image powers off"),
        (["/usr/bin/s6-svscan", "/scan"], S6, "service under s6-svscan", "exit status 5"),
    ],
    ids=["systemd", "runit", "s6"],
)
def test_init_systems_run_as_pid_1(
    built_set: Path, tmp_path: Path, program: list[str], files: dict[str, str], proof: str, end: str
) -> None:
    """Each starts a service, which ends the guest as its user would."""
    layer = Container.__new__(Container)
    layer.files = {name: (text.encode(), 0o755 if text.startswith("#!") else 0o644) for name, text in files.items()}
    layer.links = {}
    config = configuration(*program, pid1="yes", lower=["/dev/vda", "/container"])
    image = debian.image("systemd", "runit", "s6")
    seen = boot(built_set, tmp_path, config, layer, extra=guest.disks(image), limit=3 * guest.LIMIT)
    assert_ended_well(seen)
    assert said(seen, proof) == [""]
    assert end in said(seen, "init-oci: ")


def test_busybox_init_runs_as_pid_1_of_a_terminal(built_set: Path, tmp_path: Path) -> None:
    container = Container()
    said_first = "echo under $(cat /proc/1/comm) on $(tty)"
    container.file("etc/inittab", f"::sysinit:/bin/sh -c '{said_first}'\n::once:/bin/reboot\n")
    seen = boot(built_set, tmp_path, configuration("/bin/init", pid1="yes", tty="yes"), container)
    assert seen.status == 0
    assert said(seen, "under ") == ["init on /dev/console"]
    assert "the image restarts" in said(seen, "init-oci: ")
    assert "reboot: Restarting system" in seen.text
