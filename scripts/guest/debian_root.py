"""A root file system for guests, out of Debian's own packages: programs as they are, nothing is built.

No script of a package is run.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from scripts.guest.debian_packages import download_with_dependencies, unpack
from scripts.machine.cache import cache_home, locked
from scripts.machine.errors import SetupError
from scripts.machine.packages import install_commands
from scripts.machine.program import log

FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/sh\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": "hosts: files dns\n",
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "etc/resolv.conf": "nameserver 127.0.0.1\n",
}
BASE = ("busybox-static", "libc-bin", "netbase")
_APPLETS = (
    *("cat", "chmod", "chown", "cp", "cut", "echo", "env", "grep", "head", "id", "kill", "ls", "mkdir", "mv"),
    *("rm", "seq", "sh", "sha256sum", "sleep", "sort", "su", "tail", "touch", "true", "uniq", "wc"),
)


def debian_root(packages: Sequence[str], files: Mapping[str, str] | None = None, architecture: str = "arm64") -> Path:
    """A squashfs with these packages, all they depend on, busybox's shell, and `files` (names without a leading slash).

    It is made once and kept in the user's cache, beside a list of its packages and their versions; remove it there to
    have newer ones. Raises SetupError.
    """
    content = {**FILES, **(files or {})}
    wanted = sorted({*BASE, *packages})
    words = [architecture, *wanted, *_APPLETS, *(f"{k}={v}" for k, v in sorted(content.items()))]
    key = hashlib.sha256("\0".join(words).encode()).hexdigest()
    kept = cache_home() / "guest-root" / f"{key[:16]}.squashfs"
    with locked(kept.with_suffix(".lock")):
        if not kept.exists():
            log(f"making a root file system of {', '.join(packages)} and what they depend on (once)")
            with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
                _make(Path(scratch), wanted, content, architecture, kept)
    return kept


def _make(scratch: Path, packages: list[str], files: Mapping[str, str], architecture: str, kept: Path) -> None:
    fetched = download_with_dependencies(scratch, packages, architecture)
    root = scratch / "root"
    for folder in ("usr/bin", "usr/sbin", "usr/lib"):
        (root / folder).mkdir(parents=True)
        (root / Path(folder).name).symlink_to(folder)  # an installed Debian has this link
    for package in fetched:
        unpack(package, root)
    for folder in ("root", "tmp", "run", "dev", "proc", "sys", "var/tmp", "var/log"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
        (root / name).chmod(0o755 if text.startswith("#!") else 0o644)
    for applet in _APPLETS:
        if not os.path.lexists(root / "usr/bin" / applet):
            (root / "usr/bin" / applet).symlink_to("busybox")
    image = squashfs(root, scratch / "image")
    (scratch / "packages").write_text("".join(f"{package.name}\n" for package in fetched))
    (scratch / "packages").rename(kept.with_suffix(".packages"))
    image.rename(kept)


def squashfs(root: Path, image: Path) -> Path:
    """Make the new file `image` of all that is in the folder `root`, and return it. Raises SetupError."""
    install_commands(["mksquashfs"])
    squash = ["mksquashfs", str(root), str(image), "-comp", "zstd", "-all-root", "-quiet", "-no-progress"]
    done = subprocess.run(squash, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SetupError(str(image), "to be written by mksquashfs", done.stderr.strip(), "make room, and try again")
    return image
