"""An installation holds when everything in the package, and everything that names it, is what the wheel makes."""

from __future__ import annotations

import importlib.util
import marshal
import os
import py_compile
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scripts.asset_build.audit.chain import audit
from scripts.asset_build.audit.installed import _SCRIPTS, _SHEBANG
from scripts.asset_build.lock import LOCK_NAME
from scripts.asset_build.paths import PROJECT
from scripts.asset_build.wheel.archive import record_fields
from tests.support import disk
from tests.support.sets import PLATFORM_TAG
from tests.support.wheels import INIT_OCI, KERNEL, broken_link, flipped

pytestmark = pytest.mark.slow  # each opens a whole wheel

LOCK = PROJECT / LOCK_NAME
ASSETS = "supermachine_kernel/_assets.py"


@pytest.fixture
def site(installed: Path, tmp_path: Path) -> Path:
    """A copy of the installation, with the byte code that an import would leave."""
    site = shutil.copytree(installed, tmp_path / "site", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, "-m", "compileall", "-q", site / "supermachine_kernel"], check=True)
    return site


def change_file(path: Path) -> None:
    path.write_bytes(flipped(path.read_bytes(), 0))


def append(path: Path, content: bytes) -> None:
    path.write_bytes(path.read_bytes() + content)


def replace_by_link(path: Path, outside: Path) -> None:
    path.rename(outside)
    path.symlink_to(outside)


def evil_byte_code(site: Path, mode: py_compile.PycInvalidationMode) -> None:
    """Byte code of other source, made to look current; an unchecked hash is never even compared by the import."""
    source = site / ASSETS
    other = site.parent / "other.py"
    other.write_text(source.read_text() + "\nEVIL = True\n")
    shutil.copystat(source, other)
    cached = importlib.util.cache_from_source(str(source))
    py_compile.compile(str(other), cfile=cached, dfile=str(source), invalidation_mode=mode, doraise=True)


def constants_changed(site: Path) -> None:
    """The same code but for one constant, deep in it."""
    cached = Path(importlib.util.cache_from_source(str(site / ASSETS)))
    data = cached.read_bytes()
    code = compile((site / ASSETS).read_bytes().replace(b"read_bytes(), ext", b"read_bytes(), exT"), str(site), "exec")
    cached.write_bytes(data[:16] + marshal.dumps(code))


def second_folder(site: Path) -> None:
    """A package folder wins over a module of its name (importlib.machinery.FileFinder)."""
    folder = site / "supermachine_kernel/_assets"
    folder.mkdir()
    (folder / "__init__.py").write_text("EVIL = True\n")


def linked_folder(site: Path) -> None:
    second_folder(site)
    replace_by_link(site / "supermachine_kernel/_assets", site.parent / "elsewhere")


def record_line(site: Path, info: str, line: str) -> None:
    with (site / info / "RECORD").open("a") as file:
        file.write(line)


def change_first_line(site: Path, line: bytes) -> None:
    (site / "bin/supermachine-kernel").write_bytes(line + _SCRIPTS[0])


def hidden_command(site: Path, info: str, row: str) -> None:
    """Another command, in the place where pip puts it, and a RECORD that leads away from it."""
    append(site / "bin/supermachine-kernel", b"import evil\n")
    lines = (site / info / "RECORD").read_text().splitlines(keepends=True)
    (site / info / "RECORD").write_text("".join(line for line in lines if "/bin/" not in line) + row)


def pipe_for_a_record(site: Path) -> None:
    (site / "evil-1.dist-info").mkdir()
    os.mkfifo(site / "evil-1.dist-info/RECORD")
    (site / "evil.pth").write_text("import os")


def give_to_a_group(path: Path) -> None:
    disk.need_root("root alone gives a file to another group")
    os.chown(path, -1, 4711)
    path.chmod(0o664)


def strangers_interpreter(site: Path) -> None:
    python = site.parent / "python3"
    python.touch()
    python.chmod(0o777)
    change_first_line(site, f"#!{python}\n".encode())


UNCHECKED = py_compile.PycInvalidationMode.UNCHECKED_HASH
TIMESTAMP = py_compile.PycInvalidationMode.TIMESTAMP
TAMPERED: dict[str, tuple[Callable[[Path, str], Any], str]] = {
    "a changed asset": (lambda site, info: change_file(site / INIT_OCI), "init-oci: expected SHA-256 .*, found"),
    "a longer asset": (lambda site, info: append(site / INIT_OCI, b"x"), "init-oci: expected SHA-256"),
    "no kernel": (lambda site, info: (site / KERNEL).unlink(), "kernel: expected a file, found none"),
    "no exec bit": (lambda site, info: (site / INIT_OCI).chmod(0o644), "expected to be executable, found mode 644"),
    "setuid": (lambda site, info: (site / INIT_OCI).chmod(0o4755), "no set-id bit, found mode 4755"),
    "world-writable file": (lambda site, info: (site / ASSETS).chmod(0o666), "gives nobody else a right"),
    "world-writable folder": (
        lambda site, info: (site / "supermachine_kernel/assets").chmod(0o777),
        "assets: expected a mode that gives nobody else a right",
    ),
    "an old module": (
        lambda site, info: (site / "supermachine_kernel/old.py").touch(),
        "old.py: expected only what is in the wheel",
    ),
    "an extension module": (
        lambda site, info: (site / "supermachine_kernel/_assets.cpython-311-x86_64-linux-gnu.so").touch(),
        "expected only what is in the wheel",
    ),
    "a folder": (lambda site, info: second_folder(site), "_assets: expected only what is in the wheel"),
    "a linked folder": (lambda site, info: linked_folder(site), "_assets: expected a file or folder of its own"),
    "linked assets": (
        lambda site, info: replace_by_link(site / "supermachine_kernel/assets", site.parent / "elsewhere"),
        "assets: expected a file or folder of its own, found a link",
    ),
    "a linked package": (
        lambda site, info: replace_by_link(site / "supermachine_kernel", site.parent / "elsewhere"),
        "supermachine_kernel: expected a file or folder of its own, found a link",
    ),
    "a linked kernel": (
        lambda site, info: replace_by_link(site / KERNEL, site.parent / "elsewhere"),
        "kernel: expected a file or folder of its own, found a link",
    ),
    "byte code of other source": (lambda site, info: evil_byte_code(site, TIMESTAMP), "expected the byte code of _as"),
    "unchecked byte code": (lambda site, info: evil_byte_code(site, UNCHECKED), "expected the byte code of _assets.py"),
    "byte code with another constant": (
        lambda site, info: constants_changed(site),
        "expected the byte code of _assets",
    ),
    "byte code that is none": (
        lambda site, info: Path(importlib.util.cache_from_source(str(site / ASSETS))).write_bytes(b"x" * 100),
        "expected the byte code of _assets.py",
    ),
    "byte code of another Python": (
        lambda site, info: (site / "supermachine_kernel/__pycache__/_assets.cpython-27.pyc").touch(),
        "expected byte code of this Python .*, found cpython-27",
    ),
    "byte code without source": (
        lambda site, info: (site / "supermachine_kernel/__pycache__/evil.cpython-311.pyc").touch(),
        "expected only what is in the wheel",
    ),
    "an older version": (
        lambda site, info: (site / "supermachine_kernel-0.1.dist-info").mkdir(),
        "dist-info: expected .* alone, found something else of this name",
    ),
    "another spelling": (
        lambda site, info: (site / "Supermachine.Kernel-9.dist-info").mkdir(),
        "Supermachine.Kernel-9.dist-info: expected .* alone",
    ),
    "an egg-info": (lambda site, info: (site / "supermachine_kernel.egg-info").mkdir(), "egg-info: expected .* alone"),
    "a module beside the package": (
        lambda site, info: (site / "supermachine_kernel.py").touch(),
        "supermachine_kernel.py: expected .* alone",
    ),
    "a .pth file": (
        lambda site, info: (site / "evil.pth").write_text("import os"),
        "evil.pth: expected a file that an",
    ),
    "a file named .pth": (
        lambda site, info: (site / ".pth").write_text("import os"),
        r"/\.pth: expected a file that an installed package recorded",
    ),
    "a .pth file that is a pipe": (
        lambda site, info: os.mkfifo(site / "evil.pth"),
        "evil.pth: expected a file that can be read, found a device, socket or pipe",
    ),
    "a .pth file beside another package's record that is a pipe": (
        lambda site, info: pipe_for_a_record(site),
        "evil-1.dist-info/RECORD: expected a file that can be read, found a device, socket or pipe",
    ),
    "an endless command": (
        lambda site, info: os.truncate(site / "bin/supermachine-kernel", 1 << 40),
        "expected a file of at most 16777216 bytes, found 1099511627776 bytes",
    ),
    "a RECORD that csv cannot read": (
        lambda site, info: record_line(site, info, "a" * 200_000 + ",,\n"),
        "RECORD: expected the installer's record, found field larger than",
    ),
    "a file that a group can change": (
        lambda site, info: give_to_a_group(site / ASSETS),
        "_assets.py: expected a file that its owner alone can change, found one that the group with id 4711 can",
    ),
    "no RECORD": (lambda site, info: (site / info / "RECORD").unlink(), "RECORD: expected the installer's record"),
    "an empty RECORD": (lambda site, info: (site / info / "RECORD").write_text(""), "RECORD: expected .*, found None"),
    "a file outside that RECORD names": (
        lambda site, info: record_line(site, info, "../evil.py,,\n"),
        r"RECORD: expected only what is in the wheel, found \.\./evil.py",
    ),
    "a file in the metadata": (
        lambda site, info: (site / info / "evil.txt").touch(),
        "evil.txt: expected only what is in the wheel",
    ),
    "another command": (
        lambda site, info: append(site / "bin/supermachine-kernel", b"import evil\n"),
        "expected the command's script as pip or uv writes it",
    ),
    "another interpreter line": (
        lambda site, info: (site / "bin/supermachine-kernel").write_bytes(
            b"#!/bin/sh\n'''exec' evil; \"/usr/bin/python3\" \"$0\" \"$@\"\n' '''\n" + _SCRIPTS[0]
        ),
        "expected the command's script as pip or uv writes it",
    ),
    "an interpreter line with a command of its own": (
        lambda site, info: change_first_line(site, b'#!/usr/bin/env -S sh -c "evil"\n'),
        "expected the command's script as pip or uv writes it",
    ),
    "an interpreter line with an argument": (
        lambda site, info: change_first_line(site, b"#!/usr/bin/python3 -mevil\n"),
        "expected the command's script as pip or uv writes it",
    ),
    "an interpreter that is no Python": (
        lambda site, info: change_first_line(site, b"#!/bin/sh\n"),
        "expected the command's script as pip or uv writes it",
    ),
    "an interpreter whose name only sounds like one": (
        lambda site, info: change_first_line(site, b"#!/tmp/happy\n"),
        "expected the command's script as pip or uv writes it",
    ),
    "an interpreter that everybody can write to": (
        lambda site, info: strangers_interpreter(site),
        "python3: expected a mode that gives nobody else a right",
    ),
    "a shell's line with an argument": (
        lambda site, info: change_first_line(site, b"#!/bin/sh\n'''exec' /bin/python3 -m evil \"$0\" \"$@\"\n' '''\n"),
        "expected the command's script as pip or uv writes it",
    ),
    "another command that RECORD does not name": (
        lambda site, info: hidden_command(site, info, ""),
        "RECORD: expected the command bin/supermachine-kernel, found none",
    ),
    "another command than RECORD names": (
        lambda site, info: hidden_command(site, info, "nowhere/bin/supermachine-kernel,,\n"),
        "expected the command's script as pip or uv writes it",
    ),
    "a file outside that RECORD calls byte code": (
        lambda site, info: record_line(site, info, "supermachine_kernel/../evil/__pycache__/x.pyc,,\n"),
        "RECORD: expected only what is in the wheel, found supermachine_kernel/../evil",
    ),
    "a world-writable site": (lambda site, info: site.chmod(0o777), "site: expected a mode that gives nobody else"),
    "a linked command": (
        lambda site, info: replace_by_link(site / "bin/supermachine-kernel", site.parent / "elsewhere"),
        "expected the command's script, found a link",
    ),
}


def test_an_installation_with_its_byte_code_holds(wheel: Path, site: Path) -> None:
    (link,) = (link for link in audit(wheel, PROJECT, LOCK, site) if link.name == "installed")
    python = (site / "bin/supermachine-kernel").read_text().partition("\n")[0].removeprefix("#!")
    assert link.proven == f"{site}: the files of the wheel; the command is started by {python}"
    assert list((site / "supermachine_kernel/__pycache__").glob("*.pyc"))


@pytest.mark.parametrize(("tamper", "message"), TAMPERED.values(), ids=TAMPERED)
def test_an_installation_that_was_tampered_with(
    tamper: Callable[[Path, str], Any], message: str, wheel: Path, site: Path
) -> None:
    tamper(site, f"supermachine_kernel-{wheel.name.split('-')[1]}.dist-info")
    found = broken_link(wheel, LOCK, installed=site)
    assert re.search(f"installed: .*{message}", found), found


def test_a_file_of_another_user_is_refused(wheel: Path, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root sees it, whose installation has a file that somebody else owns, and so may change after the audit."""
    real = Path.lstat

    def lstat(path: Path) -> os.stat_result:
        found = real(path)
        return found if path != site / ASSETS else os.stat_result((*found[:4], 4711, *found[5:]))

    monkeypatch.setattr(Path, "lstat", lstat)
    found = broken_link(wheel, LOCK, installed=site)
    assert f"_assets.py: expected the owner of {site}, found user id 4711" in found


def test_the_first_lines_that_pip_and_uv_write_are_known() -> None:
    """Frameworks of macOS have a capital; a path that is long or has a space is started by sh."""
    lines = ["#!/usr/bin/python3.13", "#!/Library/Frameworks/Python.framework/Versions/3.13/bin/Python", "#!/opt/pypy3"]
    lines.append("#!/bin/sh\n'''exec' \"/a home/v/bin/python\" \"$0\" \"$@\"\n' '''")
    lines.append("#!/bin/sh\n'''exec' /a" + "/long" * 50 + "/bin/python \"$0\" \"$@\"\n' '''")
    assert [line for line in lines if not _SHEBANG.fullmatch(f"{line}\n".encode())] == []


def test_a_pth_file_of_another_package_is_its_own(wheel: Path, site: Path) -> None:
    (site / "other.pth").write_text("import other")
    (site / "other-1.dist-info").mkdir()
    digest, size = record_fields(b"import other")
    (site / "other-1.dist-info/RECORD").write_text(f"other.pth,{digest},{size}\n")
    assert list(audit(wheel, PROJECT, LOCK, site))
    (site / "other.pth").write_text("import evil!")
    assert "other.pth: expected a file that an installed package recorded" in broken_link(wheel, LOCK, installed=site)


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["pip", "uv"])
def test_what_pip_and_uv_install_into_an_environment_holds(tool: str, wheel: Path, tmp_path: Path) -> None:
    """For the platform of this machine, as a real environment has its scripts and its byte code elsewhere."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv/bin/python"
    (site,) = (tmp_path / "venv/lib").glob("python*/site-packages")
    renamed = tmp_path / wheel.name.replace(PLATFORM_TAG, "any")
    shutil.copy(wheel, renamed)  # an installer takes the tag from the name
    start = [str(python), "-m", "pip"] if tool == "pip" else [sys.executable, "-m", "uv", "pip"]
    options = ["--no-index", "--no-deps", *(["--python", str(python), "--compile-bytecode"] if tool == "uv" else [])]
    inside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [*start, "install", *options, renamed], env=inside, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert list(audit(wheel, PROJECT, LOCK, site))
    script = tmp_path / "venv/bin/supermachine-kernel"
    script.write_text(script.read_text() + "import evil\n")
    assert "expected the command's script as pip or uv writes it" in broken_link(wheel, LOCK, installed=site)
