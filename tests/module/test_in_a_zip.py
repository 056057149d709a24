"""The package inside a zip on the path."""

from __future__ import annotations

import hashlib
import os
import zipfile
from pathlib import Path

import pytest

import supermachine_kernel
from supermachine_kernel import ASSETS, _proof
from tests.support import child
from tests.support.quick import sampled


class TestInAZip:
    """The package in a zip on the path, as a zipapp has it."""

    @pytest.fixture
    def archive(self, installed: Path, tmp_path: Path) -> Path:
        path = tmp_path / "app.zip"
        with zipfile.ZipFile(path, "w") as file:
            for each in sorted((installed / "supermachine_kernel").rglob("*")):
                if each.is_file() and "__pycache__" not in each.parts:
                    file.write(each, each.relative_to(installed))
        return path

    def test_bytes_views_and_files_come_out(self, archive: Path, tmp_path: Path) -> None:
        program = """\
import sys
from pathlib import Path
import supermachine_kernel
assert sys.argv[1] in supermachine_kernel.__file__
folder = Path(sys.argv[2])
supermachine_kernel.verify()
for asset in supermachine_kernel.ASSETS:
    content = asset.read_bytes()
    view = asset.view()
    assert view.readonly and view == content == getattr(supermachine_kernel, asset.prefix + "_BYTES")
    assert asset.extract_to(folder / "one" / asset.name, parents=True).read_bytes() == content
supermachine_kernel.extract_all_to(folder / "all")
assert supermachine_kernel.ensure_assets(folder / "ensured") == folder / "ensured"
"""
        done = child.python(program, archive, tmp_path, site=archive)
        assert done.returncode == 0, done.stderr
        for folder in ("one", "all", "ensured"):
            assert_whole(tmp_path / folder)

    @pytest.mark.parametrize(
        "way", sampled(["{name}", "./{name}", "../{folder}/./{name}", "{path}/..//{folder}/{name}"])
    )
    def test_however_the_path_to_it_is_written(self, way: str, archive: Path) -> None:
        written = way.format(name=archive.name, folder=archive.parent.name, path=archive.parent)
        program = """\
import os, sys
os.chdir(sys.argv[1])
sys.path.insert(0, sys.argv[2])
import supermachine_kernel
assert supermachine_kernel.__file__.startswith(sys.argv[2])
supermachine_kernel.verify()
"""
        done = child.python(program, archive.parent, written)
        assert done.returncode == 0, done.stderr

    def test_path_says_what_to_do_instead(self, archive: Path) -> None:
        for use in ("KERNEL.path", "assets_dir()"):
            message = child.error_of(f"supermachine_kernel.{use}", site=archive)
            assert message.startswith(f"AssetInArchiveError: {archive}")
            assert "read_bytes(), extract_to() and ensure_assets() work from here" in message

    def with_init_oci(self, archive: Path, *contents: bytes) -> Path:
        """A copy of `archive` whose member init-oci is that, or is not there."""
        changed = archive.with_name("changed.zip")
        with zipfile.ZipFile(archive) as old, zipfile.ZipFile(changed, "w") as new:
            for name in old.namelist():
                for content in contents if name.endswith("init-oci") else [old.read(name)]:
                    new.writestr(name, content)
        return changed

    @pytest.mark.whole_run
    @pytest.mark.parametrize("part", ["content", "header"])
    def test_a_damaged_archive_is_an_asset_error(self, part: str, archive: Path) -> None:
        changed = archive.with_name("changed.zip")
        with zipfile.ZipFile(archive) as old, zipfile.ZipFile(changed, "w") as new:
            for name in old.namelist():
                new.writestr(name, old.read(name), zipfile.ZIP_DEFLATED)
                start = new.getinfo(name).header_offset
                if name.endswith("init-oci"):
                    place = start + (0 if part == "header" else 30 + len(name))
        with open(changed, "r+b") as file:
            file.seek(place)
            file.write(b"\xff" * 4)
        uses = ("read_bytes()", "view()", "verify()", "extract_to('never')")
        for message in child.errors_of([f"supermachine_kernel.INIT_OCI.{use}" for use in uses], site=changed):
            assert "expected a file of" in message
            assert "found a damaged archive (" in message
            assert message.endswith("; build the app again, with the data files of the package supermachine_kernel")
        done = child.command_line("doctor", "--json", site=changed)
        assert (done.returncode, done.stderr) == (1, "")
        assert '"cure": "build the app again, with' in done.stdout

    def test_missing_member_is_named(self, archive: Path) -> None:
        message = child.error_of("supermachine_kernel.INIT_OCI.read_bytes()", site=self.with_init_oci(archive))
        assert message.startswith("AssetMissingError: ")
        assert f"{os.path.join('assets', 'init-oci')}: expected a file of" in message

    @pytest.mark.parametrize("size", [0, supermachine_kernel.INIT_OCI.size - 1, supermachine_kernel.INIT_OCI.size + 1])
    def test_member_of_another_size_is_never_read(self, size: int, archive: Path) -> None:
        site = self.with_init_oci(archive, bytes(size))
        uses = ("read_bytes()", "view()", "verify()", "extract_to('never')")
        for message in child.errors_of([f"supermachine_kernel.INIT_OCI.{use}" for use in uses], site=site):
            assert message.startswith("AssetError: ")
            assert f": expected {supermachine_kernel.INIT_OCI.size} bytes, found {size}; " in message


def assert_whole(folder: Path) -> None:
    assert set(os.listdir(folder)) - {_proof.NAME} == {asset.name for asset in ASSETS}
    for asset in ASSETS:
        assert hashlib.sha256((folder / asset.name).read_bytes()).hexdigest() == asset.sha256
        if asset.mode & 0o111:
            assert (folder / asset.name).stat().st_mode & 0o777 == asset.mode
