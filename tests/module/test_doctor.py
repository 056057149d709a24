"""Each finding, good and bad, found in a process of its own with what is really so there."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import supermachine_kernel
from supermachine_kernel import MANIFEST
from supermachine_kernel.__main__ import main
from supermachine_kernel._assets import ASSETS, KNOWN_ASSETS
from tests.support import child, disk
from tests.support.quick import sampled

SUBJECTS = [
    *("platform", "python", "installation", "kernel", "init-oci", "supermachine-agent", "smpark.ko"),
    *("kernel release", "library", "ensure_assets"),
]
Finding = dict[str, Any]


def doctor(site: Path | None = None, **environment: str) -> tuple[int, dict[str, Finding]]:
    done = child.command_line("doctor", "--json", site=site, **environment)
    assert done.stderr == ""
    return done.returncode, by_subject(done.stdout)


def by_subject(output: str) -> dict[str, Finding]:
    findings = json.loads(output)["findings"]
    for finding in findings:
        assert finding["status"] in ("ok", "warn", "bad")
        assert (finding["cure"] is None) == (finding["status"] == "ok")
        assert "\n" not in finding["found"]
    return {finding["subject"]: finding for finding in findings}


def test_a_good_installation_is_good(
    tmp_path: Path, installed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    status = main(["doctor", "--json"])
    found = by_subject(capsys.readouterr().out)
    assert list(found) == SUBJECTS
    assert status == 0, found
    assert found["installation"]["found"] == (
        f"{supermachine_kernel.__version__}, an installed wheel, {installed / 'supermachine_kernel'}"
    )
    assert found["kernel release"]["found"].startswith(f"Linux {MANIFEST['kernel_release']}, with")
    place = tmp_path / "supermachine" / f"v{supermachine_kernel.__version__}"
    assert found["ensure_assets"]["found"] == f"{place}: to be made on the first call"
    assert os.listdir(tmp_path) == [], "it looks, and makes nothing"


@pytest.mark.skipif(sys.platform == "darwin", reason="a Mac is where the microVMs run")
def test_another_platform_is_a_warning_for_files_can_be_staged_there() -> None:
    _, found = doctor()
    assert found["platform"]["status"] == "warn"
    assert "run microVMs on macOS 11 or later on Apple Silicon" in found["platform"]["cure"]


@pytest.mark.skipif(sys.platform != "darwin", reason="sysctl.proc_translated is of macOS")
def test_on_a_mac_the_platform_is_what_it_is() -> None:
    import platform

    _, found = doctor()
    expected = "ok" if platform.machine() == "arm64" else "bad"
    assert found["platform"]["status"] == expected


def test_the_table_fits_80_columns_and_shows_cures(module_copy: Path) -> None:
    (module_copy / "supermachine_kernel" / "assets" / "kernel").unlink()
    done = child.command_line("doctor", site=module_copy)
    assert done.returncode == 1
    assert re.search(r"^bad  kernel  .*", done.stdout, re.M)
    assert "-> install the wheel again" in done.stdout
    too_long = [line for line in done.stdout.splitlines() if len(line) > 80 and os.sep not in line]
    assert too_long == []


@pytest.mark.parametrize("asset", sampled(ASSETS), ids=[asset.name for asset in ASSETS])
def test_each_asset_is_looked_at(asset: supermachine_kernel.Asset, module_copy: Path) -> None:
    path = module_copy / "supermachine_kernel" / "assets" / asset.name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    status, found = doctor(module_copy)
    assert status == 1
    assert [subject for subject, finding in found.items() if finding["status"] == "bad"] == [asset.name]
    assert f"{path}: expected SHA-256 {asset.sha256}, found " in found[asset.name]["found"]
    assert found[asset.name]["cure"].startswith("install the wheel again (pip install --force-reinstall")


def test_a_missing_asset_is_one_finding(module_copy: Path) -> None:
    (module_copy / "supermachine_kernel" / "assets" / "smpark.ko").unlink()
    status, found = doctor(module_copy)
    assert status == 1
    assert [subject for subject, finding in found.items() if finding["status"] == "bad"] == ["smpark.ko"]
    assert list(found) == SUBJECTS


def test_without_a_manifest_every_asset_is_bad(module_copy: Path) -> None:
    (module_copy / "supermachine_kernel" / "_manifest.py").unlink()
    status, found = doctor(module_copy)
    assert status == 1
    assert {subject for subject, finding in found.items() if finding["status"] == "bad"} == {
        a.name for a in KNOWN_ASSETS
    }


@pytest.mark.parametrize(("af_tsi", "status", "said"), [(True, "ok", "with AF_TSI"), (False, "warn", "without AF_TSI")])
def test_the_kernel_is_described_from_the_manifest(af_tsi: bool, status: str, said: str, module_copy: Path) -> None:
    manifest = module_copy / "supermachine_kernel" / "_manifest.py"
    manifest.write_text(re.sub(r"'af_tsi': \w+", f"'af_tsi': {af_tsi}", manifest.read_text()))
    _, found = doctor(module_copy)
    assert found["kernel release"]["status"] == status
    assert found["kernel release"]["found"] == f"Linux {MANIFEST['kernel_release']}, {said}"


def test_a_damaged_kernel_is_not_described(module_copy: Path) -> None:
    (module_copy / "supermachine_kernel" / "assets" / "kernel").write_bytes(b"other")
    _, found = doctor(module_copy)
    assert "kernel release" not in found


@pytest.mark.parametrize(
    ("version", "status", "cure"),
    sampled(
        [
            ("{same}", "ok", None),
            ("{same}+local", "ok", None),
            ("{same}.post1", "ok", None),
            ("{same}.post1+local", "ok", None),
            ("0.1.2.post3", "bad", 'pip install "supermachine-kernel==0.1.2"'),
            ("0.1.2", "bad", 'pip install "supermachine-kernel==0.1.2"'),
            ("{same}rc1", "bad", "install a released version of supermachine"),
        ]
    ),
)
def test_an_installed_library_of_another_version(
    version: str, status: str, cure: str | None, module_copy: Path
) -> None:
    version = version.format(same=supermachine_kernel.__version__.partition("+")[0])
    folder = module_copy / f"supermachine-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: supermachine\nVersion: {version}\n")
    exit_status, found = doctor(module_copy)
    assert (found["library"]["status"], found["library"]["cure"]) == (status, cure)
    assert f"supermachine {version}, supermachine-kernel {supermachine_kernel.__version__}" in found["library"]["found"]
    assert exit_status == (status == "bad")


def test_metadata_that_is_no_text_is_a_finding_and_no_traceback(module_copy: Path) -> None:
    """The library's, and this package's own, whose kind of installation every cure depends on."""
    folder = module_copy / "supermachine-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_bytes(b"Name: supermachine\nVersion: \xff\n")
    next(module_copy.glob("supermachine_kernel-*.dist-info/WHEEL")).write_bytes(b"\xff")
    status, found = doctor(module_copy)
    assert (status, found["library"]["status"]) == (1, "bad")
    assert "a distribution supermachine whose metadata is damaged" in found["library"]["found"]
    assert "an installed wheel" in found["installation"]["found"]


def test_another_distribution_s_version_does_not_speak_to_the_terminal(module_copy: Path) -> None:
    folder = module_copy / "supermachine-1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: supermachine\nVersion: 1\x1b[2J9\n")
    done = child.command_line("doctor", site=module_copy)
    assert r"supermachine 1\x1b[2J9" in done.stdout
    assert "\x1b" not in done.stdout


class TestPlace:
    def test_a_complete_set_is_said_and_a_missing_file_too(self, tmp_path: Path) -> None:
        place = tmp_path / "supermachine" / f"v{supermachine_kernel.__version__}"
        supermachine_kernel.ensure_assets(place)
        assert doctor(XDG_DATA_HOME=str(tmp_path))[1]["ensure_assets"]["found"] == f"{place}: complete"
        (place / "init-oci").unlink()
        found = doctor(XDG_DATA_HOME=str(tmp_path))[1]["ensure_assets"]
        assert found["found"] == f"{place}: to be completed on the first call"

    def test_a_file_in_the_way(self, tmp_path: Path) -> None:
        (tmp_path / "supermachine").write_text("")
        status, found = doctor(XDG_DATA_HOME=str(tmp_path))
        assert status == 1
        assert f"{tmp_path / 'supermachine'} is not a folder that may be written to" in found["ensure_assets"]["found"]
        assert found["ensure_assets"]["cure"] == (
            "set HOME or XDG_DATA_HOME to a place you may write to, or pass a directory"
        )

    @pytest.mark.parametrize("make", [os.mkdir, os.mkfifo], ids=["folder", "pipe"])
    def test_what_ensure_assets_would_not_replace(self, make: Callable[[Path], None], tmp_path: Path) -> None:
        place = tmp_path / "supermachine" / f"v{supermachine_kernel.__version__}"
        place.mkdir(parents=True)
        make(place / "init-oci")
        status, found = doctor(XDG_DATA_HOME=str(tmp_path))
        assert status == 1
        assert found["ensure_assets"]["found"] == f"{place / 'init-oci'}: not a file, and so not replaced"
        assert found["ensure_assets"]["cure"] == "move it away"
        (place / "init-oci").rename(tmp_path / "away")
        assert doctor(XDG_DATA_HOME=str(tmp_path))[0] == 0
        supermachine_kernel.ensure_assets(place)

    @pytest.mark.skipif(sys.platform != "linux", reason="a small tmpfs in a mount namespace is of Linux")
    @pytest.mark.parametrize(("size", "status"), [("2m", 1), ("40m", 0)])
    def test_too_little_room_for_the_set_is_bad(self, size: str, status: int, tmp_path: Path) -> None:
        program = """\
import os, sys
from supermachine_kernel.__main__ import main
os.environ["XDG_DATA_HOME"] = sys.argv[1]
sys.exit(main(["doctor"]))
"""
        done = disk.python_on_tmpfs(tmp_path, program, tmp_path, size=size)
        assert done.returncode == status, done.stdout + done.stderr
        needed = sum(asset.size for asset in ASSETS)
        assert (f" needs {needed} bytes, and {2 << 20} are free" in done.stdout) == bool(status)
        assert ("-> make room on that disk" in done.stdout) == bool(status)

    def test_a_home_that_is_no_absolute_path_is_bad(self) -> None:
        status, found = doctor(XDG_DATA_HOME="", HOME="relative")
        assert status == 1
        assert "found 'relative'" in found["ensure_assets"]["found"]

    def as_nobody(self, folder: Path, place: str) -> tuple[str, str]:
        """Root may look and write everywhere, so the question is asked as nobody, with all that it needs imported.

        The way there may be closed to him too, so he is already in `folder`.
        """
        program = """\
import json, os, pathlib, sys
from supermachine_kernel import _doctor, _ensure
list(_doctor.examine())
os.chdir(sys.argv[1])
os.geteuid() or os.setuid(65534)
_doctor.default_directory = lambda: pathlib.Path(sys.argv[2])
print(json.dumps(_doctor._data_folder()))
"""
        folder.chmod(0o755)
        done = child.python(program, folder, place)
        assert done.stderr == ""
        _, status, found, _ = json.loads(done.stdout)
        return status, found

    @pytest.mark.parametrize(("mode", "status"), [(0o777, "ok"), (0o555, "bad"), (0o666, "bad")])
    def test_a_folder_that_may_not_be_written_to(self, mode: int, status: str, tmp_path: Path) -> None:
        (tmp_path / "some").mkdir()
        (tmp_path / "some").chmod(mode)
        found = self.as_nobody(tmp_path, "some/place")
        (tmp_path / "some").chmod(0o755)
        said = {"ok": "to be made on the first call", "bad": "some is not a folder that may be written to"}
        assert found == (status, f"some/place: {said[status]}")

    def test_a_link_to_what_may_not_be_looked_at(self, tmp_path: Path) -> None:
        (tmp_path / "closed" / "folder").mkdir(parents=True)
        (tmp_path / "link").symlink_to(Path("closed", "folder"))
        (tmp_path / "closed").chmod(0)
        found = self.as_nobody(tmp_path, "link/place")
        (tmp_path / "closed").chmod(0o755)
        assert found == ("bad", "link/place: link is not a folder that may be written to")
