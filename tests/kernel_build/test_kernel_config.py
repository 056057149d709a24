"""The configuration of the built kernel, judged by what container engines say they need."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from scripts.asset_build.guest_sets import GUEST_SETS
from scripts.asset_build.wheel.verifiers.kernel import verify_kernel
from scripts.asset_build.wheel.verifiers.kernel_facts import embedded_config
from tests.support import debian
from tests.support.kernel_build import KERNEL_BUILD
from tests.support.sets import set_folder

LEFT_OUT = {
    "MEMCG_SWAP",
    "RT_GROUP_SCHED",
    "CRYPTO_SEQIV",
    "INET_ESP",
    "AUFS_FS",
    "BTRFS_FS",
    "BTRFS_FS_POSIX_ACL",
    "DM_THIN_PROVISIONING",
}
"""What docs/guest-kernel.md leaves out, with the reasons."""
OPTIONS = {
    "processors": "SMP",
    "binaries": "BINFMT_ELF BINFMT_SCRIPT",
    "system calls": "FUTEX EPOLL EVENTFD SIGNALFD TIMERFD IO_URING",
    "containers": "CGROUPS MEMCG CGROUP_PIDS NAMESPACES UTS_NS IPC_NS PID_NS NET_NS USER_NS SECCOMP SECCOMP_FILTER",
    "System V IPC": "SYSVIPC",
    "initramfs": "BLK_DEV_INITRD RD_GZIP RD_ZSTD",
    "virtio transport": "VIRTIO_MMIO VIRTIO_MMIO_CMDLINE_DEVICES",
    "virtio devices": "VIRTIO_BLK VIRTIO_CONSOLE VIRTIO_NET VIRTIO_VSOCKETS VIRTIO_FS HW_RANDOM_VIRTIO VIRTIO_BALLOON",
    "sockets": "UNIX INET IPV6 PACKET VSOCKETS VSOCKETS_LOOPBACK",
    "kernel file systems": "PROC_FS SYSFS DEVTMPFS TMPFS TMPFS_XATTR",
    "file systems": "OVERLAY_FS SQUASHFS SQUASHFS_ZSTD EROFS_FS EXT4_FS FUSE_FS",
    "KASLR": "RELOCATABLE RANDOMIZE_BASE",
}
"""What every guest needs. build.sh stops at an option that its kernel does not keep."""
OWN_OPTIONS = {
    "aarch64": "MODULES SERIAL_AMBA_PL011 SERIAL_AMBA_PL011_CONSOLE RTC_DRV_PL031 ARM_PSCI_FW",
    "x86_64": "X86_MPPARSE PVH KVM_GUEST SERIAL_8250 SERIAL_8250_CONSOLE MITIGATION_PAGE_TABLE_ISOLATION",
}


@pytest.fixture(params=GUEST_SETS)
def config(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The configuration that the built kernel of each set carries."""
    built = set_folder(request.param)
    kernel_format = GUEST_SETS[request.param].kernel_format
    embedded = embedded_config(verify_kernel((built / "kernel").read_bytes(), kernel_format).content)
    assert embedded is not None
    path = tmp_path / "config"
    path.write_bytes(embedded)
    return path


@pytest.mark.slow
def test_docker_s_own_check_misses_only_what_the_page_of_the_kernel_leaves_out(config: Path, project: Path) -> None:
    missing = _missing(config)
    page = (project / "docs" / "guest-kernel.md").read_text()
    assert missing["necessary"] == set()
    assert missing["optional"] <= LEFT_OUT
    assert {name for name in LEFT_OUT if f"`{name}`" not in page} == {"BTRFS_FS_POSIX_ACL"}


@pytest.mark.slow
def test_docker_s_own_check_sees_an_option_that_is_missing(config: Path) -> None:
    config.write_text(config.read_text().replace("CONFIG_VETH=y", "# CONFIG_VETH is not set"))
    assert _missing(config)["necessary"] == {"VETH"}


@pytest.mark.parametrize("group", OPTIONS)
def test_the_configuration_has_every_option_of_the_group(group: str) -> None:
    lines = (KERNEL_BUILD / "config/common.config").read_text().splitlines()
    assert [option for option in OPTIONS[group].split() if f"CONFIG_{option}=y" not in lines] == []


@pytest.mark.parametrize("guest_set", OWN_OPTIONS)
def test_the_configuration_of_a_set_has_every_option_of_its_machine(guest_set: str) -> None:
    lines = (KERNEL_BUILD / f"config/{guest_set}.config").read_text().splitlines()
    assert [option for option in OWN_OPTIONS[guest_set].split() if f"CONFIG_{option}=y" not in lines] == []


def _missing(config: Path) -> dict[str, set[str]]:
    """The options that check-config.sh of Debian's docker.io calls missing, by its two headings.

    What it says of this machine, such as its cgroup mounts, is left aside, and so is its exit status.
    """
    script = debian.file("docker.io", "usr/share/docker.io/contrib/check-config.sh")
    done = subprocess.run(["bash", str(script), str(config)], capture_output=True, text=True, check=False)
    necessary, heading, optional = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout).partition("Optional Features:")
    assert heading and "CONFIG_NAMESPACES: enabled" in necessary, done.stdout + done.stderr
    parts = {"necessary": necessary, "optional": optional}
    return {name: set(re.findall(r"CONFIG_(\w+): missing", text)) for name, text in parts.items()}
