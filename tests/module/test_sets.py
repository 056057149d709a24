"""The module follows the set that its manifest names: here one of x86_64, and one that nobody knows a host for."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from supermachine_kernel._host import look_at_host
from tests.support import child

SETS = {
    "aarch64": ("kernel", "init-oci", "supermachine-agent", "smpark.ko"),
    "x86_64": ("kernel", "busybox", "supermachine-agent"),
    "mips": ("kernel",),
}
NAMES = SETS["x86_64"]
on_linux_x86_64 = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="KVM is looked at where it runs this set"
)


@pytest.fixture
def site(module_copy: Path) -> Path:
    return with_set(module_copy, "x86_64")


def with_set(site: Path, name: str) -> Path:
    """Give the copied module small files for the assets of that set, and the manifest of them."""
    package = site / "supermachine_kernel"
    shutil.rmtree(package / "assets")
    (package / "assets").mkdir()
    assets = {}
    for asset in SETS[name]:
        content = asset.encode() * 100
        (package / "assets" / asset).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        assets[asset] = {"size": len(content), "sha256": digest, "mode": 0o644 if asset == "kernel" else 0o755}
    facts = {"set": name, "set_digest": hashlib.sha256(name.encode()).hexdigest(), "origin": "custom"}
    kernel = {"kernel_release": "6.12.1", "af_tsi": True}
    manifest = {"format": 1, "version": "0.7.62+custom.00000000", **facts, **kernel, "assets": assets}
    (package / "_manifest.py").write_text(f"SETS = {SETS!r}\nMANIFEST = {manifest!r}\n")
    return site


def json_of(site: Path, *arguments: object) -> dict[str, Any]:
    done = child.command_line(*arguments, "--json", site=site)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_module_has_the_names_of_the_assets_that_are_there(site: Path, tmp_path: Path) -> None:
    code = f"""\
import supermachine_kernel as module, sys
assert [asset.name for asset in module.ASSETS] == {list(NAMES)}
assert module.BUSYBOX_BYTES == b"busybox" * 100 and module.BUSYBOX_LEN == 700
module.extract_busybox_to(sys.argv[1])
module.extract_busybox_to_with_parents(sys.argv[2])
assert sorted(path.name for path in module.extract_all_to(sys.argv[3]).iterdir()) == sorted({list(NAMES)})
assert {set(NAMES)} <= {{path.name for path in module.ensure_assets(sys.argv[4]).iterdir()}}
assert module.verify() is None and module.assets_dir().name == "assets"
others = {{"INIT_OCI", "INIT_OCI_LEN", "SMPARK_KO_BYTES", "extract_smpark_ko_to", "extract_to"}}
assert not others & {{*dir(module), *module.__all__}} and not any(hasattr(module, name) for name in others)
"""
    done = child.python(code, *(tmp_path / name for name in ("one", "a/two", "all", "kept")), site=site)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "one").stat().st_mode & 0o777 == (tmp_path / "a" / "two").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize(
    ("name", "asset"),
    [
        ("INIT_OCI", "init-oci"),
        ("SMPARK_KO_LEN", "smpark.ko"),
        ("extract_init_oci_to", "init-oci"),
        ("extract_to", "init-oci"),
        ("extract_to_with_parents", "init-oci"),
    ],
)
def test_a_name_of_another_set_says_which_set_has_it(name: str, asset: str, site: Path) -> None:
    assert why_there_is_no(name, site) == f"{asset} is in the asset set aarch64, and this is x86_64"


def test_an_asset_that_no_wheel_has_says_so(module_copy: Path) -> None:
    """It is built, and its set has no wheel yet: the table of the manifest does not have it."""
    manifest = with_set(module_copy, "aarch64") / "supermachine_kernel" / "_manifest.py"
    manifest.write_text(manifest.read_text().replace("'busybox', ", ""))
    said = why_there_is_no("BUSYBOX", module_copy)
    assert said == "busybox is in no asset set that has a wheel, and this is aarch64"


def why_there_is_no(name: str, site: Path) -> str:
    """What the error says of a name that the module there has not."""
    code = "import supermachine_kernel, sys\ntry: getattr(supermachine_kernel, sys.argv[1])\n"
    done = child.python(code + "except AttributeError as error: print(error)", name, site=site)
    start, why = done.stdout.rstrip("\n").split(": ", 1)
    assert start == f"module 'supermachine_kernel' has no {name!r}"
    return why


def test_the_command_line_follows_the_set(site: Path, tmp_path: Path) -> None:
    assert sorted(json_of(site, "info")["assets"]) == sorted(NAMES)
    assert [file["name"] for file in json_of(site, "verify")["files"]] == list(NAMES)
    bundled = json_of(site, "bundle", tmp_path / "bundle")
    assert {file["name"] for file in bundled["files"]} == {*NAMES, "manifest.json"}
    assert json_of(site, "verify", tmp_path / "bundle")["ok"] is True
    assert child.command_line("path", "init-oci", site=site).returncode == 2


def test_a_receipt_of_another_set_is_told_from_damage(site: Path, installed: Path, tmp_path: Path) -> None:
    """The folder has all of another set: the files of this one are missing there, and the receipt is not its own."""
    other = with_set(child.copy_of(installed, tmp_path / "other"), "aarch64")
    assert json_of(other, "bundle", tmp_path / "bundle")
    done = child.command_line("verify", tmp_path / "bundle", "--json", site=site)
    errors = {file["name"]: file["error"] for file in json.loads(done.stdout)["files"]}
    assert done.returncode == 1
    assert "the set of this installation" in errors["manifest.json"]["expected"]
    assert errors["busybox"]["found"] == "nothing"


def test_a_set_without_a_known_host_has_none(module_copy: Path) -> None:
    found = platform_of(with_set(module_copy, "mips"))
    assert found["status"] == "warn"
    assert found["found"] == f"{platform.system()} on {platform.machine()}: no host for the microVMs of mips"


@pytest.mark.parametrize(("system", "machine"), [("darwin", "arm64"), ("darwin", "x86_64"), ("linux", "aarch64")])
def test_elsewhere_the_host_of_the_set_is_named(system: str, machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", system)
    monkeypatch.setattr("platform.machine", lambda: machine)
    found = look_at_host("x86_64")
    assert found.status == "warn"
    assert str(found.cure).startswith("run microVMs on Linux on x86_64 with KVM")


def platform_of(site: Path) -> dict[str, Any]:
    done = child.command_line("doctor", "--json", site=site)
    found: dict[str, Any] = json.loads(done.stdout)["findings"][0]
    return found


LOOK = """\
import fcntl, grp, os, platform, sys
from supermachine_kernel import _host
_host.KVM = "kvm"
os.chdir(sys.argv[1])
{before}
print(*_host.look_at_host({guest_set!r}), sep="|")
"""


def look(folder: Path, before: str = "", guest_set: str = "x86_64") -> list[str]:
    """What is found of the machine, whose device of KVM is called kvm and in `folder`: status, finding and cure."""
    done = child.python(LOOK.format(before=before, guest_set=guest_set), folder)
    assert done.returncode == 0, done.stderr
    return done.stdout.rstrip("\n").split("|")


@on_linux_x86_64
def test_without_kvm_it_is_a_warning_for_files_can_be_staged(tmp_path: Path) -> None:
    status, found, cure = look(tmp_path)
    assert (status, found) == ("warn", "Linux on x86_64, without kvm")
    assert "load the module kvm_intel or kvm_amd" in cure


@on_linux_x86_64
def test_a_device_that_is_not_for_this_user_names_its_group(tmp_path: Path) -> None:
    (tmp_path / "kvm").touch(0o000)
    tmp_path.chmod(0o755)
    status, found, cure = look(tmp_path, "if not os.geteuid(): os.seteuid(65534)")
    assert (status, found) == ("bad", "Linux on x86_64, with a kvm that this user may not read and write")
    assert cure.startswith("join the group of the device: sudo usermod -aG ")


@on_linux_x86_64
def test_another_file_in_the_place_of_the_device_is_bad(tmp_path: Path) -> None:
    (tmp_path / "kvm").touch()
    assert look(tmp_path)[:2] == ["bad", "Linux on x86_64, with a kvm that is not KVM's"]
    (tmp_path / "kvm").unlink()
    (tmp_path / "kvm").mkdir()
    assert look(tmp_path)[1] == "Linux on x86_64, with a kvm that cannot be opened (Is a directory)"


@on_linux_x86_64
def test_a_device_that_answers_as_kvm_does_is_good(tmp_path: Path) -> None:
    """No test uses the machine's own; the answer of one is 12 (Documentation/virt/kvm/api.rst, 4.1)."""
    (tmp_path / "kvm").touch()
    answer = "asked = []; fcntl.ioctl = lambda descriptor, number: asked.append(number) or 12"
    assert look(tmp_path, answer) == ["ok", "Linux on x86_64, with KVM", "None"]


@pytest.mark.parametrize(
    ("version", "machine", "translated", "expected"),
    [
        ("11.0", "arm64", False, ["ok", "macOS 11.0 on arm64", "None"]),
        ("10.15.7", "arm64", False, ["bad", "macOS 10.15.7 on arm64", "update to macOS 11 or later"]),
        ("14.5", "x86_64", False, ["bad", "macOS 14.5 on x86_64", "use a Mac with Apple Silicon"]),
        (
            "14.5",
            "x86_64",
            True,
            [
                "bad",
                "macOS 14.5, this Python translated by Rosetta",
                "use an arm64 (or universal2) Python, and not a terminal that runs under Rosetta",
            ],
        ),
    ],
)
def test_a_mac_is_judged_by_its_version_and_processor(
    version: str, machine: str, translated: bool, expected: list[str], tmp_path: Path
) -> None:
    """No Mac of each kind is at hand: what it would say of itself is put in its place."""
    says = f"sys.platform, platform.machine = 'darwin', lambda: {machine!r}; "
    says += f"platform.mac_ver = lambda: ({version!r}, ('', '', ''), ''); _host._is_translated = lambda: {translated}"
    assert look(tmp_path, says, "aarch64") == expected
