"""The set inside an app or a folder, and the receipt that says what it is."""

from __future__ import annotations

import copy
import json
import os
import stat
import tempfile
from pathlib import Path
from typing import Any, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supermachine_kernel import ASSETS, MANIFEST, DestinationError
from supermachine_kernel._bundle import RECEIPT, bundle, check, folder_of, is_foreign
from tests.support import child

NAMES = [asset.name for asset in ASSETS]


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """What an app is before its resources."""
    (tmp_path / "MyApp.app" / "Contents" / "MacOS").mkdir(parents=True)
    return tmp_path / "MyApp.app"


def test_an_app_gets_the_set_into_its_resources(app: Path) -> None:
    assert bundle(app) == dict.fromkeys([*NAMES, RECEIPT], "written")
    resources = app / "Contents" / "Resources"
    assert sorted(os.listdir(resources)) == sorted([*NAMES, RECEIPT])
    for asset in ASSETS:
        assert (resources / asset.name).read_bytes() == asset.read_bytes()
        assert stat.S_IMODE((resources / asset.name).stat().st_mode) == asset.mode
    assert json.loads((resources / RECEIPT).read_text()) == MANIFEST
    assert stat.S_IMODE((resources / RECEIPT).stat().st_mode) == 0o644
    assert check(folder_of(app)) == dict.fromkeys([RECEIPT, *NAMES])


def test_an_app_is_one_in_capitals_too(app: Path) -> None:
    """The file systems of macOS tell no case, as a rule, nor does LaunchServices."""
    shouting = app.rename(app.with_suffix(".APP"))
    assert folder_of(shouting) == shouting / "Contents" / "Resources"
    with pytest.raises(DestinationError, match="name the app"):
        folder_of(shouting / "CONTENTS")


def test_any_folder_gets_it_as_it_is(tmp_path: Path) -> None:
    bundle(tmp_path / "a" / "b")
    assert sorted(os.listdir(tmp_path / "a" / "b")) == sorted([*NAMES, RECEIPT])


def test_what_is_right_is_not_written_again(app: Path) -> None:
    bundle(app)
    before = {path.name: path.stat().st_mtime_ns for path in folder_of(app).iterdir()}
    assert bundle(app) == dict.fromkeys([*NAMES, RECEIPT], "kept")
    assert {path.name: path.stat().st_mtime_ns for path in folder_of(app).iterdir()} == before


def test_what_is_wrong_is_written_or_mended(app: Path) -> None:
    bundle(app)
    folder = folder_of(app)
    (folder / "kernel").write_bytes(b"old")
    (folder / "init-oci").chmod(0o644)
    found = check(folder)
    assert str(found["kernel"]) == f"{folder / 'kernel'}: expected {ASSETS[0].size} bytes, found 3"
    difference = "expected mode 0o755, found 0o644, so that it cannot be executed"
    assert str(found["init-oci"]) == f"{folder / 'init-oci'}: {difference}"
    done = bundle(app)
    assert done == {**dict.fromkeys([*NAMES, RECEIPT], "kept"), "kernel": "written", "init-oci": "mended"}
    assert not any(check(folder).values())


@pytest.mark.parametrize("name", ["Contents", "Contents/Resources"])
def test_a_link_within_an_app_is_not_followed(name: str, app: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    if (app / name).exists():
        (app / name).rename(elsewhere)
    else:
        elsewhere.mkdir()
    (app / name).symlink_to(elsewhere)
    before = sorted(elsewhere.rglob("*"))
    with pytest.raises(DestinationError, match=f"{name}: expected a folder of the app, found a link to {elsewhere}"):
        bundle(app)
    assert sorted(elsewhere.rglob("*")) == before


def test_half_an_app_is_an_error_with_a_cure(tmp_path: Path) -> None:
    (tmp_path / "Empty.app").mkdir()
    for target in (tmp_path / "None.app", tmp_path / "Empty.app"):
        with pytest.raises(
            DestinationError, match="expected a macOS app with a folder Contents, found none; build the"
        ):
            bundle(target)
    assert os.listdir(tmp_path) == ["Empty.app"]


def test_the_app_is_known_by_its_full_name(app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(app)
    assert folder_of(Path(".")) == Path("Contents", "Resources")


REFUSED = "expected a receipt of this program or nothing there, found something else; move it away"


def test_somebody_elses_manifest_is_not_replaced(app: Path) -> None:
    """Web apps have one of that name."""
    theirs = app / "Contents" / "Resources" / RECEIPT
    theirs.parent.mkdir()
    theirs.write_text('{"name": "My App", "assets": []}')
    with pytest.raises(DestinationError, match=REFUSED):
        bundle(app)
    assert os.listdir(theirs.parent) == [RECEIPT]
    assert "My App" in theirs.read_text()


def test_a_link_in_a_receipts_place_is_replaced_not_followed(tmp_path: Path) -> None:
    bundle(tmp_path / "one")
    bundle(tmp_path / "two")
    (tmp_path / "two" / RECEIPT).unlink()
    (tmp_path / "two" / RECEIPT).symlink_to(tmp_path / "one" / RECEIPT)
    assert bundle(tmp_path / "two") == {**dict.fromkeys(NAMES, "kept"), RECEIPT: "written"}
    assert not (tmp_path / "two" / RECEIPT).is_symlink()
    assert not any(check(tmp_path / "two").values())


def test_a_link_to_nothing_is_no_receipt(tmp_path: Path) -> None:
    bundle(tmp_path)
    (tmp_path / RECEIPT).unlink()
    (tmp_path / RECEIPT).symlink_to("nowhere")
    with pytest.raises(DestinationError, match=REFUSED):
        bundle(tmp_path)
    assert "found something else" in str(check(tmp_path)[RECEIPT])
    assert os.readlink(tmp_path / RECEIPT) == "nowhere"


def large(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


@pytest.mark.parametrize(
    "make",
    [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/zero"), large],
    ids=["folder", "pipe", "zeros", "large"],
)
def test_what_is_no_file_of_a_receipts_size_is_not_read(make: Callable[[Path], None], tmp_path: Path) -> None:
    """In a process of its own, which is killed when it waits for the end of what has none."""
    receipt = tmp_path / RECEIPT
    make(receipt)
    done = child.command_line("bundle", tmp_path)
    assert done.returncode == 1
    assert f"{receipt}: {REFUSED}" in done.stderr
    assert os.listdir(tmp_path) == [RECEIPT], "nothing was written before it was refused"
    done = child.command_line("verify", tmp_path)
    assert done.returncode == 1
    assert f"{receipt}: expected the receipt that bundle writes, found something else; move" in done.stderr


def test_the_inside_of_an_app_is_not_the_app(app: Path) -> None:
    bundle(app)
    for use in (bundle, folder_of):
        with pytest.raises(DestinationError, match=r"found the folder Contents of an app, .*; name the app"):
            use(app / "Contents")
    assert not any(check(folder_of(app / "Contents" / "Resources")).values())
    assert sorted(os.listdir(app / "Contents")) == ["MacOS", "Resources"]


def test_a_receipt_that_may_not_be_read_is_not_called_another(tmp_path: Path) -> None:
    """As nobody, when all that is needed is imported: root may read everything."""
    program = """\
import os, pathlib, sys
from supermachine_kernel._bundle import bundle, check
os.chdir(sys.argv[1])  # the way there may be closed to him too
folder = pathlib.Path()
bundle(folder)
assert not any(check(folder).values())
os.chmod("manifest.json", 0)
os.geteuid() or os.setuid(65534)
for use in (bundle, check):
    try:
        use(folder)
    except OSError as error:
        print(type(error).__name__, error)
"""
    tmp_path.chmod(0o755)
    done = child.python(program, tmp_path)
    assert done.stderr == ""
    line = (
        f"DestinationError {RECEIPT}: expected to read it, found an error: Permission denied; name a place that you "
        "may read, or run this as its owner"
    )
    assert done.stdout.splitlines() == [line, line]


@pytest.mark.parametrize("name", ["some", "My.app"])
def test_a_place_that_may_not_be_looked_at(name: str, tmp_path: Path) -> None:
    """Without capabilities, by which root may look everywhere (capset(2), version 3)."""
    program = """\
import ctypes, os, pathlib, sys
from supermachine_kernel._bundle import bundle, check, folder_of
folder = pathlib.Path(sys.argv[1])
bundle(folder)
assert not any(check(folder_of(folder)).values())
os.chmod(folder.parent, 0)
os.geteuid() or ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)())
for use in (bundle, lambda folder: check(folder_of(folder))):
    try:
        use(folder)
    except OSError as error:
        print(type(error).__name__, error)
"""
    (tmp_path / name / "Contents").mkdir(parents=True)
    done = child.python(program, tmp_path / name)
    tmp_path.chmod(0o755)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line.startswith(f"DestinationError {tmp_path / name}")
        assert "Permission denied" in line
        assert "; name a place that you may " in line


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{}", b"[]", b"\xff\xfe", b"null", b"[" * 100_000, b'{"assets": {"kernel": {"size": "1"}}}'),
        json.dumps({**MANIFEST, "version": 1}).encode(),
        json.dumps({name: value for name, value in MANIFEST.items() if name != "set_digest"}).encode(),
    ],
    ids=["empty", "no field", "a list", "no text", "null", "deep", "a few fields", "a wrong type", "a field less"],
)
def test_a_damaged_receipt_is_found_and_the_files_are_still_checked(content: bytes, tmp_path: Path) -> None:
    bundle(tmp_path)
    (tmp_path / RECEIPT).write_bytes(content)
    (tmp_path / "smpark.ko").unlink()
    found = check(tmp_path)
    difference = "expected the receipt that bundle writes, found something else"
    assert str(found[RECEIPT]) == f"{tmp_path / RECEIPT}: {difference}"
    assert "found nothing" in str(found["smpark.ko"])
    assert [name for name in NAMES if found[name]] == ["smpark.ko"]


@pytest.mark.parametrize(
    "change",
    [
        {"version": "v" * 101},
        {"set_digest": "\x1b[31m" + "a" * 59},
        {"assets": {**MANIFEST["assets"], "kernel": {"size": 10**4000, "sha256": "a" * 64, "mode": 0o644}}},
        {"assets": {**MANIFEST["assets"], "kernel": {"size": -1, "sha256": "a" * 64, "mode": 0o644}}},
        {"assets": {**MANIFEST["assets"], "kernel": {"size": 1, "sha256": "\x1b[2J", "mode": 0o644}}},
    ],
    ids=["a long version", "another digest", "a large size", "no size", "a digest that speaks to the terminal"],
)
def test_a_receipt_whose_values_nobody_writes_is_none(change: dict[str, Any], tmp_path: Path) -> None:
    bundle(tmp_path)
    (tmp_path / RECEIPT).write_text(json.dumps({**MANIFEST, **change}))
    assert is_foreign(tmp_path / RECEIPT)
    assert "found something else" in str(check(tmp_path)[RECEIPT])


def test_a_strangers_receipt_does_not_speak_to_the_terminal(tmp_path: Path) -> None:
    """Its version is shown; it could have set the terminal's title, or hidden what is wrong."""
    bundle(tmp_path)
    version = "1.0\x1b]0;owned\x07\x1b[2J\u202e\r\ud800"
    (tmp_path / RECEIPT).write_text(json.dumps({**MANIFEST, "version": version}))
    done = child.command_line("verify", tmp_path)
    assert done.returncode == 1
    assert r"found 1.0\x1b]0;owned\x07\x1b[2J\u202e" in done.stderr
    assert all(character.isprintable() for character in done.stderr.replace("\n", ""))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from([*MANIFEST, *NAMES]), inner),
)


@st.composite
def almost_receipts(draw: st.DrawFn) -> Any:
    """The manifest with something else in the place of one thing, or of more, that it says."""
    receipt = copy.deepcopy(MANIFEST)
    for _ in range(draw(st.integers(0, 3))):
        parent = receipt
        for name in draw(st.sampled_from([[], ["assets"], *(["assets", name] for name in NAMES)])):
            parent = parent[name] if isinstance(parent.get(name), dict) else parent
        parent[draw(st.sampled_from(sorted(parent)) | st.text()) if parent else ""] = draw(JSON)
    return receipt


@pytest.mark.whole_run
@given(content=st.binary() | (JSON | almost_receipts()).map(lambda each: json.dumps(each).encode()))
@settings(deadline=None)
def test_any_content_is_a_receipt_or_not_one(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        receipt = Path(name, RECEIPT)
        receipt.write_bytes(content)
        found = check(Path(name))
        assert list(found) == [RECEIPT, *NAMES]
        assert is_foreign(receipt) == ("found something else" in str(found[RECEIPT]))
        if not found[RECEIPT]:
            assert json.loads(content) == MANIFEST


def test_a_changed_receipt_does_not_cover_a_changed_file(tmp_path: Path) -> None:
    bundle(tmp_path)
    (tmp_path / "smpark.ko").write_bytes(b"other")
    receipt = json.loads((tmp_path / RECEIPT).read_text())
    receipt["assets"]["smpark.ko"] = {"size": 5, "sha256": "0" * 64, "mode": 0o644}
    (tmp_path / RECEIPT).write_text(json.dumps(receipt))
    found = check(tmp_path)
    assert "found one that was changed" in str(found[RECEIPT])
    assert f"expected {ASSETS[3].size} bytes, found 5" in str(found["smpark.ko"])


def test_a_whole_set_of_another_version_is_told_from_a_broken_one(module_copy: Path, tmp_path: Path) -> None:
    manifest = module_copy / "supermachine_kernel" / "_manifest.py"
    text = manifest.read_text().replace(MANIFEST["version"], "0.7.61").replace(MANIFEST["set_digest"], "a" * 64)
    module = b"another module"
    (module_copy / "supermachine_kernel" / "assets" / "smpark.ko").write_bytes(module)
    import hashlib

    text = text.replace(ASSETS[3].sha256, hashlib.sha256(module).hexdigest())
    manifest.write_text(text.replace(f"'size': {ASSETS[3].size}", f"'size': {len(module)}"))
    done = child.command_line("bundle", tmp_path / "out", site=module_copy)
    assert done.returncode == 0, done.stderr
    found = check(tmp_path / "out")
    assert [name for name in found if found[name]] == [RECEIPT]
    assert str(found[RECEIPT]) == (
        f"{tmp_path / 'out' / RECEIPT}: expected the set of this installation, {MANIFEST['version']} (set "
        f"digest {MANIFEST['set_digest'][:16]}), found 0.7.61 (set digest {'a' * 16})"
    )
    assert bundle(tmp_path / "out") == {**dict.fromkeys(NAMES, "kept"), "smpark.ko": "written", RECEIPT: "written"}
    assert not any(check(tmp_path / "out").values())


def test_a_folder_without_a_receipt_is_compared_with_what_is_installed(tmp_path: Path) -> None:
    for asset in ASSETS:
        asset.extract_to(tmp_path / asset.name)
    assert check(tmp_path) == dict.fromkeys(NAMES)
