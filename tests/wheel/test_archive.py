"""One place decides what an archive is made of besides its files: order, dates, modes, compression."""

from __future__ import annotations

import gzip
import io
import os
import stat
import subprocess
import tarfile
import zipfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from scripts.asset_build.wheel.archive import (
    TAR_DATE,
    ZIP_DATE,
    gzip_of,
    normalize_sdist,
    normalize_wheel,
    wheel_archive,
    write_tar,
)

MEMBERS = {
    "supermachine_kernel-1.dist-info/RECORD": b"record\n",
    "supermachine_kernel-1.dist-info/METADATA": b"metadata\n",
    "supermachine_kernel/assets/init-oci": b"\x7fELF",
    "supermachine_kernel/assets/kernel": b"kernel" * 1000,
    "supermachine_kernel/__init__.py": b"",
}


def wheel_of(
    names: list[str], path: Path, *, date: int = 2026, mode: int = 0o600, method: int = zipfile.ZIP_DEFLATED
) -> Path:
    """A wheel with these members as another tool would write it."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name in names:
            info = zipfile.ZipInfo(name, (date, 1, 1, 0, 0, 0))
            info.external_attr, info.create_system, info.compress_type = mode << 16, 0, method
            archive.writestr(info, MEMBERS[name])
    return path


def test_wheels_written_differently_become_one(tmp_path: Path) -> None:
    one = wheel_of(sorted(MEMBERS), tmp_path / "one.whl")
    other = wheel_of(
        sorted(MEMBERS, reverse=True), tmp_path / "other.whl", date=1999, mode=0o777, method=zipfile.ZIP_STORED
    )
    assert one.read_bytes() != other.read_bytes()
    for path in (one, other):
        normalize_wheel(path)
    assert one.read_bytes() == other.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.whl", "other.whl"]


def test_what_a_wheel_is_like(tmp_path: Path) -> None:
    path = wheel_of(sorted(MEMBERS), tmp_path / "a.whl")
    normalize_wheel(path)
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        contents = {entry.filename: archive.read(entry) for entry in entries}
    record = "supermachine_kernel-1.dist-info/RECORD"
    assert contents.pop(record).splitlines()[-1] == f"{record},,".encode()
    assert contents == {name: content for name, content in MEMBERS.items() if name != record}
    assert [entry.filename for entry in entries][-2:] == [
        "supermachine_kernel-1.dist-info/METADATA",
        "supermachine_kernel-1.dist-info/RECORD",
    ]
    assert {entry.date_time for entry in entries} == {ZIP_DATE}
    assert {entry.compress_type for entry in entries} == {zipfile.ZIP_DEFLATED}
    modes = {entry.filename: entry.external_attr >> 16 for entry in entries}
    assert modes.pop("supermachine_kernel/assets/init-oci") == stat.S_IFREG | 0o755
    assert set(modes.values()) == {stat.S_IFREG | 0o644}


def test_folders_are_no_members(tmp_path: Path) -> None:
    path = tmp_path / "a.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("supermachine_kernel/", b"")
        archive.writestr("supermachine_kernel/__init__.py", b"")
        archive.writestr("p-1.dist-info/RECORD", b"")
    normalize_wheel(path)
    assert zipfile.ZipFile(path).namelist() == ["supermachine_kernel/__init__.py", "p-1.dist-info/RECORD"]


def test_sdists_of_differing_checkouts_become_one(tmp_path: Path) -> None:
    """Another user's, with other modes and dates, and one whose files are links to each other."""
    digests = set()
    for name in ("plain", "hard-linked", "symbolic"):
        root = tmp_path / name / "p-1"
        root.mkdir(parents=True)
        (root / "a.py").write_bytes(b"#!/usr/bin/env python3\n")
        if name == "plain":
            (root / "b.py").write_bytes(b"#!/usr/bin/env python3\n")
        elif name == "hard-linked":
            os.link(root / "a.py", root / "b.py")
        else:
            (root / "b.py").symlink_to("a.py")
        (root / "c.txt").write_bytes(b"text\n")
        (root / "c.txt").chmod(0o755 if name == "plain" else 0o600)
        path = tmp_path / f"{name}.tar.gz"
        subprocess.run(["tar", "-C", root.parent, "-czf", path, "p-1"], check=True)
        normalize_sdist(path)
        digests.add(path.read_bytes())
    assert len(digests) == 1
    with tarfile.open(path) as archive:
        assert [(m.name, oct(m.mode), m.mtime, m.uid, m.uname) for m in archive.getmembers()] == [
            ("p-1/a.py", "0o755", TAR_DATE, 0, ""),
            ("p-1/b.py", "0o755", TAR_DATE, 0, ""),
            ("p-1/c.txt", "0o644", TAR_DATE, 0, ""),
        ]


def test_a_tar_takes_files_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    tar = io.BytesIO()
    write_tar([("b", tmp_path / "file"), ("a", b"bytes")], tar)
    tar.seek(0)
    with tarfile.open(fileobj=tar) as archive:
        contents = {name: file.read() for name in archive.getnames() if (file := archive.extractfile(name))}
    assert contents == {"a": b"bytes", "b": b"content"} and list(contents) == ["a", "b"]


@given(
    st.one_of(st.binary(max_size=300), st.integers(0, 3).map(lambda n: b"x" * (0xFFFF * n)), st.just(b"ab" * 0x10000))
)
def test_what_is_packed_unpacks(data: bytes) -> None:
    assert gzip.decompress(gzip_of(data)) == data


def test_gzip_itself_finds_nothing_wrong() -> None:
    data = os.urandom(200_000)
    done = subprocess.run(["gzip", "-dc"], input=gzip_of(data), capture_output=True, check=True)
    assert done.stdout == data and done.stderr == b""


def test_members_come_in_any_order() -> None:
    assert wheel_archive(dict(reversed(MEMBERS.items()))) == wheel_archive(MEMBERS)


@given(
    st.dictionaries(st.text(min_size=1, max_size=20).filter(lambda name: name.isprintable()), st.binary(max_size=99))
)
def test_what_is_archived_is_read_by_zipfile(members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(io.BytesIO(wheel_archive(members))) as archive:
        assert archive.testzip() is None
        assert {entry.filename: archive.read(entry) for entry in archive.infolist()} == members


def test_the_wheel_is_less_than_half_of_its_files(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    assert wheel.stat().st_size < size * 0.45
