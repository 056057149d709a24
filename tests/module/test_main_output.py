"""The command line's output: colours, readers that go away, closed and full files, and interrupts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from supermachine_kernel import ASSETS
from tests.support import child
from tests.support.quick import sampled


def shell(command: str) -> subprocess.CompletedProcess[str]:
    """The command line with the redirections of a shell, its output buffered as it is by default."""
    start = ["sh", "-c", f'exec "$0" -W error -m supermachine_kernel {command}', sys.executable]
    environment = child.environment_with(None, {"PYTHONUNBUFFERED": ""})
    return subprocess.run(start, env=environment, cwd="/", capture_output=True, text=True, check=False)


class TestOutput:
    def test_no_colour_off_a_terminal(self) -> None:
        assert "\x1b" not in child.command_line("verify").stdout

    @pytest.mark.parametrize(
        ("environment", "coloured"),
        [
            ({"TERM": "xterm", "NO_COLOR": ""}, True),
            ({"TERM": "xterm", "NO_COLOR": "1"}, False),
            ({"TERM": "dumb", "NO_COLOR": ""}, False),
        ],
    )
    def test_colour_on_a_terminal_but_not_against_the_users_word(
        self, environment: dict[str, str], coloured: bool
    ) -> None:
        import pty

        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "supermachine_kernel", "verify"],
            stdout=theirs,
            cwd="/",
            env=child.environment_with(None, environment),
        )
        os.close(theirs)
        output = b""
        with open(ours, "rb", buffering=0) as terminal:
            try:
                while chunk := terminal.read(4096):
                    output += chunk
            except OSError:  # Linux's end of a terminal
                pass
        assert process.wait() == 0
        assert (b"\x1b[32mkernel" in output) == coloured
        assert b"kernel" in output

    @pytest.mark.parametrize("command", sampled([["info"], ["info", "--json"], ["verify"], ["doctor"], ["path"]]))
    def test_a_reader_that_goes_away_is_no_traceback(self, command: list[str]) -> None:
        reader, writer = os.pipe()
        os.close(reader)
        with os.fdopen(writer, "wb") as closed:
            done = subprocess.run(
                [sys.executable, "-m", "supermachine_kernel", *command],
                stdout=closed,
                stderr=subprocess.PIPE,
                cwd="/",
                env=child.environment_with(None, {"PYTHONUNBUFFERED": ""}),
                check=False,
            )
        assert (done.returncode, done.stderr) == (1, b"")

    @pytest.mark.parametrize("command", sampled(["info --json", "path", "verify", "extract {folder}", "--help"]))
    def test_a_closed_stdout_or_stderr_is_no_fault(self, command: str, tmp_path: Path) -> None:
        for closed in (">&-", "2>&-", ">&- 2>&-"):
            done = shell(f"{command.format(folder=tmp_path)} {closed}")
            assert (done.returncode, done.stderr) == (0, "")
            assert bool(done.stdout) == (closed == "2>&-")

    @pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is of Linux")
    @pytest.mark.parametrize(
        "command",
        sampled(["info", "info --json", "path", "verify", "verify --json", "doctor", "extract {folder}", "--help"]),
    )
    def test_a_full_stdout_is_one_line_and_1(self, command: str, tmp_path: Path) -> None:
        done = shell(f"{command.format(folder=tmp_path)} > /dev/full")
        assert done.returncode == 1
        assert done.stderr == (
            "supermachine-kernel: error: standard output: expected to write to it, found an error: No space left on "
            "device; give it another place to go to\n"
        )

    @pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is of Linux")
    @pytest.mark.parametrize(("command", "status"), [("verify /none", 1), ("frobnicate", 2), ("doctor", 0)])
    def test_a_full_stderr_changes_no_exit_status(self, command: str, status: int) -> None:
        done = shell(f"{command} 2> /dev/full")
        assert (done.returncode, done.stderr) == (status, "")

    @pytest.mark.parametrize("command", sampled(["extract", "extract kernel", "bundle", "verify", "path"]))
    @pytest.mark.parametrize("name", ["a" * 5000, "a/" * 2400, "/proc/1/cwd/a", "/dev/null/a", "/proc"])
    def test_an_absurd_name_is_one_line(self, name: str, command: str) -> None:
        done = child.command_line(*command.split(), name)
        assert done.returncode in (1, 2)
        assert done.stderr.splitlines()[-1].startswith("supermachine-kernel")
        assert "Traceback" not in done.stderr

    @pytest.mark.parametrize(("command", "status"), [("verify /none", 1), ("frobnicate", 2)])
    def test_an_error_goes_to_stderr_or_nowhere(self, command: str, status: int) -> None:
        done = shell(f"{command} 2>&-")
        assert (done.returncode, done.stdout) == (status, "")

    def test_what_is_wrong_comes_after_the_table_of_it(self, tmp_path: Path) -> None:
        """Where both go to one place, as in a CI's log; the one is buffered there, the other is not."""
        done = shell(f"verify {tmp_path} 2>&1")
        assert done.returncode == 1
        lines = done.stdout.splitlines()
        assert [line.split() for line in lines[:4]] == [[asset.name, "bad"] for asset in ASSETS]
        assert all(line.startswith("supermachine-kernel: error: ") for line in lines[4:])
        assert len(lines) == 8

    @pytest.mark.parametrize("module", ["argparse", "json", "_output", "_package", "gettext"])
    def test_ctrl_c_while_it_starts_is_one_line_and_1(self, module: str) -> None:
        """It comes when a module's file is opened: before, while and after the arguments are parsed."""
        program = """\
import os, signal, sys
def hook(name, arguments):
    if name == "open" and f"{os.sep}{sys.argv[1]}." in str(arguments[0]).replace("__init__", sys.argv[1]):
        signal.raise_signal(signal.SIGINT)
import supermachine_kernel
for name in [name for name in sys.modules if name in ("argparse", "gettext", "json")]:
    del sys.modules[name]
sys.addaudithook(hook)
from supermachine_kernel.__main__ import main
sys.exit(main(["info", "--json"]))
"""
        done = child.python(program, module)
        if (done.returncode, done.stderr) != (0, ""):  # the module was not needed, or the interruption was in time
            assert (done.returncode, done.stdout) == (1, "")
            assert done.stderr == "supermachine-kernel: error: interrupted\n"

    def test_ctrl_c_is_one_line_and_1(self, tmp_path: Path) -> None:
        """It comes when the kernel is opened."""
        program = """\
import os, signal, sys
from supermachine_kernel.__main__ import main
def hook(name, arguments):
    if name == "open" and str(arguments[0]).endswith(os.path.join("assets", "kernel")):
        signal.raise_signal(signal.SIGINT)
sys.addaudithook(hook)
sys.exit(main(["extract", sys.argv[1]]))
"""
        done = child.python(program, tmp_path)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == "supermachine-kernel: error: interrupted\n"
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize(("encoding", "written"), [("utf-8", "\u00fc"), ("ascii", "\\xfc")])
    def test_a_name_that_the_terminal_cannot_show(self, encoding: str, written: str, tmp_path: Path) -> None:
        folder = tmp_path / "\u00fc"
        done = child.command_line("extract", "smpark.ko", folder, PYTHONIOENCODING=encoding, PYTHONUTF8="1")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"{tmp_path / written / 'smpark.ko'}\n"
        assert (folder / "smpark.ko").exists()

    def test_the_console_script_is_the_same(self, installed: Path) -> None:
        (script,) = installed.glob("bin/supermachine-kernel")
        done = subprocess.run(
            [sys.executable, script, "path"],
            cwd="/",
            env=child.environment_with(None, {}),
            capture_output=True,
            text=True,
        )
        assert done.stdout == child.command_line("path").stdout, done.stderr
