"""The finished wheel, from outside: its name, its members, and how it gets into a folder."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from scripts import wheel as wheel_program
from scripts.asset_build import frontend
from scripts.asset_build.guest_sets import GUEST_SETS
from scripts.asset_build.lock import read_lock
from scripts.machine import environments
from supermachine_kernel._assets import KNOWN_ASSETS
from supermachine_kernel._version import VERSION
from tests.support import disk
from tests.support.quick import sampled
from tests.support.sets import SET

PROJECT = Path(__file__).parents[2]
TAG = "py3-none-macosx_11_0_arm64"
MODULE_FILES = {
    "__init__.py",
    "__main__.py",
    "_api.py",
    "_assets.py",
    "_bundle.py",
    "_doctor.py",
    "_ensure.py",
    "_folder.py",
    "_host.py",
    "_output.py",
    "_package.py",
    "_proof.py",
    "_read.py",
    "_errors.py",
    "_installation.py",
    "_lockstep.py",
    "_manifest.py",
    "_manifest.pyi",
    "_version.py",
    "_write.py",
    "_pyinstaller/__init__.py",
    "_pyinstaller/hook-supermachine_kernel.py",
    "py.typed",
    "assets/init-oci",
    "assets/kernel",
    "assets/smpark.ko",
    "assets/supermachine-agent",
}
DIST_INFO_FILES = {
    "METADATA",
    "RECORD",
    "WHEEL",
    "entry_points.txt",
    "licenses/LICENSES/Apache-2.0.txt",
    "licenses/LICENSES/GCC-exception-3.1.txt",
    "licenses/LICENSES/GPL-2.0-only.txt",
    "licenses/LICENSES/GPL-3.0-or-later.txt",
    "licenses/LICENSES/Linux-syscall-note.txt",
    "licenses/LICENSES/MIT.txt",
    "licenses/NOTICE",
    "sboms/supermachine-kernel.cdx.json",
    "top_level.txt",
}


@pytest.fixture
def version(wheel: Path) -> str:
    return wheel.name.split("-")[1]


def dist_info(version: str) -> str:
    return f"supermachine_kernel-{version}.dist-info"


def test_the_exact_file_set(wheel: Path, version: str) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert len(names) == len(set(names))
    expected = {f"supermachine_kernel/{name}" for name in MODULE_FILES}
    assert set(names) == expected | {f"{dist_info(version)}/{name}" for name in DIST_INFO_FILES}


def test_modes_dates_and_order_are_the_build_s_own(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        entries = archive.infolist()
    programs = {"supermachine_kernel/assets/init-oci", "supermachine_kernel/assets/supermachine-agent"}
    for entry in entries:
        assert entry.external_attr >> 16 == (0o100755 if entry.filename in programs else 0o100644), entry.filename
        assert entry.date_time == (1980, 1, 1, 0, 0, 0)
        assert entry.compress_type == zipfile.ZIP_DEFLATED
    assert entries[-1].filename.endswith(".dist-info/RECORD")


def test_the_tag_in_name_and_wheel_file(wheel: Path, version: str) -> None:
    assert wheel.name == f"supermachine_kernel-{version}-{TAG}.whl"
    with zipfile.ZipFile(wheel) as archive:
        fields = Parser().parsestr(archive.read(f"{dist_info(version)}/WHEEL").decode())
    assert fields.get_all("Tag") == [TAG]
    assert fields["Root-Is-Purelib"] == "false"


def test_record_has_every_file_and_its_digest(wheel: Path, version: str) -> None:
    """The wheel specification: every file but RECORD itself, with urlsafe base64 of SHA-256 and its size."""
    with zipfile.ZipFile(wheel) as archive:
        record = list(csv.reader(io.StringIO(archive.read(f"{dist_info(version)}/RECORD").decode())))
        contents = {name: archive.read(name) for name in archive.namelist()}
    own = f"{dist_info(version)}/RECORD"
    assert [row for row in record if row[0] == own] == [[own, "", ""]]
    expected = {
        name: [
            "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode(),
            str(len(data)),
        ]
        for name, data in contents.items()
        if name != own
    }
    assert {row[0]: row[1:] for row in record if row[0] != own} == expected


def test_the_metadata_names_version_licence_and_python(wheel: Path, version: str) -> None:
    with zipfile.ZipFile(wheel) as archive:
        metadata = Parser().parsestr(archive.read(f"{dist_info(version)}/METADATA").decode())
    assert metadata["Name"] == "supermachine-kernel"
    assert metadata["Version"] == version
    assert metadata["License-Expression"] == "Apache-2.0 AND GPL-2.0-only AND MIT"
    assert metadata["Requires-Python"] == ">=3.9"
    assert metadata.get_all("Requires-Dist") is None


def test_a_set_that_is_not_locked_is_labelled(wheel: Path, version: str, custom_wheel: Path) -> None:
    import supermachine_kernel

    manifest = supermachine_kernel.MANIFEST
    locked = read_lock(PROJECT).set(SET)
    assert version == supermachine_kernel.__version__ == manifest["version"]
    if locked and locked.digest == manifest["set_digest"]:
        assert (version, manifest["origin"]) == (VERSION, "release")
    else:
        assert (version, manifest["origin"]) == (f"{VERSION}+custom.{manifest['set_digest'][:8]}", "custom")
    assert custom_wheel.name == f"supermachine_kernel-{VERSION}+custom.{manifest['set_digest'][:8]}-{TAG}.whl"


def test_the_assets_are_those_of_the_tree(installed: Path, built_set: Path) -> None:
    for name, mode in (("kernel", 0o644), ("init-oci", 0o755), ("supermachine-agent", 0o755), ("smpark.ko", 0o644)):
        path = installed / "supermachine_kernel" / "assets" / name
        assert path.read_bytes() == (built_set / name).read_bytes()
        assert path.stat().st_mode & 0o111 == mode & 0o111


@pytest.mark.parametrize("name", sampled(["kernel", "init-oci", "supermachine-agent", "smpark.ko"]))
def test_one_flipped_byte_is_found_and_named(wheel: Path, tmp_path: Path, name: str) -> None:
    """Installed as for the Mac, verify is 0; with one byte changed it is 1 and names the file."""
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    assert verify(site).returncode == 0
    path = site / "supermachine_kernel" / "assets" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    done = verify(site)
    assert done.returncode == 1
    assert name in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def verify(site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "supermachine_kernel", "verify"]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run(command, cwd=site, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_pip_wheel_gives_the_same_wheel(wheel: Path, built_set: Path, tmp_path: Path, project: Path) -> None:
    """Pip, in a build environment of its own, from a folder with the same files."""
    environment = {**os.environ, "SUPERMACHINE_ASSETS_DIR": str(built_set)}
    command = [sys.executable, "-m", "pip", "wheel", str(project), "--no-deps", "-w", str(tmp_path)]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert (tmp_path / wheel.name).read_bytes() == wheel.read_bytes()


@pytest.mark.slow
def test_the_script_reports_the_wheel(built_set: Path, tmp_path: Path, project: Path, wheel: Path) -> None:
    command = [sys.executable, str(project / "scripts" / "wheel.py"), "--json", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    report = json.loads(done.stdout)
    links = "  13 links of the audit hold"
    steps = ["building the wheel of aarch64", f"assets: the tree in {built_set}", "checking the wheel", links]
    assert done.stderr.splitlines() == steps, "the set is resolved and verified once, and there is no warning"
    assert Path(report["wheel"]).read_bytes() == wheel.read_bytes()
    assert report["sha256"] == hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert report["size"] == wheel.stat().st_size
    assert report["tag"] == TAG
    assert set(report["assets"]) == {"kernel", "init-oci", "supermachine-agent", "smpark.ko"}
    assert [path.name for path in tmp_path.iterdir()] == [wheel.name]


@pytest.mark.slow
def test_a_relative_path_is_one_from_the_caller_s_folder(
    built_set: Path, tmp_path: Path, project: Path, wheel: Path
) -> None:
    command = [sys.executable, str(project / "scripts" / "wheel.py"), "--out", "out"]
    environment = {**os.environ, "SUPERMACHINE_ASSETS_DIR": "set", "SUPERMACHINE_KERNEL_PATH": "set/kernel"}
    shutil.copytree(built_set, tmp_path / "set")
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert (tmp_path / "out" / wheel.name).read_bytes() == wheel.read_bytes()


def test_the_path_of_an_asset_is_the_caller_s_in_every_set() -> None:
    """The module that is imported may be that of an installed wheel, of one set."""
    given = {asset.variable: "here" for asset in KNOWN_ASSETS}
    assert frontend._for_the_child(given) == dict.fromkeys(given, os.path.abspath("here"))


def test_what_stops_the_build_is_one_line_of_the_script(built_set: Path, tmp_path: Path, project: Path) -> None:
    """It comes from the hook's process as it was raised, and not out of the text that setuptools prints."""
    folder = shutil.copytree(built_set, tmp_path / "error: set\nerror: ERROR Backend")
    (folder / "kernel").write_bytes(b"")
    command = [sys.executable, str(project / "scripts" / "wheel.py"), "--out", str(tmp_path / "out")]
    environment = {**os.environ, "SUPERMACHINE_ASSETS_DIR": str(folder)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    expected = f"wheel.py: {folder}/kernel: expected an uncompressed arm64 Linux Image, found an empty file; take "
    assert expected in done.stderr
    assert "Traceback" not in done.stderr and "Backend subprocess" not in done.stderr
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    "set_to", [{"SUPERMACHINE_ASSETS_DIR": "x"}, {"SUPERMACHINE_AGENT_PATH": "x"}, {"SUPERMACHINE_KERNEL_BUILD": ""}]
)
def test_from_source_takes_what_it_builds(set_to: dict[str, str], tmp_path: Path, project: Path) -> None:
    command = [sys.executable, str(project / "scripts/wheel.py"), "--from-source", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, env={**os.environ, **set_to}, capture_output=True, text=True, check=False)
    (name,) = set_to
    expected = f"wheel.py: --from-source: expected to build and take the tree kernel-build/, found {name} set; "
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(expected)
    assert not (tmp_path / "out").exists()


def test_the_script_says_what_is_missing(tmp_path: Path, unlocked_checkout: Path) -> None:
    """No override, no tree, offline: one message with the sources in order, and no wheel."""
    environment = {**os.environ, "SUPERMACHINE_KERNEL_BUILD": "", "SUPERMACHINE_OFFLINE": "1"}
    out = tmp_path / "out"
    command = [sys.executable, str(unlocked_checkout / "scripts" / "wheel.py"), "--out", str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    steps = [done.stderr.index(step) for step in ("1. override", "2. tree", "3. release")]
    assert steps == sorted(steps)
    assert "Traceback" not in done.stderr
    assert list(out.iterdir()) == []


@pytest.mark.slow
def test_a_second_build_carries_nothing_of_the_first(copy_of_checkout: Path, built_set: Path, tmp_path: Path) -> None:
    """Another set, then a module less: neither the old assets nor the old module are in the second wheel."""
    extra = copy_of_checkout / "supermachine_kernel" / "_extra.py"
    extra.write_text("")
    first = build(copy_of_checkout, built_set, tmp_path / "first")
    extra.unlink()
    second = build(copy_of_checkout, built_set, tmp_path / "second")
    with zipfile.ZipFile(first) as one, zipfile.ZipFile(second) as other:
        assert set(one.namelist()) - set(other.namelist()) == {"supermachine_kernel/_extra.py"}


@pytest.mark.parametrize("name", sampled(["LICENSES/mine.txt", "supermachine_kernel/_mine.py", "README.md"]))
def test_a_link_that_leads_out_of_the_checkout_stops_it(
    name: str, copy_of_checkout: Path, built_set: Path, tmp_path: Path
) -> None:
    """The wheel would give away what it leads to."""
    (tmp_path / "secret").write_text("mine")
    (copy_of_checkout / name).unlink(missing_ok=True)
    (copy_of_checkout / name).symlink_to(tmp_path / "secret")
    done = run_setup(copy_of_checkout, built_set, tmp_path / "out")
    assert done.stderr.splitlines()[-1:] == [
        f"error: {name}: expected a file of this checkout, found a link to {tmp_path / 'secret'}; remove it"
    ]
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.whole_run
def test_why_it_stopped_is_said_where_it_cannot_be_written_down(copy_of_checkout: Path, tmp_path: Path) -> None:
    """The file that the variable names is the frontend's; a user may have left it set."""
    nowhere = str(tmp_path / "no" / "error")
    done = run_setup(copy_of_checkout, tmp_path / "none", tmp_path / "out", SUPERMACHINE_BUILD_ERROR=nowhere)
    assert done.returncode == 1
    first, second = done.stderr.splitlines()[-2:]
    assert first.startswith(f"error: SUPERMACHINE_ASSETS_DIR={tmp_path / 'none'}: expected a folder with the whole set")
    assert second == f"error: SUPERMACHINE_BUILD_ERROR={nowhere}: No such file or directory"


@pytest.mark.whole_run
@pytest.mark.skipif(sys.platform != "linux", reason="a tmpfs of its own is Linux's")
def test_a_full_disk_is_told_with_the_folders_it_may_be_of(
    copy_of_checkout: Path, built_set: Path, tmp_path: Path
) -> None:
    """The system names no file when a write fails."""
    small = tmp_path / "small"
    small.mkdir()
    program = (
        "import os, sys\nos.chdir(sys.argv[1])\n"
        "os.environ.update(TMPDIR=sys.argv[2], SUPERMACHINE_ASSETS_DIR=sys.argv[3])\n"
        "os.execv(sys.executable, [sys.executable, 'setup.py', '-q', 'bdist_wheel', '--dist-dir', sys.argv[4]])"
    )
    done = disk.python_on_tmpfs(small, program, copy_of_checkout, small, built_set, tmp_path / "out", size="4m")
    expected = f"error: {small}, or {copy_of_checkout}: expected to be read and written, found No space left on device"
    assert (done.returncode, done.stderr.splitlines()[-1:]) == (1, [expected])


def test_a_built_wheel_that_cannot_be_read_is_no_error_of_the_destination(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It lies in the temporary folder, which something else may have cleaned."""
    gone = tmp_path / "gone.whl"
    monkeypatch.setattr(environments, "ensure", lambda group: Path(sys.executable))
    monkeypatch.setattr(frontend, "build_wheel", lambda *_: gone)
    monkeypatch.setattr(wheel_program, "_check", lambda *_: {})
    with pytest.raises(FileNotFoundError) as raised:
        wheel_program.build_wheel(tmp_path / "out", GUEST_SETS[SET])
    assert raised.value.filename == str(gone)
    assert list((tmp_path / "out").iterdir()) == []


def run_setup(checkout: Path, assets: Path, out: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "setup.py", "-q", "bdist_wheel", "--dist-dir", str(out)]
    inside = {**os.environ, "SUPERMACHINE_ASSETS_DIR": str(assets), **variables}
    return subprocess.run(command, cwd=checkout, env=inside, capture_output=True, text=True, check=False)


def build(checkout: Path, assets: Path, out: Path) -> Path:
    environment = {**os.environ, "SUPERMACHINE_ASSETS_DIR": str(assets)}
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(checkout)]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    (wheel,) = out.glob("*.whl")
    return wheel
