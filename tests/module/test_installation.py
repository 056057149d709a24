"""The kinds of installation: how the module knows in which it is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from supermachine_kernel import _installation
from supermachine_kernel._installation import DESCRIPTIONS
from tests.support import child
from tests.support.quick import sampled

JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3))
URLS = JSON | st.text().map("file://{}".format)
DIRECT_URLS = st.binary() | (
    JSON
    | st.fixed_dictionaries({}, optional={"url": URLS, "dir_info": JSON | st.fixed_dictionaries({"editable": JSON})})
).map(lambda record: json.dumps(record).encode())


class TestForm:
    """Those that need no other tool; the frozen ones are run by the tests of the freezers."""

    def form(self, site: Path) -> str:
        done = child.command_line("info", "--json", site=site)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)["installation"]
        assert found in DESCRIPTIONS
        return str(found)

    def form_before(self, other: Path, site: Path) -> str:
        """That of the module in `site`, with the folder `other` later on the path."""
        done = child.python(
            "import sys; sys.path.append(sys.argv[1])\n"
            "from supermachine_kernel._installation import installation_kind; print(installation_kind())",
            other,
            site=site,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def test_an_installed_wheel_is_known(self, installed: Path) -> None:
        assert self.form(installed) == "wheel"

    def test_a_folder_without_metadata_is_a_copy(self, module_copy: Path) -> None:
        for folder in module_copy.glob("*.dist-info"):
            shutil.rmtree(folder)
        assert self.form(module_copy) == "copy"

    def test_a_copy_before_a_wheel_is_a_copy(self, module_copy: Path, installed: Path) -> None:
        for folder in module_copy.glob("*.dist-info"):
            shutil.rmtree(folder)
        assert self.form_before(installed, module_copy) == "copy"

    def test_a_folder_beside_a_setup_cfg_is_a_checkout(self, module_copy: Path) -> None:
        for folder in module_copy.glob("*.dist-info"):
            shutil.rmtree(folder)
        (module_copy / "setup.cfg").write_text("")
        assert self.form(module_copy) == "checkout"

    def test_an_editable_install_is_known_by_its_direct_url(self, module_copy: Path, tmp_path: Path) -> None:
        """As pip records it (PEP 610), with the package found through the path."""
        (folder,) = module_copy.glob("*.dist-info")
        site = tmp_path / "elsewhere"
        site.mkdir()
        folder = folder.rename(site / folder.name)
        (folder / "RECORD").unlink()
        (folder / "direct_url.json").write_text(
            json.dumps({"url": module_copy.as_uri(), "dir_info": {"editable": True}})
        )
        assert self.form_before(module_copy, site) == "editable"

    @given(content=DIRECT_URLS)
    @example(b'{"url": ["x"], "dir_info": {"editable": true}}')
    @example(b"[" * 100_000)
    @example(b"\xff")
    @settings(deadline=None)
    def test_any_direct_url_is_of_a_project_or_not(self, content: bytes) -> None:
        with tempfile.TemporaryDirectory() as name:
            Path(name, "direct_url.json").write_bytes(content)
            project = _installation._editable_project(metadata.PathDistribution(Path(name)))
        assert project is None or os.path.isabs(project)

    def test_a_damaged_direct_url_is_no_traceback(self, module_copy: Path) -> None:
        (module_copy / "setup.cfg").write_text("")
        (folder,) = module_copy.glob("*.dist-info")
        (folder / "WHEEL").unlink()
        (folder / "direct_url.json").write_text('{"url": ["x"], "dir_info": {"editable": true}}')
        assert self.form(module_copy) == "checkout"

    def test_a_zip_on_the_path_is_known(self, installed: Path, tmp_path: Path) -> None:
        archive = tmp_path / "packages.zip"
        zipped(installed, archive)
        assert self.form(archive) == "zip"

    @pytest.mark.parametrize("started", sampled(["app.pyz", "./app.pyz", "{folder}//app.pyz"]))
    def test_a_zip_that_is_run_is_a_zipapp(self, started: str, installed: Path, tmp_path: Path) -> None:
        program = "import sys; from supermachine_kernel.__main__ import main; sys.exit(main())"
        zipped(installed, tmp_path / "app.pyz", program)
        environment = child.environment_with(None, {"PYTHONPATH": ""})
        for arguments in (["info", "--json"], ["verify", "--json"]):
            command = [sys.executable, started.format(folder=tmp_path), *arguments]
            done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr + done.stdout
            assert json.loads(done.stdout).get("installation", "zipapp") == "zipapp"


def zipped(installed: Path, archive: Path, main: str = "") -> None:
    with zipfile.ZipFile(archive, "w") as file:
        for each in sorted((installed / "supermachine_kernel").rglob("*")):
            if each.is_file() and "__pycache__" not in each.parts:
                file.write(each, each.relative_to(installed))
        if main:
            file.writestr("__main__.py", main)
