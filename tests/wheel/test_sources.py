"""Where a set comes from: the order, and that it is whole from one source."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.asset_build.errors import BuildError
from scripts.asset_build.guest_sets import GUEST_SETS
from scripts.asset_build.wheel import sources
from scripts.asset_build.wheel.sources import Source, resolve
from supermachine_kernel._assets import ASSETS
from tests.support.sets import SET

NAMES = [asset.name for asset in ASSETS]


@pytest.fixture
def empty_project(tmp_path: Path) -> Path:
    """A checkout without a built tree, and without a locked release."""
    project = tmp_path / "parent" / "project"
    (project / "kernel-build" / "scripts").mkdir(parents=True)
    (project / "assets.lock.json").write_text('{"format": 1, "version": "0.7.62", "sets": {}}')
    return project


def find(project: Path, environ: dict[str, str], *, local_only: bool = False) -> Source:
    """Resolve as for a user who names the set of these tests, whichever is this machine's."""
    return resolve(project, {"SUPERMACHINE_SET": SET, **environ}, local_only=local_only)


def put_set(built_set: Path, folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in [*NAMES, "build-info.json"]:
        os.link(built_set / name, folder / name)
    return folder


def expect(project: Path, environ: dict[str, str], *parts: str) -> str:
    with pytest.raises(BuildError) as refused:
        find(project, environ)
    message = str(refused.value)
    for part in parts:
        assert part in message
    return message


def folders(source: Source) -> set[Path]:
    return {path.parent for path in source.files.values()}


def test_the_override_comes_before_the_tree(built_set: Path, empty_project: Path, tmp_path: Path) -> None:
    flat = put_set(built_set, tmp_path / "flat")
    put_set(built_set, empty_project / "kernel-build/out/aarch64")
    source = find(empty_project, {"SUPERMACHINE_ASSETS_DIR": str(flat)})
    assert (source.kind, folders(source)) == ("override", {flat})
    assert source.build_info == flat / "build-info.json"


def test_the_tree_named_comes_before_the_tree_here(built_set: Path, empty_project: Path, tmp_path: Path) -> None:
    put_set(built_set, empty_project / "kernel-build/out/aarch64")
    elsewhere = put_set(built_set, tmp_path / "elsewhere/out/aarch64")
    source = find(empty_project, {"SUPERMACHINE_KERNEL_BUILD": str(tmp_path / "elsewhere")})
    assert (source.kind, folders(source)) == ("tree", {elsewhere})


def test_the_tree_here_comes_before_the_one_beside(
    built_set: Path, empty_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "TEMPORARY_FOLDERS", set())  # in which the tests are
    beside = put_set(built_set, empty_project.parent / "kernel-build/out/aarch64")
    assert folders(find(empty_project, {})) == {beside}
    here = put_set(built_set, empty_project / "kernel-build/out/aarch64")
    assert folders(find(empty_project, {})) == {here}


def test_a_tree_beside_in_a_temporary_folder_is_passed_over(
    built_set: Path, empty_project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    beside = put_set(built_set, empty_project.parent / "kernel-build/out/aarch64").parents[1]
    message = expect(empty_project, {}, "no asset set for aarch64 found")
    assert f"no out/aarch64/ in {empty_project / 'kernel-build'};" in message
    warning = capsys.readouterr().err
    assert f"warning: {beside} is passed over, because /tmp is a folder for temporary files; set SUPER" in warning
    named = find(empty_project, {"SUPERMACHINE_KERNEL_BUILD": str(beside)})
    assert folders(named) == {beside / "out/aarch64"}, "who names it means it"


@pytest.mark.parametrize("who", ["others write", "group writes", "the tree", "the checkout", "the folder around"])
def test_a_tree_beside_that_somebody_else_may_have_put_there_is_passed_over(
    who: str, built_set: Path, empty_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "TEMPORARY_FOLDERS", set())
    beside = put_set(built_set, empty_project.parent / "kernel-build/out/aarch64").parents[1]
    assert folders(find(empty_project, {})) == {beside / "out/aarch64"}
    if who in ("others write", "group writes"):
        empty_project.parent.chmod(0o757 if who == "others write" else 0o775)
        reason = f"others can write to {empty_project.parent}"
    else:
        other = {"the tree": beside, "the checkout": empty_project, "the folder around": empty_project.parent}[who]
        if os.geteuid() == 0:
            os.chown(other, 65534, -1)
        else:  # a user gives nothing away, but may be taken for another
            monkeypatch.setattr(os, "geteuid", lambda: 65534)
        reason = "belongs to another user"
    assert reason in sources.why_a_strangers(beside, empty_project)
    expect(empty_project, {}, "no asset set for aarch64 found")


def test_an_sdist_takes_no_tree_from_beside_it(
    built_set: Path, empty_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip unpacks it in a folder that everybody may write to."""
    monkeypatch.setattr(sources, "TEMPORARY_FOLDERS", set())
    (empty_project / "PKG-INFO").touch()
    put_set(built_set, empty_project.parent / "kernel-build/out/aarch64")
    message = expect(empty_project, {}, "no asset set for aarch64 found")
    assert str(empty_project.parent / "kernel-build") not in message
    put_set(built_set, empty_project / "kernel-build/out/aarch64")
    assert folders(find(empty_project, {})) == {empty_project / "kernel-build/out/aarch64"}


def test_an_empty_variable_means_no_tree(built_set: Path, empty_project: Path) -> None:
    put_set(built_set, empty_project / "kernel-build/out/aarch64")
    message = expect(empty_project, {"SUPERMACHINE_KERNEL_BUILD": ""}, "1. override", "2. tree", "3. release")
    assert "no locked release for this version" in message


def test_nothing_found_lists_the_sources_in_order(empty_project: Path) -> None:
    message = expect(empty_project, {"SUPERMACHINE_OFFLINE": "1"})
    order = [message.index(step) for step in ("1. override", "2. tree", "3. release")]
    assert order == sorted(order)
    for cure in ("SUPERMACHINE_ASSETS_DIR", "bash kernel-build/scripts/build.sh", "SUPERMACHINE_KERNEL_BUILD"):
        assert cure in message


@pytest.mark.parametrize("name", GUEST_SETS)
def test_the_cure_builds_the_set_that_was_not_found(name: str, empty_project: Path) -> None:
    """The build script would build its first set without being told."""
    message = expect(empty_project, {"SUPERMACHINE_SET": name}, f"no asset set for {name} found")
    assert f"run bash kernel-build/scripts/build.sh --set {name} (" in message
    (empty_project / "kernel-build/out" / name).mkdir(parents=True)
    expect(empty_project, {"SUPERMACHINE_SET": name}, f"{empty_project}/kernel-build/scripts/build.sh --set {name}, or")


def test_an_editable_install_never_asks_for_the_release(empty_project: Path) -> None:
    with pytest.raises(BuildError, match="3\\. release: not considered"):
        find(empty_project, {}, local_only=True)


@pytest.mark.parametrize("missing", NAMES)
def test_a_tree_without_one_of_the_files(built_set: Path, empty_project: Path, missing: str) -> None:
    tree = put_set(built_set, empty_project / "kernel-build/out/aarch64")
    (tree / missing).unlink()
    expect(empty_project, {}, str(tree), f"found no {missing}", "build.sh", "a set comes whole from one source")


def test_an_incomplete_folder_is_not_filled_from_the_tree(built_set: Path, empty_project: Path, tmp_path: Path) -> None:
    """Two sources that would mix: the folder has three files, the tree has the fourth."""
    put_set(built_set, empty_project / "kernel-build/out/aarch64")
    flat = put_set(built_set, tmp_path / "flat")
    (flat / "smpark.ko").unlink()
    expect(empty_project, {"SUPERMACHINE_ASSETS_DIR": str(flat)}, "found no smpark.ko", "unset SUPERMACHINE_ASSETS_DIR")


def test_a_single_file_wins_over_any_source(built_set: Path, empty_project: Path, tmp_path: Path) -> None:
    tree = put_set(built_set, empty_project / "kernel-build/out/aarch64")
    (tree / "init-oci").unlink()
    own = Path(shutil.copy(built_set / "init-oci", tmp_path / "own"))
    source = find(empty_project, {"SUPERMACHINE_INIT_OCI_PATH": str(own)})
    assert source.kind == "override"
    assert source.files["init-oci"] == own
    assert {source.files[name].parent for name in NAMES if name != "init-oci"} == {tree}


def test_four_single_files_need_no_source(built_set: Path, empty_project: Path) -> None:
    environ = {asset.variable: str(built_set / asset.name) for asset in ASSETS}
    assert folders(find(empty_project, environ)) == {built_set}


@pytest.mark.parametrize("asset", ASSETS, ids=str)
def test_a_single_file_that_is_none(empty_project: Path, tmp_path: Path, asset: object) -> None:
    (variable,) = (one.variable for one in ASSETS if one is asset)
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    for name, found in (
        ("folder", "found a folder"),
        ("missing", "found nothing"),
        ("link", "found a dangling link to nowhere"),
        ("pipe", "found a device, socket or pipe"),
    ):
        path = tmp_path / name
        message = expect(empty_project, {variable: str(path)}, str(path), variable, found)
        assert "\n" not in message


@contextlib.contextmanager
def as_nobody(folder: str) -> Iterator[None]:
    """The superuser may read anything; what nobody asks about is in a folder that all may enter."""
    Path(folder).chmod(0o755)
    superuser = os.geteuid() == 0
    if superuser:
        os.seteuid(65534)
    try:
        yield
    finally:
        if superuser:
            os.seteuid(0)


def test_a_file_that_may_not_be_read() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel"
        path.write_bytes(b"x")
        path.chmod(0)
        with as_nobody(folder):
            environ = {"SUPERMACHINE_KERNEL_PATH": str(path)}
            expect(Path(folder), environ, str(path), "found a file that may not be read")


def test_a_folder_that_may_not_be_looked_into() -> None:
    with tempfile.TemporaryDirectory() as folder:
        closed = Path(folder) / "kernel-build"
        (closed / "out/aarch64").mkdir(parents=True)
        closed.chmod(0)
        with as_nobody(folder):
            found = "found Permission denied for a folder on the way; give the right to it"
            expect(Path(folder), {}, str(closed / "out/aarch64"), found)  # and not on to the release
            expect(Path(folder), {"SUPERMACHINE_ASSETS_DIR": str(closed)}, str(closed / "kernel"), found)
            expect(Path(folder), {"SUPERMACHINE_ASSETS_DIR": str(closed / "out")}, str(closed / "out"), found)
            kernel = str(closed / "kernel")
            expect(Path(folder), {"SUPERMACHINE_KERNEL_PATH": kernel}, kernel, found)
        closed.chmod(0o755)


@pytest.mark.parametrize(("make", "found"), [("file", "found a file"), ("link", "found a dangling link to /nowhere")])
def test_a_tree_whose_set_is_no_folder(empty_project: Path, make: str, found: str) -> None:
    """It is there, and so the release is not what was meant."""
    place = empty_project / "kernel-build/out/aarch64"
    place.parent.mkdir()
    if make == "file":
        place.touch()
    else:
        place.symlink_to("/nowhere")
    expect(empty_project, {}, f"{place}: expected the folder of a tree's set, {found}; remove it, then run bash ")


@pytest.mark.parametrize(("make", "found"), [("file", "found a file"), ("missing", "found nothing")])
def test_an_override_folder_that_is_none(empty_project: Path, tmp_path: Path, make: str, found: str) -> None:
    (tmp_path / "file").touch()
    expect(empty_project, {"SUPERMACHINE_ASSETS_DIR": str(tmp_path / make)}, str(tmp_path / make), found)


@pytest.mark.parametrize(
    "variable", ["SUPERMACHINE_ASSETS_DIR", "SUPERMACHINE_KERNEL_PATH", "SUPERMACHINE_KERNEL_BUILD"]
)
def test_a_name_that_is_too_long(empty_project: Path, variable: str) -> None:
    expect(empty_project, {variable: "n" * 256}, "n" * 256, "expected", "found")


def test_a_named_tree_that_is_not_built(empty_project: Path, tmp_path: Path) -> None:
    expect(empty_project, {"SUPERMACHINE_KERNEL_BUILD": str(tmp_path)}, str(tmp_path), "found no such folder")


@pytest.mark.parametrize("text", ["", "{}", '{"format": 2, "version": "0.7.62", "sets": {}}', '{"format": 1}'])
def test_a_broken_lock_is_said(empty_project: Path, text: str) -> None:
    (empty_project / "assets.lock.json").write_text(text)
    expect(empty_project, {"SUPERMACHINE_KERNEL_BUILD": ""}, "assets.lock.json", "expected a lock of format 1")
