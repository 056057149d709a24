"""The wheel of this machine's own set, which plain pip installs here, and what is said of files of another set."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Mapping
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest
from packaging.tags import Tag, parse_tag, sys_tags

from scripts.asset_build.errors import BuildError
from scripts.asset_build.guest_sets import GUEST_SETS, set_of_this_machine, wheel_row
from scripts.asset_build.paths import PROJECT
from scripts.asset_build.wheel.sources import resolve
from scripts.asset_build.wheel.verify import verify_set
from tests.support import child
from tests.support.examples import author, run
from tests.support.mac import AS_ON_A_MAC, AS_ON_A_MAC_VARIABLES

SET = "x86_64"
NAMES = [asset.name for asset in GUEST_SETS[SET].assets]

pytestmark = [
    pytest.mark.xdist_group("native wheel"),  # which is installed once
    pytest.mark.slow,  # a virtual environment, and freezers
    pytest.mark.skipif(set_of_this_machine() != SET, reason="pip takes it on Linux on x86_64 alone"),
]


@pytest.fixture(scope="module")
def python(native_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a virtual environment whose pip was told nothing but the file's name."""
    folder = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    done = plain_pip(python, "install", "--no-index", native_wheel)
    assert done.returncode == 0, done.stderr
    return python


@pytest.fixture(scope="module")
def site(python: Path) -> Path:
    base = str(python.parents[1])
    return Path(sysconfig.get_path("platlib", vars={"base": base, "platbase": base}))


def plain_pip(python: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    inside = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    command = [str(python), "-m", "pip", "--quiet", *map(str, arguments)]
    return subprocess.run(command, env=inside, capture_output=True, text=True, check=False)


def json_of(site: Path, *arguments: object, good: bool = True) -> dict[str, Any]:
    done = child.command_line(*arguments, "--json", site=site)
    assert (done.returncode == 0) is good, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_its_tags_are_in_its_name_and_in_wheel_and_this_machine_has_one(native_wheel: Path, site: Path) -> None:
    row = wheel_row(SET)
    named = native_wheel.name.removesuffix(".whl").split("-", 2)[2]
    (info,) = site.glob("supermachine_kernel-*.dist-info/WHEEL")
    tags = Parser().parsestr(info.read_text()).get_all("Tag")
    assert named == f"py3-none-{row.platform_tag}"
    assert tags == list(row.tags)
    assert parse_tag(named) == {Tag(*tag.split("-", 2)) for tag in row.tags}
    assert parse_tag(named) & set(sys_tags())


def test_pip_refuses_the_wheel_of_another_host(wheel: Path, native_wheel: Path, python: Path, tmp_path: Path) -> None:
    for other, options in ((wheel, ()), (native_wheel, (*AS_ON_A_MAC, "--target", tmp_path))):
        done = plain_pip(python, "install", "--no-index", *options, other)
        assert done.returncode == 1
        assert f"{other.name} is not a supported wheel on this platform" in done.stderr


def test_the_module_has_what_the_set_has(site: Path, x86_64_set: Path, tmp_path: Path) -> None:
    code = f"""\
import supermachine_kernel as module, pathlib, sys
assert [asset.name for asset in module.ASSETS] == {NAMES}
assert module.BUSYBOX_BYTES == pathlib.Path(sys.argv[1], "busybox").read_bytes()
assert module.BUSYBOX_LEN == module.BUSYBOX.size == len(module.BUSYBOX_BYTES)
module.extract_busybox_to(sys.argv[2])
module.extract_busybox_to_with_parents(sys.argv[3])
folder = module.extract_all_to(sys.argv[4])
assert sorted(path.name for path in folder.iterdir()) == sorted({NAMES})
assert module.verify() is None and module.MANIFEST["set"] == {SET!r} and module.MANIFEST["af_tsi"]
assert not {{"INIT_OCI", "extract_to", "SMPARK_KO_LEN"}} & {{*dir(module), *module.__all__}}
try: module.INIT_OCI
except AttributeError as error: print(error)
"""
    places = [tmp_path / "busybox", tmp_path / "a" / "busybox", tmp_path / "all"]
    done = child.python(code, x86_64_set, *places, site=site)
    assert (done.returncode, done.stderr) == (0, "")
    why = "init-oci is in the asset set aarch64, and this is x86_64"
    assert done.stdout == f"module 'supermachine_kernel' has no 'INIT_OCI': {why}\n"
    assert (tmp_path / "busybox").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "all" / "kernel").read_bytes() == (x86_64_set / "kernel").read_bytes()


def test_the_command_line_follows_the_set(site: Path, tmp_path: Path) -> None:
    assert sorted(json_of(site, "info")["assets"]) == sorted(NAMES)
    assert [file["name"] for file in json_of(site, "verify")["files"]] == NAMES
    bundled = json_of(site, "bundle", tmp_path / "bundle")
    assert {file["name"] for file in bundled["files"]} == {*NAMES, "manifest.json"}
    assert json_of(site, "verify", tmp_path / "bundle")["ok"] is True


def test_doctor_finds_nothing_wrong_but_what_kvm_is_here(site: Path) -> None:
    """Whether this machine has KVM is the machine's; tests/module/test_sets.py tries each answer of the device."""
    findings = json.loads(child.command_line("doctor", "--json", site=site).stdout)["findings"]
    assert findings[0]["subject"] == "platform"
    assert findings[0]["found"].startswith("Linux on x86_64, with")
    subjects = ["python", "installation", *NAMES, "kernel release", "library", "ensure_assets"]
    assert [(finding["subject"], finding["status"]) for finding in findings[1:]] == [(name, "ok") for name in subjects]


def test_the_audit_knows_it_by_its_tag(native_wheel: Path) -> None:
    command = [sys.executable, str(PROJECT / "scripts" / "audit.py"), str(native_wheel)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "busybox: a static x86-64 program" in done.stdout


def test_an_index_and_a_reader_of_bills_of_materials_find_nothing_wrong_with_it(
    native_wheel: Path, x86_64_set: Path
) -> None:
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for command in (["twine", "check", "--strict"], ["check_wheel_contents", "--config", PROJECT / "pyproject.toml"]):
        done = subprocess.run(
            [sys.executable, "-m", *command, native_wheel], env=outside, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
    from cyclonedx.schema import SchemaVersion  # their import takes seconds, which only slow tests may
    from cyclonedx.validation.json import JsonStrictValidator

    with zipfile.ZipFile(native_wheel) as archive:
        (name,) = (name for name in archive.namelist() if ".dist-info/sboms/" in name)
        text = archive.read(name).decode()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    components = {component["bom-ref"]: component for component in json.loads(text)["components"]}
    assert components.keys() >= {*NAMES, "musl"} and "init-oci" not in components
    (digest,) = components["busybox"]["hashes"]
    assert digest["content"] == hashlib.sha256((x86_64_set / "busybox").read_bytes()).hexdigest()
    assert components["busybox"]["pedigree"]["ancestors"][0]["purl"].startswith("pkg:deb/debian/busybox@")


ORDINARY = ("build_time", "run_time", "vmm_view", "read_only_store", "zipapp", "pyinstaller", "shiv")
"""Those that take seconds; tests/wheel/test_frozen.py runs every freezer with the other set."""


@pytest.mark.parametrize(
    "example",
    [
        *ORDINARY,
        *(pytest.param(name, marks=pytest.mark.ondemand) for name in ("pex", "cx_freeze", "nuitka")),
    ],
)
def test_an_example_runs_with_a_pip_that_is_told_no_platform(
    example: str, native_wheel: Path, x86_64_set: Path, site: Path, tmp_path: Path
) -> None:
    """The freezer's user has what pip took of its own accord; so has the app that is built."""
    named = author(native_wheel, tmp_path)
    environment = {name: value for name, value in named.items() if name not in AS_ON_A_MAC_VARIABLES}
    script = PROJECT / "examples" / example / "run.sh"
    run(["bash", str(script), str(tmp_path / "out")], {**environment, "PYTHONPATH": str(site)}, tmp_path)
    if example == "vmm_view":
        kernel, memory = (x86_64_set / "kernel").read_bytes(), (tmp_path / "out" / "memory").read_bytes()
        assert memory[2 << 20 :].startswith(kernel[(kernel[0x1F1] + 1) * 512 :])
    else:
        app = "Hello.app/Contents/Resources" if example == "build_time" else "guest"
        found = {path.name: path.read_bytes() for path in (tmp_path / "out" / app).iterdir() if path.name in NAMES}
        assert found == {name: (x86_64_set / name).read_bytes() for name in NAMES}


def verified(environ: Mapping[str, str]) -> str:
    with pytest.raises(BuildError) as caught:
        verify_set(resolve(PROJECT, environ))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("guest_set", "name", "said"),
    [
        (SET, "kernel", "expected an x86 bzImage, found an arm64 Image"),
        (SET, "supermachine-agent", "expected a static x86-64 executable, found an ELF for AArch64"),
        ("aarch64", "kernel", "expected an uncompressed arm64 Linux Image, found an x86 bzImage"),
        ("aarch64", "supermachine-agent", "expected a static AArch64 executable, found an ELF for x86-64"),
    ],
)
def test_a_file_of_another_architecture_is_refused_in_its_place(
    guest_set: str, name: str, said: str, x86_64_set: Path, built_set: Path, tmp_path: Path
) -> None:
    """A set that is mixed of two: all files of one, and one of the other's."""
    folders = {SET: x86_64_set, "aarch64": built_set}
    (other,) = folders.keys() - {guest_set}
    mixed = shutil.copytree(folders[guest_set], tmp_path / "mixed")
    shutil.copyfile(folders[other] / name, mixed / name)
    assert said in verified({"SUPERMACHINE_SET": guest_set, "SUPERMACHINE_ASSETS_DIR": str(mixed)})


@pytest.mark.parametrize(
    ("guest_set", "name", "other", "said"),
    [
        (SET, "busybox", "init-oci", "expected a static x86-64 executable, found an ELF for AArch64"),
        ("aarch64", "init-oci", "busybox", "expected a static AArch64 executable, found an ELF for x86-64"),
        ("aarch64", "smpark.ko", "busybox", "smpark.ko: expected "),
    ],
)
def test_a_file_that_only_the_other_set_has_is_refused_too(
    guest_set: str, name: str, other: str, said: str, x86_64_set: Path, built_set: Path, tmp_path: Path
) -> None:
    folders = {SET: x86_64_set, "aarch64": built_set}
    mixed = shutil.copytree(folders[guest_set], tmp_path / "mixed")
    (theirs,) = folders.keys() - {guest_set}
    shutil.copyfile(folders[theirs] / other, mixed / name)
    assert said in verified({"SUPERMACHINE_SET": guest_set, "SUPERMACHINE_ASSETS_DIR": str(mixed)})


def test_a_folder_of_another_set_lacks_what_this_one_has(built_set: Path) -> None:
    found = verified({"SUPERMACHINE_SET": SET, "SUPERMACHINE_ASSETS_DIR": str(built_set)})
    assert "expected kernel, busybox, supermachine-agent, found no busybox" in found


def test_without_a_name_the_wheel_of_this_machine_is_built(
    native_wheel: Path, copy_of_checkout: Path, tmp_path: Path
) -> None:
    """The same bytes as that of the test run; tests/habits/test_workflows.py has what `--set all` builds."""
    inside = {name: value for name, value in os.environ.items() if name != "SUPERMACHINE_SET"}
    command: list[str | Path] = [
        sys.executable,
        copy_of_checkout / "scripts/wheel.py",
        "--from-source",
        "--out",
        tmp_path / "out",
    ]
    done = subprocess.run(command, env=inside, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = (tmp_path / "out").iterdir()
    assert (built.name, built.read_bytes()) == (native_wheel.name, native_wheel.read_bytes())


def test_this_machine_builds_it_from_an_sdist(
    sdist: Path, native_wheel: Path, x86_64_set: Path, tmp_path: Path
) -> None:
    """No SUPERMACHINE_CROSS_BUILD is asked for, as for the other set, and the wheel is the same bytes."""
    inside = {name: value for name, value in os.environ.items() if name not in ("SUPERMACHINE_SET", "PYTHONPATH")}
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run(
        [*command, "--wheel-dir", str(tmp_path), str(sdist)],
        env={**inside, "SUPERMACHINE_ASSETS_DIR": str(x86_64_set)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (built,) = tmp_path.glob("*.whl")
    assert (built.name, built.read_bytes()) == (native_wheel.name, native_wheel.read_bytes())
