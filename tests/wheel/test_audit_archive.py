"""What an archive is besides its members, and archives made to harm who reads them."""

from __future__ import annotations

import copy
import os
import re
import resource
import shutil
import stat
import struct
import subprocess
import sys
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts import audit as audit_program
from scripts import rebuild as rebuild_program
from scripts.asset_build.audit.chain import audit
from scripts.asset_build.audit.compare import compare
from scripts.asset_build.audit.errors import AuditError
from scripts.asset_build.audit.reader import LARGEST_RATIO, MOST_MEMBERS, Wheel, made_of, read_members, read_wheel
from scripts.asset_build.wheel.archive import compress, wheel_archive
from supermachine_kernel._version import VERSION
from tests.support.wheels import (
    INIT_OCI,
    KERNEL,
    TAG,
    Members,
    archive_of,
    broken_link,
    members_of,
    mend_record,
    write,
)

pytestmark = pytest.mark.slow  # each opens a whole wheel


@pytest.fixture(scope="module")
def members(custom_wheel: Path) -> Members:
    return members_of(custom_wheel)


def rewritten(wheel: Path, folder: Path, change: Callable[[zipfile.ZipInfo], None], twice: str = "") -> Path:
    """The same members in another archive: `change` edits each entry; the member `twice` is written again."""
    path = folder / wheel.name
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(path, "w") as new, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # zipfile's, of the duplicate name
        for entry in old.infolist():
            content = old.read(entry)
            change(entry)
            new.writestr(entry, content)
            if entry.filename == twice:
                new.writestr(entry, content)
    return path


def plain_entry(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    return info


def set_mode(name: str, mode: int) -> Callable[[zipfile.ZipInfo], None]:
    def change(entry: zipfile.ZipInfo) -> None:
        if entry.filename == name:
            entry.external_attr = mode << 16

    return change


def store(entry: zipfile.ZipInfo) -> None:
    entry.compress_type = zipfile.ZIP_STORED


def date(entry: zipfile.ZipInfo) -> None:
    entry.date_time = (2026, 1, 1, 0, 0, 0)


@pytest.mark.parametrize(
    ("change", "twice", "message"),
    [
        (set_mode(INIT_OCI, stat.S_IFREG | 0o644), "", "file: .*init-oci: expected mode 100755, found 100644"),
        (set_mode(KERNEL, stat.S_IFREG | 0o755), "", "file: .*kernel: expected mode 100644"),
        (set_mode(KERNEL, stat.S_IFREG | 0o4644), "", "file: .*kernel: expected mode 100644, found 104644"),
        (set_mode(KERNEL, stat.S_IFLNK | 0o644), "", "file: .*kernel: expected mode 100644, found 120644"),
        (lambda entry: None, KERNEL, "file: .*kernel: expected once in the wheel, found twice"),
        (store, "", "file: .*expected compression deflated, found stored"),
        (date, "", "file: .*expected date 1980-01-01 00:00:00, found 2026-01-01"),
    ],
)
def test_another_archive_of_the_same_members(
    change: Callable[[zipfile.ZipInfo], None], twice: str, message: str, custom_wheel: Path, tmp_path: Path
) -> None:
    assert re.match(message, broken_link(rewritten(custom_wheel, tmp_path, change, twice)))


@pytest.mark.parametrize("name", ["../evil.py", "/etc/evil", "supermachine_kernel//evil.py", "a\\b"])
def test_a_name_that_leads_elsewhere(name: str, custom_wheel: Path, members: Members, tmp_path: Path) -> None:
    changed = {**members, name: b""}
    mend_record(changed)
    assert re.match("file: .*expected a plain relative name", broken_link(write(changed, tmp_path)))


def test_a_name_that_speaks_to_the_terminal(custom_wheel: Path, members: Members, tmp_path: Path) -> None:
    path = write({**members, "\x1b[2Jok\n": b""}, tmp_path)
    assert broken_link(path).startswith("members: \\x1b[2Jok\\n: expected no such file")
    path = path.rename(tmp_path / custom_wheel.name.replace("custom", "\x1b[2J"))
    assert re.match(r"file: .*\\x1b\[2J.*expected supermachine_kernel-VERSION", broken_link(path))


def test_members_that_share_their_bytes(custom_wheel: Path, tmp_path: Path) -> None:
    """Each entry of the directory may name the same bytes: a small file with any number of large members."""
    path = tmp_path / custom_wheel.name
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(plain_entry("a"), b"x" * 10_000)
        for name in ("b", "c"):
            archive.filelist.append(copy.copy(archive.filelist[0]))
            archive.filelist[-1].filename = name
    assert re.match(r"file: .*expected members of less than the archive's \d+ bytes, found more", broken_link(path))


def test_an_offset_that_no_file_has(custom_wheel: Path, tmp_path: Path) -> None:
    """In zip64 an entry may begin anywhere below 2**64 (PKWARE APPNOTE 4.5.3)."""
    path = tmp_path / custom_wheel.name
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(plain_entry("a"), b"")
        archive.filelist[0].header_offset = 2**64 - 1
    assert broken_link(path).startswith("file: ")


def test_another_tag_in_the_file_name(custom_wheel: Path, tmp_path: Path) -> None:
    for tag in ("py3-none-any", "py3-none-macosx_11_0_x86_64", "py3-none-macosx_12_0_arm64"):
        path = tmp_path / custom_wheel.name.replace(TAG, tag)
        shutil.copy(custom_wheel, path)
        assert re.match(f"file: .*expected supermachine_kernel-VERSION-{TAG}", broken_link(path))


def test_another_version_in_the_file_name(custom_wheel: Path, tmp_path: Path) -> None:
    path = tmp_path / f"supermachine_kernel-{VERSION}-{TAG}.whl"
    shutil.copy(custom_wheel, path)
    assert broken_link(path).startswith("lock: ")
    path = path.rename(tmp_path / f"supermachine_kernel-9.9.9-{TAG}.whl")
    assert "use the checkout of that version" in broken_link(path)


@pytest.mark.parametrize(
    "change", [lambda data: data + b"\0", lambda data: b"\0" + data, lambda data: data[:-1], lambda data: b""]
)
def test_bytes_around_or_missing(change: Callable[[bytes], bytes], custom_wheel: Path, tmp_path: Path) -> None:
    path = tmp_path / custom_wheel.name
    path.write_bytes(change(custom_wheel.read_bytes()))
    assert broken_link(path).startswith("file: ")


# --- archives made to harm who reads them ---


def bomb(folder: Path, name: str) -> Path:
    """A small wheel whose kernel unpacks to 512 MiB of zeros."""
    path = folder / name
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr(plain_entry(INIT_OCI), b"")
        info = plain_entry(KERNEL)
        info.compress_type = zipfile.ZIP_DEFLATED
        with archive.open(info, "w", force_zip64=True) as file:
            for _ in range(32):
                file.write(bytes(16 << 20))
    assert path.stat().st_size < 4 << 20
    return path


def understated(folder: Path, name: str) -> Path:
    """The same, and its directory says that the kernel is of one byte."""
    path = bomb(folder, name)
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\1\2")
    struct.pack_into("<I", data, at + 24, 1)
    path.write_bytes(data)
    return path


def in_lzma(folder: Path, name: str) -> Path:
    """A method that a wheel never has, with bytes that are none."""
    path = folder / name
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr(KERNEL, bytes(1000))
    data = bytearray(path.read_bytes())
    data[70:80] = b"\xff" * 10
    path.write_bytes(data)
    return path


def broken_deflate(folder: Path, name: str) -> Path:
    path = folder / name
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(plain_entry(KERNEL), bytes(1000), zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    start = 30 + len(KERNEL)
    data[start : start + 3] = b"\xff\xff\xff"
    path.write_bytes(data)
    return path


def undecodable_name(folder: Path, name: str) -> Path:
    """A name that the entry says is UTF-8, and is not."""
    path = folder / name
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("\u00e9", b"")
    path.write_bytes(path.read_bytes().replace("\u00e9".encode(), b"\xff\xff"))
    return path


def encrypted(folder: Path, name: str) -> Path:
    path = folder / name
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(plain_entry(KERNEL), b"x")
    data = bytearray(path.read_bytes())
    for signature, at in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        data[data.index(signature) + at] |= 1
    path.write_bytes(data)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("program", [audit_program, rebuild_program], ids=["audit", "rebuild"])
@pytest.mark.parametrize("make", [bomb, understated, in_lzma, broken_deflate, undecodable_name, encrypted])
def test_a_hostile_archive_is_one_line_and_little_memory(
    make: Callable[[Path, str], Path], program: object, custom_wheel: Path, tmp_path: Path
) -> None:
    path, script = make(tmp_path, custom_wheel.name), str(getattr(program, "__file__", ""))

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (512 << 20, 512 << 20))

    done = subprocess.run(
        [sys.executable, script, str(path)], capture_output=True, text=True, check=False, preexec_fn=limit
    )
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert "Traceback" not in said and "MemoryError" not in said
    assert len(said.splitlines()) == 1 and ": expected " in said, said


def test_what_follows_a_member_s_deflated_data_is_refused() -> None:
    """Bytes that no reader shows could hold anything."""
    content = b"x" * 100
    archive = archive_of({"a": content})
    assert read_members(archive, "a")["a"].content == content
    hidden = wheel_archive({"a": content}, {"a": compress(content) + b"hidden"})
    with pytest.raises(AuditError, match="expected deflated data that end with the member, found more or less"):
        read_members(hidden, "a")


def test_the_bound_is_far_above_what_a_wheel_unpacks_to(custom_wheel: Path, members: Members) -> None:
    ratio = sum(map(len, members.values())) / custom_wheel.stat().st_size
    assert 2 < ratio < LARGEST_RATIO / 4


def test_more_members_than_any_wheel_has_are_not_looked_at() -> None:
    """Each entry of the directory takes 47 bytes there, and several hundred once it is read."""
    entry = struct.pack("<4s6H3I5H2Ic", b"PK\1\2", 20, 20, 0, 0, 0, 33, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, b"a")
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 60_000, 60_000, 60_000 * len(entry), 0, 0)
    with pytest.raises(AuditError, match=f"expected at most {MOST_MEMBERS} members, found more"):
        read_members(entry * 60_000 + end, "a")


def test_a_text_of_many_lines_is_not_compared_line_by_line() -> None:
    tracemalloc.start()
    try:
        found, expected = (Wheel("a", data, made_of({"a": data}, {})) for data in (b"\n" * (4 << 20), b"b\n"))
        (difference,) = compare(found, expected)
        assert difference.what == "content" and not difference.diff
    finally:
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert most < 32 << 20


@pytest.mark.slow
def test_an_audit_takes_the_memory_of_the_wheel_and_of_what_is_in_it(custom_wheel: Path, project: Path) -> None:
    """Once each, and little more: no copy of either."""
    with zipfile.ZipFile(custom_wheel) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    most = peak(lambda: [*audit(custom_wheel, project, project / "assets.lock.json")])
    assert most < 1.2 * (custom_wheel.stat().st_size + unpacked) + (4 << 20)


@pytest.mark.slow
@pytest.mark.parametrize("pack", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"])
def test_a_large_wheel_is_in_memory_once_packed_and_once_unpacked(
    pack: int, custom_wheel: Path, tmp_path: Path
) -> None:
    """What cannot be compressed is the worst case: as large as it may be, it takes twice that."""
    size, path = 64 << 20, tmp_path / custom_wheel.name
    with zipfile.ZipFile(path, "w", pack, compresslevel=1) as archive:
        archive.writestr("supermachine_kernel/assets/kernel", os.urandom(size))
    assert peak(lambda: read_wheel(path)) < 2.2 * size


def peak(use: Callable[[], object]) -> int:
    """The most bytes of memory that Python's objects took meanwhile."""
    tracemalloc.start()
    try:
        use()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
