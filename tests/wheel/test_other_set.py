"""The wheel of another set, which plain pip installs here, and what is said of files that belong elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest
from packaging.tags import Tag, parse_tag, sys_tags

from scripts.asset_build.errors import BuildError
from scripts.asset_build.guest_sets import GUEST_SETS, set_of_this_machine, wheel_row
from scripts.asset_build.lock import LOCK_NAME
from scripts.asset_build.paths import PROJECT
from scripts.asset_build.wheel.sources import resolve
from scripts.asset_build.wheel.verify import verify_set
from tests.support import child
from tests.support.examples import author, run
from tests.support.mac import AS_ON_A_MAC_VARIABLES

SET = "x86_64"
NAMES = ["kernel", "busybox", "supermachine-agent"]

pytestmark = [
    pytest.mark.slow,  # builds a wheel
    pytest.mark.skipif(set_of_this_machine() != SET or sys.platform != "linux", reason="pip takes it there alone"),
]


@pytest.fixture(scope="module")
def site(other_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment in which pip was told nothing but the file's name."""
    folder = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    inside = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    install = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-index", str(other_wheel)]
    subprocess.run(install, env=inside, check=True)
    return Path(sysconfig.get_path("platlib", vars={"base": str(folder), "platbase": str(folder)}))


def program(name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PROJECT / "scripts" / name), *arguments]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)


def json_of(site: Path, *arguments: str, good: bool = True) -> dict[str, Any]:
    done = child.command_line(*arguments, "--json", site=site)
    assert (done.returncode == 0) is good, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_its_tags_are_in_its_name_and_in_wheel_and_this_machine_has_one(other_wheel: Path, site: Path) -> None:
    row = wheel_row(SET)
    named = other_wheel.name.removesuffix(".whl").split("-", 2)[2]
    (info,) = site.glob("supermachine_kernel-*.dist-info/WHEEL")
    tags = Parser().parsestr(info.read_text()).get_all("Tag")
    assert named == f"py3-none-{row.platform_tag}"
    assert tags == list(row.tags)
    assert parse_tag(named) == {Tag(*tag.split("-", 2)) for tag in row.tags}
    assert parse_tag(named) & set(sys_tags())


def test_the_table_and_packaging_agree_on_which_wheel_fits_this_machine() -> None:
    here = set(sys_tags())
    fitting = [name for name in GUEST_SETS if any(Tag(*tag.split("-", 2)) in here for tag in wheel_row(name).tags)]
    assert fitting == [set_of_this_machine()]


def test_the_module_has_what_the_set_has(site: Path, x86_64_set: Path, tmp_path: Path) -> None:
    code = f"""\
import supermachine_kernel as module, pathlib, sys
assert [asset.name for asset in module.ASSETS] == {NAMES}
assert module.BUSYBOX_BYTES == pathlib.Path(sys.argv[1], "busybox").read_bytes() and module.BUSYBOX_LEN
module.extract_busybox_to(sys.argv[2])
module.extract_busybox_to_with_parents(sys.argv[3])
folder = module.extract_all_to(sys.argv[4])
assert sorted(path.name for path in folder.iterdir()) == sorted({NAMES})
assert module.verify() is None and module.MANIFEST["set"] == {SET!r}
assert not {{"INIT_OCI", "extract_to", "SMPARK_KO_LEN"}} & {{*dir(module), *module.__all__}}
"""
    places = [tmp_path / "busybox", tmp_path / "a" / "busybox", tmp_path / "all"]
    done = child.python(code, x86_64_set, *places, site=site)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "busybox").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize(
    ("name", "asset"),
    [
        ("INIT_OCI", "init-oci"),
        ("INIT_OCI_BYTES", "init-oci"),
        ("SMPARK_KO_LEN", "smpark.ko"),
        ("extract_smpark_ko_to", "smpark.ko"),
        ("extract_to", "init-oci"),
        ("extract_to_with_parents", "init-oci"),
    ],
)
def test_a_name_of_another_set_says_which_set_has_it(name: str, asset: str, site: Path) -> None:
    code = "import supermachine_kernel, sys\ntry: getattr(supermachine_kernel, sys.argv[1])\n"
    done = child.python(code + "except AttributeError as error: print(error)", name, site=site)
    assert done.stdout.splitlines() == [
        f"module 'supermachine_kernel' has no {name!r}: {asset} is in the asset set aarch64, and this is x86_64"
    ]


def test_the_command_line_follows_the_set(site: Path, tmp_path: Path) -> None:
    assert sorted(json_of(site, "info")["assets"]) == sorted(NAMES)
    assert [file["name"] for file in json_of(site, "verify")["files"]] == NAMES
    bundled = json_of(site, "bundle", str(tmp_path / "bundle"))
    assert {file["name"] for file in bundled["files"]} == {*NAMES, "manifest.json"}
    assert json_of(site, "verify", str(tmp_path / "bundle"))["ok"] is True
    assert json_of(site, "doctor")["findings"][0]["status"] in ("ok", "warn", "bad")


def test_a_receipt_of_another_set_is_told_from_damage(site: Path, installed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    assert child.command_line("bundle", folder, site=installed).returncode == 0
    found = json_of(site, "verify", str(folder), good=False)["files"]
    errors = {file["name"]: file["error"] for file in found}
    assert "the set of this installation" in errors["manifest.json"]["expected"]
    assert errors["busybox"]["found"] == "nothing"


def test_the_audit_and_a_rebuild_know_it_by_its_tag(other_wheel: Path) -> None:
    audited = program("audit.py", str(other_wheel))
    assert audited.returncode == 0, audited.stdout
    assert "busybox: a static x86-64 program" in audited.stdout
    rebuilt = program("rebuild.py", str(other_wheel))
    assert rebuilt.returncode == 0, rebuilt.stdout + rebuilt.stderr


def test_pip_refuses_the_wheel_of_another_set_here(custom_wheel: Path, site: Path) -> None:
    python = site.parents[2] / "bin" / "python"
    inside = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    command = [str(python), "-m", "pip", "install", "--no-index", str(custom_wheel)]
    done = subprocess.run(command, env=inside, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "is not a supported wheel on this platform" in done.stderr


@pytest.mark.parametrize("example", ["run_time", "vmm_view", "zipapp", "pyinstaller"])
def test_an_example_runs_with_a_pip_that_is_told_no_platform(
    example: str, other_wheel: Path, x86_64_set: Path, site: Path, tmp_path: Path
) -> None:
    """The freezer's user has what pip took of its own accord; so has the app that is built."""
    named = author(other_wheel, tmp_path)
    environment = {name: value for name, value in named.items() if name not in AS_ON_A_MAC_VARIABLES}
    script = PROJECT / "examples" / example / "run.sh"
    run(["bash", str(script), str(tmp_path / "out")], {**environment, "PYTHONPATH": str(site)}, tmp_path)
    if example == "vmm_view":
        kernel, memory = (x86_64_set / "kernel").read_bytes(), (tmp_path / "out" / "memory").read_bytes()
        assert memory[2 << 20 :].startswith(kernel[(kernel[0x1F1] + 1) * 512 :])
    else:
        found = {path.name: path.read_bytes() for path in (tmp_path / "out" / "guest").iterdir() if path.name in NAMES}
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


def test_a_folder_of_another_set_lacks_what_this_one_has(built_set: Path) -> None:
    found = verified({"SUPERMACHINE_SET": SET, "SUPERMACHINE_ASSETS_DIR": str(built_set)})
    assert "expected kernel, busybox, supermachine-agent, found no busybox" in found


def test_a_set_that_does_not_exist_is_one_line() -> None:
    assert verified({"SUPERMACHINE_SET": "mips"}) == (
        f"SUPERMACHINE_SET: expected one of {', '.join(GUEST_SETS)}, found mips; name one of these, or unset it"
    )


def test_a_lock_with_a_set_that_does_not_exist_is_one_line(copy_of_checkout: Path) -> None:
    lock = copy_of_checkout / LOCK_NAME
    lock.write_text(json.dumps({"format": 1, "version": "1", "sets": {"mips": {}}}))
    with pytest.raises(BuildError) as caught:
        resolve(copy_of_checkout, {"SUPERMACHINE_KERNEL_BUILD": ""})
    assert f"found the set 'mips', and there are {', '.join(GUEST_SETS)}; take the file" in str(caught.value)
