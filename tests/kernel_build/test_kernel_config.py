"""The configuration of the built kernel, judged by what container engines say they need."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from scripts.asset_build.wheel.verifiers.kernel_facts import embedded_config
from tests.support import debian

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


def test_docker_s_own_check_misses_only_what_the_page_of_the_kernel_leaves_out(
    built_set: Path, project: Path, tmp_path: Path
) -> None:
    missing = _missing(_config_of(built_set / "kernel", tmp_path))
    page = (project / "docs" / "guest-kernel.md").read_text()
    assert missing["necessary"] == set()
    assert missing["optional"] <= LEFT_OUT
    assert {name for name in LEFT_OUT if f"`{name}`" not in page} == {"BTRFS_FS_POSIX_ACL"}


def test_docker_s_own_check_sees_an_option_that_is_missing(built_set: Path, tmp_path: Path) -> None:
    config = _config_of(built_set / "kernel", tmp_path)
    config.write_text(config.read_text().replace("CONFIG_VETH=y", "# CONFIG_VETH is not set"))
    assert _missing(config)["necessary"] == {"VETH"}


def _config_of(kernel: Path, folder: Path) -> Path:
    embedded = embedded_config(kernel.read_bytes())
    assert embedded is not None
    config = folder / "config"
    config.write_bytes(embedded)
    return config


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
