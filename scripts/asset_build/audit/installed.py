"""Whether what is installed is what the wheel makes: everything in the package, and everything that names it.

Outside of it lie other packages, the interpreter, its `site` hooks and what its environment makes it run: who can write
to those can run anything before the module is imported.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..regular_file import SizeError, read_regular
from ..wheel.archive import mode_in_wheel, record_fields
from .errors import AuditError
from .reader import PACKAGE, Wheel

_ADDED = {"INSTALLER", "REQUESTED", "RECORD", "direct_url.json", "uv_cache.json"}
"""What installers add beside the wheel's own metadata (PEP 376, PEP 610, and uv's cache information)."""
_OWN_PTH = {"_virtualenv.pth": b"import _virtualenv"}
"""What environments have that no installed package recorded: virtualenv's and uv's."""
_BYTE_CODE = re.compile(r"(?P<stem>.+)\.(?P<tag>[a-z]+-\d+)(\.opt-(?P<level>[12]))?\.pyc")
_COMMAND = "../../../bin/supermachine-kernel"
_REINSTALL = "install the wheel into a new environment"

# The first line names a Python, without any argument; where its path is too long or has a space, sh starts it (distlib,
# pip and uv).
_PYTHON = rb"/(?:[^\"'`$;&|<>\\\s]*/)?(?i:python|pypy|graalpy)[\w.-]*"
_SHEBANG = re.compile(
    rb"#!(%b)\n|#!/bin/sh\n'''exec' (?:(%b)|\"(%b)\") \"\$0\" \"\$@\"\n' '''\n"
    % (_PYTHON, _PYTHON, _PYTHON.replace(rb"\s", rb"\n"))
)
_SCRIPT = "from supermachine_kernel.__main__ import main\n"
_SCRIPTS = tuple(
    text.encode()
    for text in (
        # pip since 25.1, pip before, uv
        f"import sys\n{_SCRIPT}if __name__ == '__main__':\n"
        "    sys.argv[0] = sys.argv[0].removesuffix('.exe')\n    sys.exit(main())\n",
        f"# -*- coding: utf-8 -*-\nimport re\nimport sys\n{_SCRIPT}if __name__ == '__main__':\n"
        "    sys.argv[0] = re.sub(r'(-script\\.pyw|\\.exe)?$', '', sys.argv[0])\n    sys.exit(main())\n",
        f'# -*- coding: utf-8 -*-\nimport sys\n{_SCRIPT}if __name__ == "__main__":\n'
        '    if sys.argv[0].endswith("-script.pyw"):\n        sys.argv[0] = sys.argv[0][:-11]\n'
        '    elif sys.argv[0].endswith(".exe"):\n        sys.argv[0] = sys.argv[0][:-4]\n    sys.exit(main())\n',
    )
)

_COMPARE_BYTE_CODE = """\
import marshal, sys
def same(one, other):
    if type(one) is not type(other):
        return False
    if isinstance(one, type(same.__code__)):
        names = [name for name in dir(one) if name.startswith("co_") and name not in ("co_filename", "co_lnotab")]
        values = [(getattr(one, name), getattr(other, name)) for name in names]
        return all(same(*pair) for pair in values if not callable(pair[0]))
    if isinstance(one, (tuple, frozenset)):
        one, other = (sorted(items, key=repr) if isinstance(items, frozenset) else items for items in (one, other))
        return len(one) == len(other) and all(map(same, one, other))
    return repr(one) == repr(other)
for source, byte_code, level in zip(*[iter(sys.argv[1:])] * 3):
    with open(source, "rb") as file:
        compiled = compile(file.read(), source, "exec", dont_inherit=True, optimize=int(level))
    with open(byte_code, "rb") as file:
        found = marshal.loads(file.read()[16:])
    if not same(compiled, found):
        sys.exit(1)
    print("the same", flush=True)
"""


class _ByteCode(NamedTuple):
    source: Path
    path: Path
    level: str
    """How far it was optimized (PEP 488): "0", "1" or "2"."""


_BYTE_CODE_SECONDS = 60.0
_LARGEST_TEXT = 16 << 20
"""The most bytes of a record, a script or a .pth file: an installation may be anybody's."""
_ROOTS_GROUPS = {0, 80} if sys.platform == "darwin" else {0}
"""Whose members can become root: on macOS those of the group admin, to which its frameworks belong."""


def verify_installed(wheel: Wheel, folder: Path) -> tuple[Path, str]:
    """Verify the installation in the site-packages folder `folder`. Raises AuditError.

    Returns its RECORD, and the path of the interpreter that the command is started with, "" where there is no command.

    Byte code is compared with its source as this Python compiles it, in a process of its own: what it says is read
    there, and not run.
    """
    _verify_rights(folder, folder.stat(), folder)
    byte_code: list[_ByteCode] = []
    for path in (folder / PACKAGE, folder / wheel.dist_info):
        byte_code += _verify_tree(wheel, folder, path)
    _compare_byte_code(byte_code)
    for name, member in wheel.members.items():
        if not name.endswith("/RECORD"):  # the installer's own, see below
            _verify_file(folder / name, name, member.content)
    _verify_neighbours(wheel, folder)
    record = folder / wheel.dist_info / "RECORD"
    return record, _verify_record(wheel, folder, record)


def _verify_tree(wheel: Wheel, folder: Path, top: Path) -> list[_ByteCode]:
    """No link, no folder and no file that the wheel or an installer does not make; none that others may change.

    Returns the byte code that has one of the wheel's files as its source.
    """
    byte_code = []
    folders = {parent for name in wheel.members for parent in (folder / name).parents}
    added = {f"{wheel.dist_info}/{name}" for name in _ADDED}
    for path in [top, *_below(top)]:
        found = path.lstat() if path.is_symlink() or path.exists() else None
        if found is None:
            raise _error(path, "an installed folder", "none")
        if stat.S_ISLNK(found.st_mode):
            raise _error(path, "a file or folder of its own", "a link")
        _verify_rights(path, found, folder)
        name = path.relative_to(folder).as_posix()
        if (path.name == "__pycache__" and path.parent in folders) or path in folders:
            known = stat.S_ISDIR(found.st_mode)
        elif path.parent.name == "__pycache__" and path.parent.parent in folders:
            compiled = _byte_code(wheel, folder, path)
            byte_code += [compiled] if compiled else []
            known = compiled is not None
        else:
            known = stat.S_ISREG(found.st_mode) and name in wheel.members.keys() | added
        if not known:
            raise _error(path, "only what is in the wheel", "something else: remove it")
    return byte_code


def _verify_rights(path: Path, found: os.stat_result, folder: Path) -> None:
    """Nobody but root, this user and the owner of the whole installation may change what is there."""
    mode = found.st_mode
    if mode & (stat.S_ISUID | stat.S_ISGID if stat.S_ISREG(mode) else 0) or mode & 0o002:
        expected = "a mode that gives nobody else a right to change it, and no set-id bit"
        raise _error(path, expected, f"mode {stat.S_IMODE(mode):o}")
    if os.name != "posix":
        return
    owners = {0, os.geteuid(), folder.stat().st_uid}
    if found.st_uid not in owners:
        raise _error(path, f"the owner of {folder}", f"user id {found.st_uid}, who can change it")
    if mode & 0o020 and _has_others(found.st_gid, owners):
        raise _error(path, "a file that its owner alone can change", f"one that the group with id {found.st_gid} can")


def _has_others(group: int, users: set[int]) -> bool:
    """Whether anybody but these users, by their ids, is in the group; also where nobody can tell."""
    import grp
    import pwd

    if group in _ROOTS_GROUPS:
        return False
    try:
        members = {*grp.getgrgid(group).gr_mem}
    except KeyError:
        return True
    everybody = pwd.getpwall()
    members |= {user.pw_name for user in everybody if user.pw_gid == group}
    return not members <= {user.pw_name for user in everybody if user.pw_uid in users}


def _below(top: Path) -> Iterator[Path]:
    """Everything below a folder, without following links."""
    if top.is_dir() and not top.is_symlink():
        for path in sorted(top.iterdir()):
            yield path
            yield from _below(path)


def _byte_code(wheel: Wheel, folder: Path, path: Path) -> _ByteCode | None:
    """The byte code of one of the wheel's files, or None. Raises AuditError for that of another Python."""
    named = _BYTE_CODE.fullmatch(path.name)
    if named is None:
        return None
    source = path.parent.parent / f"{named['stem']}.py"
    if source.relative_to(folder).as_posix() not in wheel.members or not path.is_file():
        return None
    if named["tag"] != sys.implementation.cache_tag:
        cure = f"remove {path.parent}, or run this audit with that Python"
        raise _error(path, f"byte code of this Python ({sys.implementation.cache_tag})", named["tag"], cure)
    return _ByteCode(source, path, named["level"] or "0")


def _compare_byte_code(those: list[_ByteCode]) -> None:
    """Compare each with its source. Raises AuditError for the first that is not of its source."""
    if not those:
        return
    command = [sys.executable, "-I", "-c", _COMPARE_BYTE_CODE]
    command += [str(part) for each in those for part in each]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=_BYTE_CODE_SECONDS)
        if done.returncode == 0:
            return
        same, found = done.stdout, "another"
    except subprocess.TimeoutExpired as error:
        same, found = error.stdout or b"", "one that takes too long to read"
    first = those[min(len(same.splitlines()), len(those) - 1)]
    cure = f"remove {first.path.parent}, and find who put it there"
    raise _error(first.path, f"the byte code of {first.source.name}", found, cure)


def _verify_file(path: Path, name: str, content: bytes) -> None:
    if path.is_symlink() or not path.is_file():
        raise _error(path, "a file", "a link" if path.is_symlink() else "none")
    with path.open("rb") as file:
        found = file.read(len(content) + 1)
    if found != content:
        digests = (hashlib.sha256(data).hexdigest() for data in (content, found))
        raise _error(path, *(f"SHA-256 {digest}" for digest in digests))
    if mode_in_wheel(name) & 0o111 and not path.stat().st_mode & 0o100:
        raise _error(path, "to be executable", f"mode {path.stat().st_mode & 0o777:o}")


def _verify_neighbours(wheel: Wheel, folder: Path) -> None:
    """Nothing else in the folder bears the package's or the distribution's name, or is run as Python starts."""
    for path in sorted(folder.iterdir()):
        plain = re.sub(r"[-_.]+", "-", path.name).lower()
        if plain.startswith("supermachine-kernel") and path.name not in (PACKAGE, wheel.dist_info):
            raise _error(path, f"{wheel.version} alone", "something else of this name: uninstall both")
        if path.name.endswith(".pth"):  # a file named just so is one too
            content = _content(path)
            owned = _OWN_PTH.get(path.name) == content.strip() or _recorded_by_another(folder, path.name, content)
            if PACKAGE.encode() in content or not owned:
                cure = "look at what it runs; remove it, or install into a new environment"
                raise _error(path, "a file that an installed package recorded", "one that none did", cure)


def _recorded_by_another(folder: Path, name: str, content: bytes) -> bool:
    line = f"{name},{','.join(record_fields(content))}"
    return any(line.encode() in _content(path).splitlines() for path in folder.glob("*.dist-info/RECORD"))


def _verify_record(wheel: Wheel, folder: Path, record: Path) -> str:
    """The installer's RECORD names the wheel's files as they are, what the installer added, and the command.

    Returns the path of the interpreter that the command names, or "".
    """
    if not record.is_file():
        raise _error(record, "the installer's record", "none")
    try:
        rows = [*csv.reader(io.StringIO(_content(record).decode(errors="replace")))]
    except csv.Error as error:
        raise _error(record, "the installer's record", str(error)) from error
    recorded = {row[0]: row[1:] for row in rows if row}
    for name, content in wheel.contents.items():
        if not name.endswith("/RECORD") and recorded.get(name) != record_fields(content):
            raise _error(record, f"{name} with {record_fields(content)}", str(recorded.get(name)))
    added = {f"{wheel.dist_info}/{name}" for name in _ADDED}
    others = recorded.keys() - wheel.members.keys() - added
    commands = {name for name in others if name.endswith("/bin/supermachine-kernel")}
    if not commands:
        raise _error(record, "the command bin/supermachine-kernel", "none")
    for name in others - commands:
        if not name.startswith(f"{PACKAGE}/") or "/__pycache__/" not in name or ".." in name.split("/"):
            raise _error(record, "only what is in the wheel", name)
    # An environment has it three folders up, and pip --target inside, whatever the record says.
    scripts = sorted({folder / name for name in {*commands, "bin/supermachine-kernel", _COMMAND}})
    return next(filter(None, [_verify_script(script, folder) for script in scripts]), "")


def _verify_script(path: Path, folder: Path) -> str:
    """The interpreter that the script names; "" where there is no script."""
    if not path.exists() and not path.is_symlink():
        return ""
    if path.is_symlink() or not path.is_file():
        raise _error(path, "the command's script", "a link" if path.is_symlink() else "no file")
    content = _content(path)
    shebang = _SHEBANG.match(content)
    if shebang is None or content[shebang.end() :] not in _SCRIPTS:
        raise _error(path, "the command's script as pip or uv writes it", "another")
    _verify_rights(path, path.stat(), folder)
    python = next(each for each in shebang.groups() if each).decode(errors="replace")
    if os.path.exists(python):
        _verify_rights(Path(python), os.stat(python), folder)
    return python


def _content(path: Path) -> bytes:
    """The content of a file that may be anything: a pipe would be waited for. Raises AuditError."""
    try:
        return read_regular(path, largest=_LARGEST_TEXT)
    except SizeError as error:
        raise _error(path, f"a file of at most {_LARGEST_TEXT} bytes", f"{error.size} bytes") from error
    except OSError as error:
        raise _error(path, "a file that can be read", error.strerror or str(error)) from error


def _error(path: Path, expected: str, found: str, cure: str = _REINSTALL) -> AuditError:
    return AuditError(str(path), expected, found, cure, link="installed")
