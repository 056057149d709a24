"""The corresponding source: one archive, the same every time, that builds to the very assets it is the source of."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scripts.asset_build.errors import BuildError
from scripts.asset_build.guest_sets import GUEST_SETS
from scripts.asset_build.release import source_archive
from scripts.asset_build.wheel.sources import Source
from scripts.asset_build.wheel.verify import verify_set
from tests.support.sets import GUEST_SET, SET

pytestmark = pytest.mark.slow

NO_OVERRIDE: dict[str, str] = {}


@pytest.fixture(scope="module")
def archive(built_set: Path, project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return source_archive.write(tmp_path_factory.mktemp("source"), GUEST_SET, project, NO_OVERRIDE)


@pytest.fixture(scope="module")
def unpacked(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    subprocess.run(["tar", "-C", folder, "-xf", archive], check=True)
    (root,) = folder.iterdir()
    return root


@pytest.fixture
def build(built_set: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((built_set / "build-info.json").read_text())
    return record


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_it_builds_to_the_same_bytes(unpacked: Path, build: dict[str, Any], tmp_path: Path) -> None:
    """Without the checkout; what the build takes from its cache is under the digest of these very inputs."""
    (tarball,) = (unpacked / "kernel").iterdir()
    script = unpacked / "kernel-build" / "scripts" / "build.sh"
    command = ["bash", str(script), "--source", str(tarball), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=unpacked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name, asset in build["assets"].items():
        assert sha256(tmp_path / "out" / name) == asset["sha256"], name
    rebuilt = json.loads((tmp_path / "out" / "build-info.json").read_text())
    assert rebuilt["source"]["sha256"] == build["source"]["sha256"]
    assert (rebuilt["config_sha256"], rebuilt["patches"]) == (build["config_sha256"], build["patches"])


@pytest.mark.ondemand
def test_that_of_x86_64_has_the_source_of_busybox_and_builds_to_the_same_bytes(
    x86_64_set: Path, project: Path, tmp_path: Path
) -> None:
    archive = source_archive.write(tmp_path, GUEST_SETS["x86_64"], project, NO_OVERRIDE)
    subprocess.run(["tar", "-C", tmp_path, "-xf", archive], check=True)
    (script,) = tmp_path.glob("*/kernel-build/scripts/build.sh")
    command = next(line for line in (script.parents[2] / "README.md").read_text().splitlines() if "--busybox" in line)
    done = subprocess.run(command.split(), cwd=script.parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for asset in GUEST_SETS["x86_64"].assets:
        assert sha256(script.parents[2] / "out" / asset.name) == sha256(x86_64_set / asset.name), asset.name


def test_the_archive_has_what_git_tracks_the_tarball_and_the_record(archive: Path, project: Path, wheel: Path) -> None:
    version = wheel.name.split("-")[1]
    assert archive.name == f"supermachine-kernel-{version}-{SET}-source.tar"
    listed = ["git", "-C", str(project), "ls-files", "--cached", "--others", "--exclude-standard"]
    tracked = subprocess.run(
        [*listed, "kernel-build", "LICENSES", "NOTICE"], capture_output=True, text=True, check=True
    )
    expected = {name for name in tracked.stdout.split() if not name.endswith(".gitignore")}
    with tarfile.open(archive) as members:
        names = {member.name.partition("/")[2] for member in members if member.isfile()}
        assert all(member.isfile() for member in members)
    (tarball,) = (name for name in names if name.startswith("kernel/"))
    assert names == expected | {"README.md", "build-info.json", tarball}


def test_the_tarball_and_the_record_are_those_of_the_set(unpacked: Path, build: dict[str, Any]) -> None:
    (tarball,) = (unpacked / "kernel").iterdir()
    assert sha256(tarball) == build["source"]["sha256"]
    assert json.loads((unpacked / "build-info.json").read_text()) == build


def test_the_readme_says_how_and_with_what(unpacked: Path, build: dict[str, Any]) -> None:
    text = (unpacked / "README.md").read_text()
    (tarball,) = (unpacked / "kernel").iterdir()
    assert f"bash kernel-build/scripts/build.sh --set {SET} --source kernel/{tarball.name} --out out" in text
    for value in (*build["toolchain"].values(), *(asset["sha256"] for asset in build["assets"].values())):
        assert value in text or value == build["toolchain"].get("musl_sha256")


def test_the_command_makes_the_same_archive_again(archive: Path, project: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(project / "scripts" / "release.py"), "source", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert archive.name in done.stdout
    (again,) = tmp_path.iterdir()
    with archive.open("rb") as one, again.open("rb") as other:
        while (block := one.read(1 << 20)) == other.read(1 << 20) and block:
            pass
        assert block == b"", "the two archives differ"


def test_a_set_without_a_record_has_no_source(built_set: Path, unlocked_checkout: Path, tmp_path: Path) -> None:
    shutil.copytree(built_set, tmp_path / "set", ignore=shutil.ignore_patterns("build-info.json"))
    with pytest.raises(BuildError, match=r"the set: expected the record of its build"):
        source_archive.write(
            tmp_path / "out", GUEST_SET, unlocked_checkout, {"SUPERMACHINE_ASSETS_DIR": str(tmp_path / "set")}
        )
    assert not (tmp_path / "out").exists()


def test_files_of_editors_and_systems_do_not_go_along(
    build: dict[str, Any], built_set: Path, copy_of_checkout: Path
) -> None:
    for name in ("LICENSES/.DS_Store", "LICENSES/MIT.txt~", "LICENSES/._MIT.txt", "kernel-build/agent/._agent.c"):
        (copy_of_checkout / name).write_text("litter")
    verified = verify_set(Source(GUEST_SET, "tree", {asset.name: built_set / asset.name for asset in GUEST_SET.assets}))
    members = source_archive._members(replace(verified, build=build), copy_of_checkout, Path("linux.tar.xz"), [])
    named = {name for name, _ in members}
    assert {name for name in named if "._" in name or name.endswith((".DS_Store", "~"))} == set()
    assert {"LICENSES/MIT.txt", "kernel-build/agent/agent.h"} < named


def test_a_tarball_is_found_by_its_digest_alone(
    build: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = copy.deepcopy(build)
    wanted["source"]["sha256"] = hashlib.sha256(b"the tarball").hexdigest()
    monkeypatch.setattr(source_archive, "SYSTEM_SOURCES", tmp_path)
    (tmp_path / "linux-6.12.tar.xz").write_bytes(b"another tarball")
    with pytest.raises(BuildError, match=r"expected a tarball with SHA-256 [0-9a-f]{64}, found none .* into "):
        source_archive._find_tarball(wanted, tmp_path)
    (tmp_path / "linux-6.12.1.tar.gz").write_bytes(b"the tarball")
    assert source_archive._find_tarball(wanted, tmp_path) == tmp_path / "linux-6.12.1.tar.gz"


def test_a_set_built_from_a_folder_has_no_source_archive(build: dict[str, Any], tmp_path: Path) -> None:
    build["source"] = {"package": None, "version": "6.12.1", "sha256": None}
    with pytest.raises(BuildError, match=r"built from a folder, .*; build it from a tarball"):
        source_archive._find_tarball(build, tmp_path)


def test_a_checkout_that_has_changed_since_is_refused(build: dict[str, Any], copy_of_checkout: Path) -> None:
    tarball = source_archive._find_tarball(build, copy_of_checkout)
    source_archive._verify_inputs(GUEST_SET, build, copy_of_checkout, tarball)
    with (copy_of_checkout / "kernel-build" / "init-oci" / "init-oci.c").open("a") as file:
        file.write("/* later */\n")
    with pytest.raises(BuildError, match=f"expected the inputs {build['inputs_sha256']} .* build the set again"):
        source_archive._verify_inputs(GUEST_SET, build, copy_of_checkout, tarball)


def test_nothing_is_left_of_an_archive_that_failed(
    built_set: Path, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(source_archive, "write_tar", broken)
    with pytest.raises(OSError, match="No space left"):
        source_archive.write(tmp_path, GUEST_SET, project, NO_OVERRIDE)
    assert list(tmp_path.iterdir()) == []


def test_the_readme_of_a_set_from_another_tarball(build: dict[str, Any]) -> None:
    build["source"] = {"package": None, "version": "6.12.91", "sha256": "1" * 64}
    build["patches"] = [{"name": "0001-a.patch", "sha256": "2" * 64}, {"name": "0002-b.patch", "sha256": "3" * 64}]
    text = source_archive._readme(GUEST_SET, build, "0.7.62", "linux-6.12.91.tar.xz")
    assert "Linux 6.12.91, SHA-256 1111" in text and "0001-a.patch, 0002-b.patch" in text


def test_the_source_of_busybox_is_found_by_its_digests(tmp_path: Path) -> None:
    """In the cache of the build, or beside the archive that is to be; any other file of that name is passed over."""
    cache, out, name = tmp_path / "cache", tmp_path / "out", "busybox_1.dsc"
    for folder, content in ((cache / "busybox", b"another"), (out, b"right")):
        folder.mkdir(parents=True)
        (folder / name).write_bytes(content)
    build = {"busybox": {"files": {name: hashlib.sha256(b"right").hexdigest()}}}
    environ = {"SUPERMACHINE_BUILD_CACHE": str(cache)}
    assert source_archive._find_busybox(build, out, environ) == [out / name]
    assert source_archive._find_busybox({}, out, environ) == []
    (out / name).write_bytes(b"changed")
    with pytest.raises(BuildError, match=f"busybox's source {name}: expected a file with SHA-256 "):
        source_archive._find_busybox(build, out, environ)


@pytest.mark.parametrize("name", ["kernel-build/agent/notes.txt", "kernel-build/agent/Makefile", "LICENSES/MIT"])
def test_a_file_of_an_unknown_kind_is_not_left_out(name: str, copy_of_checkout: Path) -> None:
    (copy_of_checkout / name).write_text("needed, or not")
    with pytest.raises(
        BuildError, match=f"^{name}: expected a file of the kinds .*, found another kind; .* add its kind"
    ):
        list(source_archive._sources(copy_of_checkout))


def test_a_link_out_of_the_checkout_is_not_given_away(copy_of_checkout: Path, tmp_path: Path) -> None:
    """Its members alone: no set need be built for it."""
    (tmp_path / "secret").write_text("secret")
    (copy_of_checkout / "LICENSES" / "Other.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(
        BuildError, match=r"LICENSES/Other.txt: expected a file of this checkout, found a link to .*/secret"
    ):
        list(source_archive._sources(copy_of_checkout))
