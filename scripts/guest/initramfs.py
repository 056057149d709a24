"""An initramfs: a gzip-compressed newc cpio archive.

The format is that of the kernel's Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import gzip
import stat
from pathlib import Path, PurePosixPath

FOLDER = stat.S_IFDIR | 0o755
CONSOLE = ("dev/console", stat.S_IFCHR | 0o600, 5, 1)
"""Without this device in the initramfs the kernel starts PID 1 with no file open."""


class Initramfs:
    """Entries in the order they are added; the folders above an entry are added by themselves."""

    def __init__(self) -> None:
        self._entries: list[bytes] = []
        self._folders: set[PurePosixPath] = set()
        name, mode, major, minor = CONSOLE
        self._add(name, mode, b"", (major, minor))

    def folder(self, name: str) -> None:
        """Add an empty folder, mode 0o755. `name` is relative to the root, without a leading slash."""
        self._add_folder(PurePosixPath(name))

    def file(self, name: str, data: bytes, mode: int = 0o644) -> None:
        """Add a regular file with these permission bits."""
        self._add(name, stat.S_IFREG | mode, data)

    def link(self, name: str, target: str) -> None:
        """Add a symbolic link."""
        self._add(name, stat.S_IFLNK | 0o777, target.encode())

    def pack(self) -> bytes:
        """The compressed archive; the same entries give the same bytes."""
        archive = b"".join([*self._entries, _entry(0, "TRAILER!!!", 0, b"", (0, 0))])
        return gzip.compress(archive, compresslevel=1, mtime=0)

    def _add_folder(self, name: PurePosixPath) -> None:
        if name in self._folders or name == PurePosixPath("."):
            return
        self._folders.add(name)
        self._add(str(name), FOLDER, b"")

    def _add(self, name: str, mode: int, data: bytes, device: tuple[int, int] = (0, 0)) -> None:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"{name}: expected a name below the root, without a leading slash")
        self._add_folder(path.parent)
        self._entries.append(_entry(len(self._entries) + 1, str(path), mode, data, device))


def guest_initramfs(assets: Path, config: str, *, agent: bytes | None = None, module: bool = True) -> Initramfs:
    """The assets where the guest contract has them, `module` among them or not, and an init-oci.conf.

    `agent` takes the place of the set's.
    """
    initramfs = Initramfs()
    initramfs.file("init", (assets / "init-oci").read_bytes(), 0o755)
    if module:
        initramfs.file("supermachine-smpark.ko", (assets / "smpark.ko").read_bytes())
    initramfs.file("supermachine-agent", agent or (assets / "supermachine-agent").read_bytes(), 0o755)
    initramfs.file("init-oci.conf", config.encode())
    return initramfs


def _entry(inode: int, name: str, mode: int, data: bytes, device: tuple[int, int]) -> bytes:
    encoded = name.encode() + b"\0"
    # inode, mode, uid, gid, links, mtime, size, device's own major and minor, node's major and minor, name size, sum
    fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(encoded), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _padded(header + encoded) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
