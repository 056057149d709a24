"""What a set must prove, and what is said of each wrong file: real ones, of the kinds people hand over."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import struct
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from packaging.version import Version
from setuptools.command.bdist_wheel import safe_version

from scripts.asset_build.audit.chain import audit
from scripts.asset_build.digests import set_digest
from scripts.asset_build.errors import BuildError
from scripts.asset_build.lock import LockedAsset, LockedFile, LockedSet
from scripts.asset_build.wheel.sources import Source
from scripts.asset_build.wheel.verify import custom_version, verify_set
from supermachine_kernel._assets import ASSETS, Asset
from supermachine_kernel._version import VERSION
from tests.support import elf, release
from tests.support.sets import GUEST_SET

MakeFile = Callable[[Path, Path], Path]


def source_with(built_set: Path, build_info: Path | None = None, **replaced: Path) -> Source:
    files = {asset.name: built_set / asset.name for asset in ASSETS}
    files.update({name.replace("_", "-") if "smpark" not in name else "smpark.ko": p for name, p in replaced.items()})
    return Source(GUEST_SET, "override", files, build_info)


def test_the_built_set_is_proven(built_set: Path) -> None:
    verified = verify_set(source_with(built_set, built_set / "build-info.json"))
    info = json.loads((built_set / "build-info.json").read_text())
    assert verified.kernel.release == info["kernel_release"]
    assert verified.kernel.af_tsi is True, "the series is in kernel-build/patches"
    assert verified.build == info
    sums = subprocess.run(["sha256sum", *sorted(verified.contents)], cwd=built_set, capture_output=True, check=True)
    assert verified.digest == set_digest(verified.sha256)
    digest_of_sums = subprocess.run(["sha256sum"], input=sums.stdout, capture_output=True, check=True)
    assert digest_of_sums.stdout.split()[0].decode() == verified.digest


def test_af_tsi_is_read_from_the_image(built_set: Path, tmp_path: Path) -> None:
    """A kernel whose family bears no such name has none, whatever its record or its config says."""
    content = (built_set / "kernel").read_bytes().replace(b"\0AF_TSI\0", b"\0AF_XXX\0")
    patched = tmp_path / "kernel"
    patched.write_bytes(content)
    assert verify_set(source_with(built_set, kernel=patched)).kernel.af_tsi is False


def gzipped(kernel: Path, folder: Path) -> Path:
    return write(folder, gzip.compress(kernel.read_bytes(), 1))


def big_endian(kernel: Path, folder: Path) -> Path:
    content = bytearray(kernel.read_bytes())
    content[24] |= 1  # booting.rst: bit 0 of flags
    return write(folder, bytes(content))


def efi_zboot(kernel: Path, folder: Path) -> Path:
    """A zboot header (drivers/firmware/efi/libstub/zboot-header.S) with its compressed payload."""
    payload = gzip.compress(kernel.read_bytes(), 1)
    header = struct.pack("<4s4sII8s32sI", b"MZ\0\0", b"zimg", 64, len(payload), b"", b"gzip", 0x818223CD)
    return write(folder, header + payload)


def appended(kernel: Path, folder: Path) -> Path:
    content = kernel.read_bytes()
    image_size = int.from_bytes(content[16:24], "little")
    return write(folder, content.ljust(image_size + 1, b"\0"))


def debian_bzimage(_kernel: Path, folder: Path) -> Path:
    """memtest86+ is a small program in the format of an x86 bzImage (Documentation/arch/x86/boot.rst)."""
    subprocess.run(["apt-get", "download", "-q", "memtest86+"], cwd=folder, capture_output=True, check=True)
    (package,) = folder.glob("*.deb")
    subprocess.run(["dpkg-deb", "-x", package, folder / "unpacked"], check=True)
    return write(folder, (folder / "unpacked/boot/memtest86+x64.bin").read_bytes().ljust(2 << 20, b"\0"))


def write(folder: Path, content: bytes) -> Path:
    path = folder / "kernel"
    path.write_bytes(content)
    return path


KERNELS: list[tuple[str, MakeFile, str]] = [
    ("empty", lambda k, d: write(d, b""), "expected an uncompressed arm64 Linux Image, found an empty file"),
    ("cut in half", lambda k, d: write(d, k.read_bytes()[: k.stat().st_size // 2]), "expected a whole Linux Image"),
    ("gzip", gzipped, "found gzip data (an Image.gz): gunzip it"),
    ("big-endian", big_endian, "expected a little-endian kernel, found a big-endian one"),
    ("EFI zboot", efi_zboot, "found an EFI zboot image"),
    ("noise", lambda k, d: write(d, bytes(range(256)) * 8192), "where its magic b'ARMd' should be"),
    ("longer than its image_size", appended, "expected at most its image_size,"),
    ("vmlinux", lambda k, d: write(d, elf.static_program(d).read_bytes().ljust(2 << 20, b"\0")), "an ELF file"),
    ("too small", lambda k, d: write(d, k.read_bytes()[:4096]), "bytes for kernel, found 4096"),
]


@pytest.mark.parametrize(("make", "message"), [k[1:] for k in KERNELS], ids=[k[0] for k in KERNELS])
def test_a_wrong_kernel_is_refused_by_what_it_is(built_set: Path, tmp_path: Path, make: MakeFile, message: str) -> None:
    path = make(built_set / "kernel", tmp_path)
    assert_refused(source_with(built_set, kernel=path), path, message)


@pytest.mark.slow
def test_an_x86_bzimage_is_refused_as_one(built_set: Path, tmp_path: Path) -> None:
    path = debian_bzimage(built_set / "kernel", tmp_path)
    assert_refused(source_with(built_set, kernel=path), path, "found an x86 bzImage")


def script(folder: Path) -> Path:
    path = folder / "init.sh"
    path.write_text("#!/bin/sh\n" + "# padding\n" * 1000)
    return path


def truncated(folder: Path) -> Path:
    program = elf.static_program(folder)
    program.write_bytes(program.read_bytes()[:12288])
    return program


PROGRAMS: list[tuple[str, Callable[[Path], Path], str]] = [
    ("x86-64", elf.x86_64_program, "expected a static AArch64 executable, found an ELF for x86-64"),
    ("32-bit ARM", elf.arm32_program, "found a 32-bit little-endian ELF for 32-bit ARM"),
    ("dynamic", elf.dynamic_program, "found one that needs the loader /lib/ld-linux-aarch64.so.1"),
    ("shared library", elf.shared_library, "expected a static executable, found a shared library"),
    ("script", script, "found a script"),
    ("relocatable", elf.relocatable, "expected a static executable, found a relocatable file"),
    ("truncated", truncated, "it is truncated"),
]


@pytest.mark.parametrize("name", ["init_oci", "supermachine_agent"])
@pytest.mark.parametrize(("make", "message"), [p[1:] for p in PROGRAMS], ids=[p[0] for p in PROGRAMS])
def test_a_wrong_program_is_refused_by_what_it_is(
    built_set: Path, tmp_path: Path, name: str, make: Callable[[Path], Path], message: str
) -> None:
    path = make(tmp_path)
    assert_refused(source_with(built_set, **{name: path}), path, message)


@pytest.mark.parametrize("make", [elf.static_program, elf.static_pie])
def test_a_static_program_is_taken_position_independent_or_not(
    built_set: Path, tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    verify_set(source_with(built_set, init_oci=make(tmp_path)))


def test_a_module_of_another_kernel_is_refused(built_set: Path, tmp_path: Path) -> None:
    other = elf.with_vermagic(built_set / "smpark.ko", "6.1.0-44-arm64 SMP mod_unload modversions aarch64", tmp_path)
    message = "found one of 6.1.0-44-arm64; a set comes from one kernel build"
    assert_refused(source_with(built_set, smpark_ko=other), other, message)


def test_a_module_without_vermagic_is_refused(built_set: Path, tmp_path: Path) -> None:
    other = elf.with_vermagic(built_set / "smpark.ko", "", tmp_path)
    assert_refused(source_with(built_set, smpark_ko=other), other, "expected a vermagic in .modinfo, found none")


def x86_64_object(folder: Path) -> Path:
    (folder / "m.c").write_text("int ballast[1024] = {1};\n")
    subprocess.run(["gcc", "-c", "-o", folder / "m.ko", folder / "m.c"], check=True)
    return folder / "m.ko"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (x86_64_object, "expected a kernel module for AArch64, found an ELF for x86-64"),
        (elf.relocatable, "expected a kernel module, found a relocatable file without .modinfo"),
        (elf.static_program, "expected a kernel module, found an executable"),
    ],
)
def test_what_is_no_module_is_refused_by_what_it_is(
    built_set: Path, tmp_path: Path, make: Callable[[Path], Path], message: str
) -> None:
    path = make(tmp_path)
    assert_refused(source_with(built_set, smpark_ko=path), path, message)


@pytest.mark.parametrize("asset", ASSETS, ids=str)
def test_a_size_out_of_range_is_refused_before_it_is_read(built_set: Path, tmp_path: Path, asset: object) -> None:
    huge = tmp_path / "huge"
    with huge.open("wb") as file:
        file.truncate(1 << 40)  # sparse: to read it would take the machine's memory
    source = source_with(built_set)
    for one in ASSETS:
        if one is asset:
            files = {**source.files, one.name: huge}
            assert_refused(Source(GUEST_SET, "override", files), huge, f"bytes for {one.name}, found {1 << 40}")


def test_build_info_of_other_files_is_not_believed(built_set: Path, tmp_path: Path) -> None:
    shutil.copytree(built_set, tmp_path / "set")
    info = json.loads((built_set / "build-info.json").read_text())
    info["assets"]["kernel"]["sha256"] = "0" * 64
    (tmp_path / "set/build-info.json").write_text(json.dumps(info))
    source = source_with(tmp_path / "set", tmp_path / "set/build-info.json")
    assert verify_set(source).build is None


def test_a_tree_is_as_its_build_left_it(built_set: Path, tmp_path: Path) -> None:
    """The header of an Image does not show that its end is missing; the record of the build does."""
    shutil.copytree(built_set, tmp_path / "set")
    record = tmp_path / "set/build-info.json"
    cut = replace(source_with(tmp_path / "set", record), kind="tree")
    assert verify_set(cut).build == json.loads(record.read_text())
    os.truncate(tmp_path / "set/kernel", (built_set / "kernel").stat().st_size - 100_000)
    message = "expected the record of the files beside it, found another SHA-256 for kernel; build again, or remove"
    assert_refused(cut, record, message)
    record.unlink()
    assert verify_set(replace(cut, build_info=None)).build is None


def test_broken_build_info_is_said(built_set: Path, tmp_path: Path) -> None:
    broken = tmp_path / "build-info.json"
    for text in ("{", "[" * 100_000, "7", '{"assets": {}, "kernel_release": "\\ud800"}'):
        broken.write_text(text)
        assert_refused(source_with(built_set, broken), broken, "expected the build's own record in JSON")


def test_a_locked_set_has_the_build_info_of_the_lock(built_set: Path) -> None:
    verified = verify_set(source_with(built_set))
    unpacked = {name: LockedFile(len(verified.contents[name]), sha256) for name, sha256 in verified.sha256.items()}
    locked = LockedSet("aarch64", {n: LockedAsset(f, LockedFile(1, "0" * 64)) for n, f in unpacked.items()}, {"a": 1})
    assert verify_set(source_with(built_set, built_set / "build-info.json"), locked).build == {"a": 1}


def test_an_asset_of_a_kind_that_no_verifier_knows_is_named(built_set: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("notes\n")
    row = Asset("notes", "NOTES", kind="txet", mode=0o644, licence="MIT", variable="NOTES_PATH", sizes=(1, 100))
    guest_set = replace(GUEST_SET, assets=(*GUEST_SET.assets, row))
    source = replace(source_with(built_set, notes=tmp_path / "notes"), guest_set=guest_set)
    expected = "_assets.py: notes: expected the kind kernel, program or module, found txet; correct the row"
    assert_refused(source, Path("supermachine_kernel"), expected)


def assert_refused(source: Source, path: Path, message: str) -> None:
    with pytest.raises(BuildError) as refused:
        verify_set(source)
    assert message in str(refused.value)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


@given(st.text("0123456789abcdef", min_size=64, max_size=64) | st.text("0123456789", min_size=64, max_size=64))
@example("08354771" + "a" * 56)
@example("0" * 64)
def test_the_version_of_a_custom_set_is_one_that_pep_440_leaves_as_it_is(digest: str) -> None:
    version = custom_version(digest)
    assert str(Version(version)) == version
    assert safe_version(version) == version
    assert Version(version).base_version == VERSION
    assert digest[:8] in version


def test_every_digest_has_its_own_version() -> None:
    """Among the digests that begin alike: a number without its zeros would be another set's."""
    starts = ["08354771", "8354771a", "00000000", "0000000a", "12345678"]
    assert len({custom_version(start.ljust(64, "f")) for start in starts}) == len(starts)


@pytest.mark.slow
def test_a_set_whose_digest_begins_with_digits_and_a_zero_can_be_built(
    built_set: Path, unlocked_checkout: Path, tmp_path: Path
) -> None:
    """The kernel's last byte is padding: it is counted up until the set digest begins with 0 and seven digits."""
    folder = shutil.copytree(built_set, tmp_path / "set", ignore=shutil.ignore_patterns("build-info.json"))
    verified = verify_set(source_with(folder))
    kernel, sums = bytearray(verified.contents["kernel"]), dict(verified.sha256)
    start = hashlib.sha256(kernel[:-4])
    for count in range(1 << 20):
        last = struct.pack("<I", count)
        whole = start.copy()
        whole.update(last)
        sums["kernel"] = whole.hexdigest()
        label = set_digest(sums)[:8]
        if label.isdigit() and label.startswith("0"):
            break
    else:
        pytest.fail("no such digest among a million")
    (folder / "kernel").write_bytes(kernel[:-4] + last)
    wheel, _ = release.build(unlocked_checkout, folder, tmp_path / "out")
    assert wheel.name.split("-")[1] == f"{VERSION}+custom.0x{label}"
    lock = unlocked_checkout / "assets.lock.json"
    assert list(audit(wheel, unlocked_checkout, lock))
