"""File systems of their own for a test, mounted where only one process and its children see them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from . import child


def python_on_tmpfs(mounted: Path, code: str, *arguments: object, size: str) -> subprocess.CompletedProcess[str]:
    """Run `code` with a tmpfs of `size` ("2m") at `mounted`; needs no root where users may have namespaces."""
    mount = f"mount -t tmpfs -o size={size} none {mounted}"
    done = _in_namespace(mount, code, arguments, None)
    if "unshare failed" in done.stderr or "unshare: write failed" in done.stderr:
        skip_or_fail(f"no mount namespace for this user: {done.stderr.strip()}")
    return done


def python_on_image(
    image: Path, mounted: Path, code: str, *arguments: object, module_there: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `code` with `image` mounted at `mounted`; `module_there` is an installed module to be copied onto it."""
    mounted.mkdir()
    mount, site = f"mount -o loop {image} {mounted}", None
    if module_there:
        site = mounted / "site"
        mount += f" && cp -r {module_there} {site}"
    return _in_namespace(mount, code, arguments, site)


def image(path: Path, mkfs: str, *, megabytes: int) -> Path:
    """A file with an empty file system in it."""
    with path.open("wb") as file:
        file.truncate(megabytes << 20)
    package = {"mkfs.btrfs": "btrfs-progs", "mkfs.ext4": "e2fsprogs", "mkfs.xfs": "xfsprogs"}[mkfs]
    subprocess.run([tool(mkfs, package), "-q", path], check=True, stdout=subprocess.DEVNULL)
    return path


def need_root(reason: str = "only root may mount a disk image") -> None:
    """Skip a test that only root can run, but not in CI."""
    if os.geteuid() != 0:
        skip_or_fail(reason)


def tool(name: str, package: str) -> str:
    """Where a tool is that the test cannot do without."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        pytest.fail(f"{name} is missing: apt-get install {package}, or run scripts/test.py, which does")
    return found


def _in_namespace(
    mount: str, code: str, arguments: tuple[object, ...], site: Path | None
) -> subprocess.CompletedProcess[str]:
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    command = ["unshare", *user, "--mount", "sh", "-ec", f'{mount}; exec "$@"', "sh", sys.executable, "-c", code]
    environment = child.environment_with(site, {})
    return subprocess.run(
        [*command, *map(str, arguments)], env=environment, cwd="/", capture_output=True, text=True, check=False
    )


def skip_or_fail(reason: str) -> None:
    """Skip a test for what this machine lacks; in CI, which must have it, that is a failure."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
