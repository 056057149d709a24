"""Importing costs nothing and touches nothing; the public names are all there."""

from __future__ import annotations

import ast
import copy
import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import supermachine_kernel
from tests.support import child

CRATE_NAMES = [
    name
    for prefix in ("KERNEL", "INIT_OCI", "SUPERMACHINE_AGENT", "SMPARK_KO")
    for name in (
        f"{prefix}_BYTES",
        f"{prefix}_LEN",
        f"extract_{prefix.lower()}_to",
        f"extract_{prefix.lower()}_to_with_parents",
    )
]
PYTHON_NAMES = [
    *("KERNEL", "INIT_OCI", "SUPERMACHINE_AGENT", "SMPARK_KO", "ASSETS", "Asset", "MANIFEST", "__version__"),
    *("assets_dir", "extract_all_to", "ensure_assets", "verify", "require_version"),
]


@pytest.mark.parametrize("name", [*CRATE_NAMES, "extract_to", "extract_to_with_parents", *PYTHON_NAMES])
def test_public_name_is_there_and_listed(name: str) -> None:
    assert hasattr(supermachine_kernel, name)
    assert name in supermachine_kernel.__all__
    assert name in dir(supermachine_kernel)


def test_every_listed_name_is_there() -> None:
    assert sorted(set(supermachine_kernel.__all__)) == sorted(supermachine_kernel.__all__)
    for name in supermachine_kernel.__all__:
        getattr(supermachine_kernel, name)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'KERNEL_BYTE'"):
        supermachine_kernel.KERNEL_BYTE  # type: ignore[attr-defined]  # noqa: B018


ERRORS = [getattr(supermachine_kernel, name) for name in supermachine_kernel.__all__ if name.endswith("Error")]


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_is_one_line_made_of_its_fields(kind: type[supermachine_kernel.SupermachineKernelError]) -> None:
    whole = kind("file", "a", "b", "do c")
    assert (whole.subject, whole.expected, whole.found, whole.cure) == ("file", "a", "b", "do c")
    assert whole.fields() == {"subject": "file", "expected": "a", "found": "b", "cure": "do c"}
    assert str(whole) == "file: expected a, found b; do c"
    assert whole.statement == "file: expected a, found b"
    assert str(kind("a whole sentence")) == "a whole sentence"
    assert str(kind("file", "a")) == "file: expected a"
    assert str(kind("file", found="b")) == "file: found b"
    assert str(kind("file", cure="do c")) == "file; do c"


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_is_the_same_after_pickle_and_copy(kind: type[supermachine_kernel.SupermachineKernelError]) -> None:
    system = {"errno": errno.EACCES} if issubclass(kind, OSError) else {}
    error = kind("file", "a", "b", "do c", **system)
    vars(error)["more"] = "kept"
    again = [pickle.loads(pickle.dumps(error, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    for same in [*again, copy.copy(error), copy.deepcopy(error)]:
        assert type(same) is kind
        assert str(same) == str(error)
        assert (same.fields(), same.args, vars(same)["more"]) == (error.fields(), error.args, "kept")
        if isinstance(same, OSError):
            assert (same.errno, same.strerror, same.filename) == (errno.EACCES, os.strerror(errno.EACCES), "file")


def test_an_error_that_the_system_did_not_raise_has_no_number() -> None:
    for kind in ERRORS:
        error = kind("file")
        if isinstance(error, OSError):
            assert (error.errno, error.filename) == (None, None)


def imports_of(path: Path) -> set[str]:
    """The modules of this package that a module of it imports anywhere, also inside a function."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            found.update([node.module] if node.module else [alias.name for alias in node.names])
    return found


def test_no_module_imports_one_that_imports_it(installed: Path) -> None:
    graph = {path.stem: imports_of(path) for path in (installed / "supermachine_kernel").glob("*.py")}
    assert {"_read", "_folder"} < graph["_write"]
    while graph:
        grounded = {name for name, needs in graph.items() if not needs & set(graph)}
        assert grounded, f"a circle among {sorted(graph)}"
        graph = {name: needs for name, needs in graph.items() if name not in grounded}


def test_import_loads_one_file_and_the_first_name_nothing_but_modules_of_the_package(installed: Path) -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); before = set(sys.modules)\n"
        "import supermachine_kernel; print(*set(sys.modules) - before)\n"
        "supermachine_kernel.KERNEL; print(*set(sys.modules) - before)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", program, str(installed)], capture_output=True, text=True, check=True
    )
    imported, used = map(str.split, done.stdout.splitlines())
    assert imported == ["supermachine_kernel"]
    assert "supermachine_kernel._assets" in used
    assert [name for name in used if name.partition(".")[0] != "supermachine_kernel"] == []


@pytest.mark.parametrize(
    "use", ["k.KERNEL", "k.__version__", "k.__all__", "dir(k)", "from supermachine_kernel import *"]
)
def test_any_first_use_gives_the_package_all_its_names(use: str) -> None:
    program = f"import supermachine_kernel as k\nseen = vars(k)\nprint('KERNEL' in seen)\n{use}\n"
    done = child.python(program + "print('KERNEL' in seen, 'ensure_assets' in seen, 'LockstepError' in seen)")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["False", "True", "True", "True"]


def test_import_and_sizes_touch_nothing(installed: Path) -> None:
    """Every file that is opened and every folder that is made goes by the interpreter's audit events (PEP 578)."""
    program = """\
import json, os, sys
events = []
def hook(name, arguments):
    if name in ("open", "os.mkdir", "os.scandir", "os.listdir", "socket.connect", "subprocess.Popen"):
        events.append([name, str(arguments[0])])
sys.addaudithook(hook)
import supermachine_kernel
assert supermachine_kernel.KERNEL.name == "kernel"
imported = len(events)
for prefix in ("KERNEL", "INIT_OCI", "SUPERMACHINE_AGENT", "SMPARK_KO"):
    assert getattr(supermachine_kernel, prefix + "_LEN") == getattr(supermachine_kernel, prefix).size > 0
assert events[imported:] == []
print(json.dumps(events))
"""
    done = child.python(program)
    assert done.returncode == 0, done.stderr
    events = json.loads(done.stdout)
    assert any(name == "open" and "supermachine_kernel" in path for name, path in events), "the hook saw nothing"
    assert [path for name, path in events if name == "open" and "assets" in Path(path).parts] == []
    assert {name for name, _ in events} <= {"open", "os.listdir", "os.scandir"}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="strace is of Linux")
def test_import_opens_no_asset_in_the_eyes_of_the_kernel(tmp_path: Path) -> None:
    strace = shutil.which("strace")
    assert strace, "strace is missing: apt-get install strace, or run scripts/test.py, which does"
    trace = tmp_path / "trace"
    program = [sys.executable, "-c", "import supermachine_kernel; supermachine_kernel.KERNEL"]
    subprocess.run([strace, "-f", "-e", "trace=open,openat", "-o", trace, *program], check=True, timeout=120)
    opened = trace.read_text()
    assert "supermachine_kernel" in opened
    assert "supermachine_kernel/assets" not in opened


def test_deprecated_names_warn_and_work(tmp_path: Path) -> None:
    with pytest.warns(DeprecationWarning, match="use extract_kernel_to") as caught:
        supermachine_kernel.extract_to(tmp_path / "a")
    assert caught[0].filename == __file__
    with pytest.warns(DeprecationWarning, match="use extract_kernel_to_with_parents") as caught:
        supermachine_kernel.extract_to_with_parents(tmp_path / "b" / "c")
    assert caught[0].filename == __file__
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b" / "c").read_bytes() == supermachine_kernel.KERNEL_BYTES


def test_bytes_are_read_once_and_kept() -> None:
    assert supermachine_kernel.SMPARK_KO_BYTES is supermachine_kernel.SMPARK_KO_BYTES


def test_without_a_manifest_it_imports_and_says_what_to_do(module_copy: Path) -> None:
    """A copy that left the generated module behind."""
    (module_copy / "supermachine_kernel" / "_manifest.py").unlink()
    done = child.python("import supermachine_kernel; print(supermachine_kernel.__version__)", site=module_copy)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == supermachine_kernel.__version__.partition("+")[0]
    uses = ("KERNEL_LEN", "KERNEL_BYTES", "MANIFEST", "KERNEL.path", "ensure_assets('never')", "verify()")
    for use, message in zip(uses, child.errors_of([f"supermachine_kernel.{use}" for use in uses], site=module_copy)):
        kind = "AssetMissingError" if use.endswith(")") else "AssetAttributeError"
        assert message.startswith(f"{kind}: {module_copy / 'supermachine_kernel' / 'assets'}: expected ")
        assert "found none; " in message
        assert "install the wheel again" in message
