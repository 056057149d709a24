"""What the process runs from is moved, replaced or upgraded while it runs."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from pathlib import Path

import pytest

from supermachine_kernel import KERNEL, MANIFEST
from tests.support import child


class TestUnderneath:
    """What the process runs from is moved, replaced or upgraded while it runs."""

    def zipped(self, installed: Path, archive: Path) -> Path:
        with zipfile.ZipFile(archive, "w") as file:
            for each in sorted((installed / "supermachine_kernel").rglob("*")):
                if each.is_file() and "__pycache__" not in each.parts:
                    file.write(each, each.relative_to(installed))
        return archive

    def run(self, change: str, *arguments: object, site: Path | None = None, use: str = "k.__version__") -> list[str]:
        program = f"""\
import os, shutil, sys
folder = sys.argv[1]
os.chdir(folder)
os.path.exists("app.zip") and sys.path.insert(0, "app.zip")
import supermachine_kernel as k
{use}
{change}
uses = k.verify, k.KERNEL.read_bytes, k.SMPARK_KO.view, lambda: k.ensure_assets(folder)
for use in (*uses, lambda: k.require_version("0.0.1")):
    try:
        use()
    except k.SupermachineKernelError as error:
        print(type(error).__name__, "|", error.cure)
    else:
        print("done")
"""
        done = child.python(program, *arguments, site=site)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    def test_an_archive_named_relatively_is_found_from_another_folder(self, installed: Path, tmp_path: Path) -> None:
        self.zipped(installed, tmp_path / "app.zip")
        lines = self.run("os.chdir('/')", tmp_path)
        assert lines[:4] == ["done"] * 4
        assert lines[4].startswith("LockstepError | build the app again")

    def test_an_archive_that_was_removed_is_one_clear_error(self, installed: Path, tmp_path: Path) -> None:
        self.zipped(installed, tmp_path / "app.zip")
        lines = self.run("os.unlink('app.zip')", tmp_path)
        assert [line.partition(" | ")[0] for line in lines] == [*["AssetMissingError"] * 4, "LockstepError"]

    def test_an_archive_that_was_replaced_by_the_same_version_goes_on(self, installed: Path, tmp_path: Path) -> None:
        self.zipped(installed, tmp_path / "app.zip")
        with zipfile.ZipFile(tmp_path / "new.zip", "w") as file, zipfile.ZipFile(tmp_path / "app.zip") as old:
            for name in sorted(old.namelist(), reverse=True):
                file.writestr(name, old.read(name))
        assert self.run("os.replace('new.zip', 'app.zip')", tmp_path)[:4] == ["done"] * 4

    def test_an_archive_that_was_replaced_by_another_version_is_said(self, module_copy: Path, tmp_path: Path) -> None:
        self.zipped(module_copy, tmp_path / "app.zip")
        self.upgrade(module_copy)
        self.zipped(module_copy, tmp_path / "new.zip")
        lines = self.run("os.replace('new.zip', 'app.zip')", tmp_path)
        assert (
            lines[:2]
            == ["AssetError | the files were changed while this process ran, as an upgrade does: start it again"] * 2
        )

    def test_an_upgrade_under_a_running_process_is_said(self, module_copy: Path, tmp_path: Path) -> None:
        newer = shutil.copytree(module_copy, tmp_path / "newer")
        self.upgrade(newer)
        change = "site = sys.argv[2]; shutil.rmtree(site); shutil.copytree(sys.argv[3], site)"
        lines = self.run(change, tmp_path, module_copy, newer, site=module_copy)
        cure = "the files were changed while this process ran, as an upgrade does: start it again"
        assert lines[:2] == [f"AssetError | {cure}"] * 2
        assert "done" in lines[2], "smpark.ko is the same in both"
        assert lines[3] == f"AssetError | {cure}"
        assert lines[4] == f"LockstepError | {cure}", "the version that is asked for may be there by now"

    def test_an_upgrade_before_the_first_use_gives_all_of_the_newer(self, module_copy: Path, tmp_path: Path) -> None:
        newer = shutil.copytree(module_copy, tmp_path / "newer")
        self.upgrade(newer)
        change = "site = sys.argv[2]; shutil.rmtree(site); shutil.copytree(sys.argv[3], site)"
        lines = self.run(change, tmp_path, module_copy, newer, site=module_copy, use="")
        assert lines[:4] == ["done"] * 4
        assert lines[4].startswith("LockstepError | ")

    def test_a_package_that_was_removed_before_the_first_use_is_said(self, module_copy: Path) -> None:
        program = "import shutil, sys, supermachine_kernel as k; shutil.rmtree(sys.argv[1]); k.KERNEL"
        done = child.python(program, module_copy, site=module_copy)
        assert done.returncode == 1
        line = done.stderr.splitlines()[-1]
        assert line.startswith(f"ImportError: {module_copy}")
        assert line.endswith("; the files were changed while this process ran, as an upgrade does: start it again")

    @pytest.mark.parametrize("lost", ["everything", "the modules"])
    def test_a_package_that_was_removed_under_a_running_process_is_said(
        self, lost: str, module_copy: Path, tmp_path: Path
    ) -> None:
        change = "package = sys.argv[2] + '/supermachine_kernel/'\n"
        if lost == "everything":
            change += "shutil.rmtree(package)"
        else:
            change += "[os.unlink(package + name) for name in os.listdir(package) if name.endswith('.py')]"
        program = f"""\
import os, shutil, sys
import supermachine_kernel as k
k.SupermachineKernelError  # an app that catches it has loaded it
{change}
uses = k.verify, k.KERNEL.read_bytes, k.SMPARK_KO.view, lambda: k.ensure_assets("never"), lambda: k.assets_dir()
for use in (*uses, lambda: k.require_version("0.0.1")):
    try:
        use()
    except (k.SupermachineKernelError, ImportError) as error:
        print(error)
"""
        done = child.python(program, tmp_path, module_copy, site=module_copy)
        assert done.returncode == 0, done.stderr
        cure = "; the files were changed while this process ran, as an upgrade does: start it again"
        lines = done.stdout.splitlines()
        assert len(lines) >= 5
        assert [line for line in lines if not line.endswith(cure)] == []

    def upgrade(self, site: Path) -> None:
        """Make the installation one of another version, whose kernel is another."""
        kernel = KERNEL.read_bytes() + b"newer"
        (site / "supermachine_kernel" / "assets" / "kernel").write_bytes(kernel)
        manifest = site / "supermachine_kernel" / "_manifest.py"
        text = manifest.read_text().replace(MANIFEST["version"], "0.8.0").replace(MANIFEST["set_digest"], "a" * 64)
        text = text.replace(KERNEL.sha256, hashlib.sha256(kernel).hexdigest())
        manifest.write_text(text.replace(f"'size': {KERNEL.size}", f"'size': {len(kernel)}"))
