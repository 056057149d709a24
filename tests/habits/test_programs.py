"""What every program in scripts/ has in common: how it treats its arguments, its output, and an interrupt."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.support import disk
from tests.support.quick import sampled

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
PROGRAMS = sorted(path.name for path in SCRIPTS.glob("*.py") if path.read_bytes().startswith(b"#!"))
TAKES_A_PATH = [
    ["audit.py", "PATH"],
    ["audit.py", "WHEEL", "--lock", "PATH"],
    ["audit.py", "WHEEL", "--installed", "PATH"],
    ["boot.py", "PATH"],
    ["rebuild.py", "PATH"],
    ["release.py", "stage", "--out", "PATH"],
    ["release.py", "stage", "--out", "OUT", "--dry-run", "--lock", "PATH"],
    ["release.py", "lock", "--from", "PATH"],
    ["release.py", "lock", "--from", "OUT", "--dry-run", "--lock", "PATH"],
    ["release.py", "source", "--out", "PATH"],
    ["wheel.py", "--out", "PATH"],
]
LONG = "x" * 5000


def run(
    arguments: list[str], folder: Path, *, python: str = sys.executable, user: int | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a program in `folder`."""
    command = [python, str(SCRIPTS / arguments[0]), *arguments[1:]]
    inside = {**os.environ, **variables}
    return subprocess.run(command, cwd=folder, env=inside, capture_output=True, text=True, check=False, user=user)


def with_path(arguments: list[str], path: str, wheel: Path, folder: Path) -> list[str]:
    return [{"PATH": path, "WHEEL": str(wheel), "OUT": str(folder / "out")}.get(each, each) for each in arguments]


def assert_one_line(done: subprocess.CompletedProcess[str], program: str) -> None:
    """The last line is the program's own, and what is before it is argparse's usage at most."""
    assert done.returncode in (1, 2), done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith(program), last[:1000]


def test_the_programs_are_found() -> None:
    assert {"audit.py", "bench.py", "boot.py", "cache_key.py", "rebuild.py", "release.py", "test.py"} < {*PROGRAMS}
    options = {(each[0], each[each.index("PATH") - 1]) for each in TAKES_A_PATH}
    assert {program for program, _ in options} == {*PROGRAMS} - {
        "bench.py",
        "cache_key.py",
        "lock_dependencies.py",
        "test.py",
    }


@pytest.mark.parametrize("arguments", sampled(TAKES_A_PATH), ids=" ".join)
@pytest.mark.parametrize("path", ["", LONG], ids=["empty", "5000 characters"])
def test_a_path_that_cannot_be_is_refused_in_one_line(
    path: str, arguments: list[str], wheel: Path, tmp_path: Path
) -> None:
    done = run(with_path(arguments, path, wheel, tmp_path), tmp_path)
    assert_one_line(done, arguments[0])
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("arguments", TAKES_A_PATH, ids=" ".join)
def test_a_path_without_permission_is_refused_in_one_line(arguments: list[str], wheel: Path, tmp_path: Path) -> None:
    """As a user without rights, for whom the folder is closed; root may look into every folder."""
    disk.need_root("only root may become another user")
    python, nobody = "/usr/bin/python3", 65534
    assert Path(python).exists(), "python3 is missing in /usr/bin: apt-get install python3"
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed too
        home = Path(folder)
        os.chown(home, nobody, nobody)
        path = tmp_path / "closed" / "there"
        done = run(with_path(arguments, str(path), wheel, home), home, python=python, user=nobody, HOME=folder)
    assert_one_line(done, arguments[0])


@pytest.mark.parametrize("program", sampled(PROGRAMS))
def test_output_that_cannot_be_written_is_one_line_and_a_failure(program: str) -> None:
    command = f"{sys.executable} {SCRIPTS / program} --help"
    for redirection, reason in (">&-", "Bad file descriptor"), (">/dev/full", "No space left on device"):
        done = subprocess.run(["bash", "-c", f"{command} {redirection}"], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (1, f"{program}: standard output: cannot be written: {reason}\n")


@pytest.mark.parametrize("program", sampled(PROGRAMS))
def test_messages_that_cannot_be_written_change_nothing_else(program: str) -> None:
    command = f"{sys.executable} {SCRIPTS / program}"
    for redirection in ("2>&-", "2>/dev/full"):
        wrong = subprocess.run(["bash", "-c", f"{command} --no-such {redirection}"], capture_output=True, check=False)
        assert (wrong.returncode, wrong.stdout) == (2, b"")
        good = subprocess.run(["bash", "-c", f"{command} --help {redirection}"], capture_output=True, check=False)
        assert good.returncode == 0 and good.stdout.startswith(b"usage: ")


def test_a_file_that_a_program_opens_never_takes_the_place_of_standard_output(wheel: Path, tmp_path: Path) -> None:
    command = f"{sys.executable} {SCRIPTS / 'audit.py'} {wheel} <&- >&- 2>{tmp_path / 'messages'}"
    assert subprocess.run(["bash", "-c", command], check=False).returncode == 1
    assert (tmp_path / "messages").read_text().endswith("standard output: cannot be written: Bad file descriptor\n")


INTERRUPTED = """\
import os, signal, sys
sys.path.remove({here!r})
del sys.modules["argparse"]
import argparse
def interrupt(*_):
    os.kill(os.getpid(), signal.SIGINT)
{when}
"""


@pytest.mark.parametrize("program", sampled(PROGRAMS))
@pytest.mark.parametrize(
    ("when", "status", "said"),
    [
        ("interrupt()", -signal.SIGINT, ""),
        ("argparse.ArgumentParser.parse_args = interrupt", 1, "interrupted\n"),
    ],
    ids=["while it imports", "while its arguments are parsed"],
)
def test_an_interrupt_is_never_a_traceback(program: str, when: str, status: int, said: str, tmp_path: Path) -> None:
    """A module in place of argparse sends the signal at the very moment."""
    (tmp_path / "argparse.py").write_text(INTERRUPTED.format(here=str(tmp_path), when=when))
    done = run([program], tmp_path, PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr == (f"{program}: {said}" if said else "")


@pytest.mark.parametrize(
    ("program", "module"),
    sampled(
        [
            ("audit.py", "zlib"),
            ("boot.py", "mmap"),
            ("rebuild.py", "zlib"),
            ("release.py", "zlib"),
            ("wheel.py", "zlib"),
        ]
    ),
)
def test_a_python_without_a_module_that_is_needed_is_told_in_one_line(
    program: str, module: str, tmp_path: Path
) -> None:
    code = "import runpy, sys; sys.modules[sys.argv.pop(1)] = None; del sys.argv[0]; "
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", code, module, str(SCRIPTS / program), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    expected = f"{program}: {sys.executable}: expected the module {module}, found none; use a Python that has it\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", expected)


@pytest.mark.slow
def test_a_temporary_folder_named_by_a_dot_is_the_one_of_the_caller(built_set: Path, tmp_path: Path) -> None:
    """A child in another folder would take it for its own."""
    (tmp_path / "here").mkdir()
    arguments = ["wheel.py", "--out", str(tmp_path / "out")]
    done = run(arguments, tmp_path / "here", TMPDIR=".", SUPERMACHINE_ASSETS_DIR=str(built_set))
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").glob("*.whl"))) == 1
    assert list((tmp_path / "here").iterdir()) == []


def test_programs_run_with_the_options_that_isolate_them(tmp_path: Path) -> None:
    for program in PROGRAMS:
        command = [sys.executable, "-I", str(SCRIPTS / program), "--help"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="a small tmpfs in a mount namespace is of Linux")
def test_a_full_disk_under_out_is_told_of_the_folder(built_set: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    code = "import subprocess, sys; sys.exit(subprocess.run(sys.argv[1:]).returncode)"
    command = [sys.executable, SCRIPTS / "wheel.py", "--out", small / "out"]
    done = disk.python_on_tmpfs(small, code, *command, size="1m")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("wheel.py: ") and "No space left on device" in last and str(small) in last


@pytest.mark.parametrize("program", sampled(PROGRAMS))
def test_a_process_without_memory_ends_in_one_line(program: str, tmp_path: Path) -> None:
    (tmp_path / "argparse.py").write_text(NO_MEMORY.format(here=str(tmp_path)))
    done = run([program], tmp_path, PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"{program}: the memory that this process may use does not suffice (ulimit -v)\n"


NO_MEMORY = """\
import sys
sys.path.remove({here!r})
del sys.modules["argparse"]
import argparse
def use_all(*_):
    raise MemoryError
argparse.ArgumentParser.parse_args = use_all
"""
