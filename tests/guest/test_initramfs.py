"""The initramfs, read back by cpio(1)."""

from __future__ import annotations

import gzip
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.guest.initramfs import Initramfs
from scripts.machine.packages import install_commands

# What a path component may be in cpio's listing, which is lines.
NAMES = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=20)


def cpio(packed: bytes, *options: str) -> bytes:
    install_commands(["cpio"])
    archive = gzip.decompress(packed)
    return subprocess.run(["cpio", "--quiet", *options], input=archive, capture_output=True, check=True).stdout


def test_cpio_lists_what_was_added() -> None:
    initramfs = Initramfs()
    initramfs.file("init", b"#!", 0o755)
    initramfs.file("container/bin/program", b"x" * 5)
    initramfs.link("container/bin/link", "program")
    initramfs.folder("empty")
    listed = cpio(initramfs.pack(), "-itv", "--numeric-uid-gid").decode().splitlines()
    found = [(line.split()[0], *line.split()[2:4], line.split("1970 ")[1]) for line in listed]
    assert found == [
        ("drwxr-xr-x", "0", "0", "dev"),
        ("crw-------", "0", "0", "dev/console"),
        ("-rwxr-xr-x", "0", "0", "init"),
        ("drwxr-xr-x", "0", "0", "container"),
        ("drwxr-xr-x", "0", "0", "container/bin"),
        ("-rw-r--r--", "0", "0", "container/bin/program"),
        ("lrwxrwxrwx", "0", "0", "container/bin/link -> program"),
        ("drwxr-xr-x", "0", "0", "empty"),
    ]


@given(st.dictionaries(NAMES, st.binary(max_size=70), min_size=1, max_size=4))
def test_contents_come_back(files: dict[str, bytes]) -> None:
    initramfs = Initramfs()
    for name, data in files.items():
        initramfs.file(f"f/{name}", data)
    packed = initramfs.pack()
    assert cpio(packed, "-i", "--to-stdout", "f/*") == b"".join(files.values())
    assert packed == initramfs.pack()


@pytest.mark.parametrize("name", ["/init", "../init", "a/../../init"])
def test_names_outside_the_root(name: str) -> None:
    with pytest.raises(ValueError, match="expected a name below the root"):
        Initramfs().file(name, b"")
