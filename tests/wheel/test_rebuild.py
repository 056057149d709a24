"""A wheel is rebuilt from the checkout, and what differs is named."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scripts import rebuild
from scripts.asset_build.audit.chain import audit
from scripts.asset_build.audit.compare import DIFF_LINES, Difference
from scripts.asset_build.audit.reader import read_wheel
from scripts.asset_build.audit.rebuild import compare_with_rebuilt
from scripts.asset_build.lock import LOCK_NAME
from scripts.asset_build.paths import PROJECT
from scripts.asset_build.wheel.archive import wheel_archive
from tests.support.wheels import archive_of

pytestmark = pytest.mark.slow


def run(*arguments: object, script: str = rebuild.__file__, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})


def copied(wheel: Path, folder: Path, change: Callable[[zipfile.ZipInfo, bytes], bytes | None]) -> Path:
    """The wheel again, each entry and its content through `change`; None leaves it out."""
    path = folder / wheel.name
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(path, "w") as new:
        for entry in old.infolist():
            content = change(entry, old.read(entry))
            if content is not None:
                new.writestr(entry, content)
    return path


def compared(wheel: Path, rebuilt: Path) -> list[Difference]:
    return compare_with_rebuilt(read_wheel(wheel), read_wheel(rebuilt), PROJECT)


def differences(wheel: Path, rebuilt: Path) -> list[tuple[str, str]]:
    return [(difference.name.rpartition("/")[2], difference.what) for difference in compared(wheel, rebuilt)]


def test_the_real_wheel_is_rebuilt_identically(wheel: Path) -> None:
    """With the tree's own record, and whatever the caller's environment would have built otherwise."""
    done = run(wheel, "--json", SUPERMACHINE_INIT_OCI_PATH="/nonexistent", PYTHONHASHSEED="7", TZ="Asia/Tokyo")
    report = json.loads(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert report["identical"] and report["differences"] == []
    assert report["sha256"] == report["rebuilt_sha256"]


def test_nothing_of_the_caller_s_folder_is_run(wheel: Path, tmp_path: Path) -> None:
    """A child with that folder first on its path would run these in the place of the libraries."""
    ran = tmp_path / "ran"
    for name in ("build", "pip", "venv", "setuptools", "json"):
        (tmp_path / f"{name}.py").write_text(f"open({str(ran)!r}, 'a').write({name!r})\n")
    command = [sys.executable, rebuild.__file__, str(wheel)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not ran.exists()


def test_without_the_record_the_bill_of_materials_differs(custom_wheel: Path, unlocked_checkout: Path) -> None:
    """No tree: nothing says what the assets were built from, and the rebuilt wheel says so."""
    done = run(custom_wheel, script=str(unlocked_checkout / "scripts" / "rebuild.py"), SUPERMACHINE_KERNEL_BUILD="")
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert [line.partition(".dist-info/")[2] for line in lines if line.endswith(" differs")] == [
        "sboms/supermachine-kernel.cdx.json: content differs",
        "RECORD: content differs",
    ]
    assert any(line.strip() == '+        "name": "unknown"' for line in lines)
    assert lines[-1] == f"not identical: {custom_wheel}, 2 differences"


def test_a_changed_asset_makes_another_wheel(wheel: Path, tmp_path: Path) -> None:
    def change(entry: zipfile.ZipInfo, content: bytes) -> bytes:
        return content + b"\0" if entry.filename.endswith("assets/init-oci") else content

    done = run(copied(wheel, tmp_path, change), "--json")
    assert done.returncode == 1
    found = {difference["what"] for difference in json.loads(done.stdout)["differences"]}
    assert "the file name" in found, "the set digest is in the version"


def test_assets_that_prove_to_be_none_make_no_wheel(wheel: Path, tmp_path: Path) -> None:
    def change(entry: zipfile.ZipInfo, content: bytes) -> bytes:
        return b"#!/bin/sh\n" * 1000 if entry.filename.endswith("assets/init-oci") else content

    done = run(copied(wheel, tmp_path, change))
    assert done.returncode == 1 and done.stdout == ""
    assert "expected assets that make a wheel" in done.stderr and "expected a static" in done.stderr
    assert "Traceback" not in done.stderr


def set_mode(entry: zipfile.ZipInfo, content: bytes) -> bytes:
    if entry.filename.endswith("init-oci"):
        entry.external_attr = 0o100644 << 16
    return content


def set_date(entry: zipfile.ZipInfo, content: bytes) -> bytes:
    if entry.filename.endswith("WHEEL"):
        entry.date_time = (2026, 2, 3, 4, 5, 6)
    return content


def store(entry: zipfile.ZipInfo, content: bytes) -> bytes:
    if entry.filename.endswith("NOTICE"):
        entry.compress_type = zipfile.ZIP_STORED
    return content


def drop(entry: zipfile.ZipInfo, content: bytes) -> bytes | None:
    return None if entry.filename.endswith("MIT.txt") else content


def edit_text(entry: zipfile.ZipInfo, content: bytes) -> bytes:
    return content.replace(b"Root-Is-Purelib: false", b"Root-Is-Purelib: true")


def edit_binary(entry: zipfile.ZipInfo, content: bytes) -> bytes:
    return content[:99] + b"\xff\xff" + content[101:] if entry.filename.endswith("smpark.ko") else content


def edit_line_ends(entry: zipfile.ZipInfo, content: bytes) -> bytes:
    return content.replace(b"\n", b"\r\n") if entry.filename.endswith("MIT.txt") else content


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (set_mode, ("init-oci", "mode")),
        (set_date, ("WHEEL", "date")),
        (store, ("NOTICE", "compression")),
        (drop, ("MIT.txt", "presence")),
        (edit_text, ("WHEEL", "content")),
        (edit_binary, ("smpark.ko", "content")),
        (edit_line_ends, ("MIT.txt", "content")),
    ],
)
def test_each_kind_of_difference_is_named(
    change: Callable[[zipfile.ZipInfo, bytes], bytes | None], found: tuple[str, str], wheel: Path, tmp_path: Path
) -> None:
    assert differences(copied(wheel, tmp_path, change), wheel) == [found]


def test_how_a_text_and_a_binary_differ(wheel: Path, tmp_path: Path) -> None:
    (text,) = compared(copied(wheel, tmp_path, edit_text), wheel)
    assert "-Root-Is-Purelib: true" in text.diff and "+Root-Is-Purelib: false" in text.diff
    (binary,) = compared(copied(wheel, tmp_path, edit_binary), wheel)
    assert "at offset 99: ffff" in binary.found and "bytes, SHA-256 " in binary.expected and not binary.diff


def test_a_long_difference_is_cut(tmp_path: Path, wheel: Path) -> None:
    def change(entry: zipfile.ZipInfo, content: bytes) -> bytes:
        return b"".join(b"x\n" for _ in range(500)) if entry.filename.endswith("GPL-2.0-only.txt") else content

    (found,) = compared(copied(wheel, tmp_path, change), wheel)
    assert len(found.diff) == DIFF_LINES + 1 and found.diff[-1].endswith(" more lines")


def test_another_order_and_bytes_around_the_members(wheel: Path, tmp_path: Path) -> None:
    assert differences(wheel, wheel) == []
    with zipfile.ZipFile(wheel) as archive:
        entries: list[Any] = [(entry, archive.read(entry)) for entry in archive.infolist()]
    with zipfile.ZipFile(tmp_path / wheel.name, "w") as other:
        for entry, content in reversed(entries):
            other.writestr(entry, content)
    assert differences(tmp_path / wheel.name, wheel) == [("members", "order, from number 1,")]
    (tmp_path / wheel.name).write_bytes(archive_of({e.filename: content for e, content in entries}) + b"more")
    assert differences(tmp_path / wheel.name, wheel) == [(wheel.name, "the archive around its members")]


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_what_is_no_archive_is_refused_in_one_line(content: bytes | None, wheel: Path, tmp_path: Path) -> None:
    path = tmp_path / wheel.name
    path.write_bytes(wheel.read_bytes()[:-100_000] if content is None else content)
    done = run(path)
    assert done.returncode == 1 and f"{path}: expected a whole zip archive, found" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_damaged_member_is_named(wheel: Path, tmp_path: Path) -> None:
    data = bytearray(wheel.read_bytes())
    data[data.index(b"LICENSES/MIT.txt") + 200] ^= 1
    (tmp_path / wheel.name).write_bytes(data)
    done = run(tmp_path / wheel.name)
    assert done.returncode == 1 and "MIT.txt: expected " in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_another_compressor_is_named_where_only_it_differs(wheel: Path, tmp_path: Path) -> None:
    """A wheel that zlib has compressed, as a later libdeflate might: the same files, and so it is said."""
    streams, contents = {}, {}
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            contents[name] = archive.read(name)
            packer = zlib.compressobj(9, zlib.DEFLATED, -15)
            streams[name] = packer.compress(contents[name]) + packer.flush()
    (tmp_path / wheel.name).write_bytes(wheel_archive(contents, streams))
    (found,) = compared(tmp_path / wheel.name, wheel)
    assert re.fullmatch(r"the compressed form of \d+ members, and nothing of what is in them,", found.what)
    assert re.search(r"by libdeflate of deflate \d+\.\d+\.\d+, level 12$", found.expected)
    assert list(audit(tmp_path / wheel.name, PROJECT, PROJECT / LOCK_NAME)), "the audit compares what is in them"


@pytest.mark.parametrize("program", ["audit.py", "rebuild.py"])
def test_a_crlf_checkout_is_named(program: str, wheel: Path, copy_of_checkout: Path, built_set: Path) -> None:
    """Git on Windows, or core.autocrlf, has turned every line end: other members, under the same name."""
    shutil.copytree(built_set, copy_of_checkout / "kernel-build/out/aarch64")
    for path in (copy_of_checkout / "supermachine_kernel").glob("*.py"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    done = run(wheel, script=str(copy_of_checkout / "scripts" / program))
    assert done.returncode == 1, done.stderr
    assert (
        "this checkout has CRLF line ends: run `git config core.autocrlf input` and check it out again" in done.stdout
    )


def test_an_argument_that_is_no_file_is_a_usage_error(tmp_path: Path) -> None:
    assert run().returncode == 2
    assert run(tmp_path / "none.whl").returncode == 2
    assert "examples:" in run("--help").stdout


def test_nothing_is_left_behind(wheel: Path, tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    shutil.copy(wheel, tmp_path)
    run(tmp_path / wheel.name, TMPDIR=str(tmp_path / "tmp"))
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_difference_that_speaks_to_the_terminal_does_not_get_there() -> None:
    difference = Difference("a\x1b[2J\nidentical", "content", "b\r", "c", ("+\x1b[Hidentical: all is well",))
    text = rebuild._text({"wheel": "w"}, [difference])
    assert all(line.isprintable() for line in text.splitlines()) and "\nidentical" not in text
