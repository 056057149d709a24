"""File systems and Pythons that lack what others have: what other projects' users reported of theirs."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
import sys
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest

import supermachine_kernel
from supermachine_kernel import ASSETS, KERNEL
from tests.support import child, odd_system
from tests.support.quick import sampled

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="LD_PRELOAD is of Linux")

ALL_USES = """\
import supermachine_kernel as k
uses = (k.verify, k.KERNEL.read_bytes, lambda: k.KERNEL.extract_to("out/kernel", parents=True),
        lambda: k.extract_all_to("out/all"), lambda: k.ensure_assets("out/ensured", check="content"))
"""
ALL_USES += child.TRY_EACH


def test_a_file_that_is_cut_short_while_it_is_read_ends_no_process(module_copy: Path, tmp_path: Path) -> None:
    """A mapping of it would: the system kills who touches a page behind the end."""
    path = module_copy / "supermachine_kernel" / "assets" / "kernel"
    content, stop = path.read_bytes(), threading.Event()

    def rewrite() -> None:
        while not stop.is_set():
            with path.open("r+b") as file:
                file.truncate(4096)
                file.write(content)

    program = """\
import sys, supermachine_kernel as k
from supermachine_kernel._doctor import examine
seen = set()
for turn in range(12):
    for use in (k.verify, k.KERNEL.read_bytes, lambda: k.ensure_assets(sys.argv[1], check="content"),
                lambda: k.KERNEL.extract_to(sys.argv[1] + "/kernel", parents=True), lambda: list(examine())):
        try:
            use()
        except k.AssetError as error:
            seen.add(error.subject)
print(*seen)
"""
    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        done = child.python(program, tmp_path / "set", site=module_copy)
    finally:
        stop.set()
        writer.join()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [str(path)], "the asset is blamed"


@on_linux
def test_a_disk_that_cannot_be_read_is_blamed_on_the_asset(tmp_path: Path) -> None:
    program = f"import os; os.chdir({str(tmp_path)!r})\n" + ALL_USES
    done = odd_system.python(program, path="/supermachine_kernel/assets/kernel", read=errno.EIO)
    assert done.returncode == 0, done.stderr
    line = f"AssetError {KERNEL.path} | one that cannot be read (Input/output error)"
    assert done.stdout.splitlines() == [line] * 5
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@on_linux
@pytest.mark.parametrize("which", sampled(["shared", "every"]))
def test_a_file_system_without_mappings_gives_views_all_the_same(which: str, tmp_path: Path) -> None:
    program = """\
import hashlib, os, sys, supermachine_kernel as k
for asset in k.ASSETS:
    with asset.view() as view:
        assert view.readonly and hashlib.sha256(view).hexdigest() == asset.sha256
        print(type(view.obj).__name__)
k.verify()
k.ensure_assets(sys.argv[1])
"""
    done = odd_system.python(program, tmp_path / "set", path="/supermachine_kernel/", mmap=which)
    assert (done.returncode, done.stderr) == (0, "")
    assert set(done.stdout.split()) == {"mmap" if which == "shared" else "bytes"}
    done = odd_system.command_line("doctor", path="/supermachine_kernel/", mmap=which)
    assert (done.returncode, done.stderr) == (0, "")


@on_linux
@pytest.mark.parametrize("error", sampled(["EIO", "EBADF", "EPERM", "ENOTTY", "EOPNOTSUPP"]))
def test_a_folder_that_cannot_be_flushed_is_said_once(error: str, tmp_path: Path) -> None:
    number = getattr(errno, error)
    program = """\
import sys, supermachine_kernel as k
k.ensure_assets(sys.argv[1])
k.ensure_assets(sys.argv[1] + "/again")
"""
    done = odd_system.python(program, tmp_path / "a" / "set", fsync_folder=number)
    assert done.returncode == 0, done.stderr
    said = done.stderr.splitlines()
    if error == "EOPNOTSUPP":  # there is nothing to flush, then
        assert said == []
    else:
        assert said == [
            f"{tmp_path / 'a' / 'set'}: the file system cannot flush a folder ({os.strerror(number)}): the files are "
            "in place, but a power cut may undo that"
        ]
    assert_right(tmp_path / "a" / "set")
    assert_right(tmp_path / "a" / "set" / "again")
    done = odd_system.command_line("bundle", tmp_path / "bundled", fsync_folder=number)
    assert done.returncode == 0, done.stderr
    assert_right(tmp_path / "bundled")


@on_linux
@pytest.mark.parametrize("mode", sampled(["755", "700"]))
@pytest.mark.parametrize("answer", sampled(["refuse", "ignore"]))
def test_modes_that_a_file_system_keeps_are_no_error_where_they_serve(answer: str, mode: str, tmp_path: Path) -> None:
    """As FAT, CIFS and gcsfuse have one mode for every file."""
    program = f"import os; os.chdir({str(tmp_path)!r})\n" + ALL_USES
    odd: dict[str, Any] = {"path": tmp_path, "chmod": answer, "mode": mode}
    done = odd_system.python(program, **odd)
    assert (done.returncode, done.stdout.split()) == (0, ["done"] * 5), done.stdout + done.stderr
    for actions in ({"written"}, {"kept"}, {"kept"}):
        done = odd_system.command_line("bundle", "--json", tmp_path / "b", **odd)
        assert (done.returncode, done.stderr) == (0, "")
        assert {file["action"] for file in json.loads(done.stdout)["files"]} == actions
    done = odd_system.command_line("verify", tmp_path / "b", **odd)
    assert (done.returncode, done.stderr) == (0, "")


@on_linux
def test_a_program_that_cannot_be_made_executable_is_one_clear_error(tmp_path: Path) -> None:
    program = """\
import os, sys, supermachine_kernel as k
os.chdir(sys.argv[1])
uses = lambda: k.INIT_OCI.extract_to("init"), lambda: k.ensure_assets("set"), lambda: k.KERNEL.extract_to("kernel")
for use in uses:
    try:
        print(use())
    except k.DestinationError as error:
        print(error)
"""
    done = odd_system.python(program, tmp_path, path=tmp_path, chmod="refuse", mode="644")
    reason = "expected mode 0o755, found 0o644, which its file system keeps (Operation not permitted); name a place on"
    assert done.stdout.splitlines() == [
        f"init: {reason} another disk",
        f"set/init-oci: {reason} another disk",
        "kernel",
    ], done.stderr


@pytest.mark.parametrize("module", sampled(["mmap", "_ctypes", "zlib", "fcntl"]))
def test_a_python_without_an_optional_module_does_the_same(module: str, tmp_path: Path) -> None:
    program = """\
import sys
sys.modules[sys.argv[2]] = None
import hashlib, os, supermachine_kernel as k
for asset in k.ASSETS:
    with asset.view() as view:
        assert hashlib.sha256(view).hexdigest() == asset.sha256
k.verify()
k.extract_all_to(sys.argv[1] + "/all")
k.ensure_assets(sys.argv[1] + "/ensured")
"""
    done = child.python(program, tmp_path, module)
    assert (done.returncode, done.stderr) == (0, "")
    assert_right(tmp_path / "ensured")


@pytest.mark.whole_run
def test_an_archive_that_needs_zlib_where_there_is_none_is_one_clear_error(installed: Path, tmp_path: Path) -> None:
    archive = tmp_path / "packed.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for each in sorted((installed / "supermachine_kernel").rglob("*")):
            if each.is_file() and "__pycache__" not in each.parts:
                packed = zipfile.ZIP_DEFLATED if each.parent.name == "assets" else zipfile.ZIP_STORED
                file.write(each, each.relative_to(installed), packed)
    message = child.error_of("sys.modules['zlib'] = None; supermachine_kernel.verify()", site=archive)
    assert message.startswith("AssetError: ")
    assert "found a damaged archive (Compression requires the (missing) zlib module)" in message


LOOK_AROUND = """\
import inspect, pydoc, supermachine_kernel as k
from unittest.mock import create_autospec
inspect.getmembers(k)
for asset in k.ASSETS:
    inspect.getmembers(asset)
    create_autospec(asset)
    dir(asset)
create_autospec(k)
pydoc.render_doc(k)
pydoc.render_doc(k.KERNEL)
print(*(hasattr(k, name) for name in ("KERNEL_BYTES", "KERNEL_LEN", "MANIFEST", "KERNEL")))
print(*(hasattr(k.KERNEL, name) for name in ("path", "size", "sha256", "name")))
names = {}
exec("from supermachine_kernel import *", names)
print(*(name in names for name in ("KERNEL_BYTES", "KERNEL_LEN", "MANIFEST", "KERNEL")))
print({"path", "size", "sha256", "name"} <= set(dir(k.KERNEL)), "KERNEL_BYTES" in dir(k))
"""


@pytest.mark.parametrize("missing", sampled(["manifest", "assets", "nothing"]))
def test_looking_around_never_fails_for_what_is_not_there(missing: str, module_copy: Path) -> None:
    package = module_copy / "supermachine_kernel"
    if missing == "manifest":
        (package / "_manifest.py").unlink()
    elif missing == "assets":
        shutil.rmtree(package / "assets")
    done = child.python("import warnings; warnings.simplefilter('default')\n" + LOOK_AROUND, site=module_copy)
    assert done.returncode == 0, done.stderr
    constants, attributes = {
        "manifest": ("False False False True", "False False False True"),
        "assets": ("False True True True", "False True True True"),
        "nothing": ("True True True True", "True True True True"),
    }[missing]
    assert done.stdout.splitlines() == [constants, attributes, constants, "True True"]


def test_an_attribute_that_cannot_be_had_says_why(module_copy: Path) -> None:
    """It is an AttributeError, for hasattr(), and has the error that a call would give as its cause."""
    shutil.rmtree(module_copy / "supermachine_kernel" / "assets")
    program = """\
import supermachine_kernel as k
for get in lambda: k.KERNEL.path, lambda: k.KERNEL_BYTES:
    try:
        get()
    except AttributeError as error:
        print(isinstance(error, k.AssetError), type(error.__cause__).__name__, str(error) == str(error.__cause__))
try:
    from supermachine_kernel import KERNEL_BYTES
except ImportError as error:
    print(type(error).__name__)
"""
    done = child.python(program, site=module_copy)
    assert done.stdout.splitlines() == ["True AssetMissingError True"] * 2 + ["ImportError"], done.stderr


def test_an_importer_that_knows_no_files_imports(installed: Path) -> None:
    program = """\
import importlib.abc, importlib.util, os, sys
class Memory(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] == "supermachine_kernel":
            return importlib.util.spec_from_loader(name, self, is_package=name == "supermachine_kernel")
    def exec_module(self, module):
        name = module.__name__.partition(".")[2] or "__init__"
        with open(os.path.join(sys.argv[1], "supermachine_kernel", name + ".py")) as source:
            exec(source.read(), module.__dict__)
sys.path[:] = [path for path in sys.path if path != sys.argv[1]]
sys.meta_path.insert(0, Memory())
import supermachine_kernel as k
assert not hasattr(k, "__file__")
assert k.KERNEL_LEN > 0
for use in (k.verify, k.assets_dir, lambda: k.ensure_assets("never")):
    try:
        use()
    except k.AssetMissingError as error:
        print(error.found)
"""
    done = child.python(program, installed)
    assert (done.returncode, done.stdout.split()) == (0, ["nothing"] * 3), done.stderr


def test_an_import_of_ctypes_that_fails_in_any_way_is_a_copy_instead_of_a_clone(tmp_path: Path) -> None:
    """A hardened runtime on macOS has it raise MemoryError; asked here of the function that runs there."""
    (tmp_path / "ctypes.py").write_text("raise MemoryError")
    program = """\
import sys
sys.path.insert(0, sys.argv[1])
from supermachine_kernel._assets import open_asset
from supermachine_kernel._folder import Folder
from supermachine_kernel._write import NewFile
import supermachine_kernel
with Folder(sys.argv[1]) as folder, open_asset(supermachine_kernel.KERNEL) as reader:
    file = NewFile(folder, "file")
    print(file._fclonefileat(reader.descriptor))
    file.close()
"""
    done = child.python(program, tmp_path)
    assert (done.stdout.strip(), done.stderr) == ("False", "")


def assert_right(folder: Path) -> None:
    for asset in ASSETS:
        path = folder / asset.name
        assert hashlib.sha256(path.read_bytes()).hexdigest() == asset.sha256
        assert stat.S_IMODE(path.stat().st_mode) == asset.mode


def test_the_empty_name_is_refused_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    uses = [supermachine_kernel.ensure_assets, supermachine_kernel.extract_all_to, KERNEL.extract_to]
    for use in uses:
        with pytest.raises(supermachine_kernel.DestinationError, match="found an empty one; is a variable unset"):
            use("")  # type: ignore[operator]
    assert os.listdir(tmp_path) == []


def test_an_attribute_of_an_asset_cannot_be_set() -> None:
    for name in ("name", "mode", "sizes", "more"):
        with pytest.raises(AttributeError):
            setattr(KERNEL, name, "other")
        with pytest.raises(AttributeError):
            delattr(KERNEL, name)
    assert (KERNEL.name, KERNEL.mode) == ("kernel", 0o644)
