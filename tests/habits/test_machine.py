"""scripts/machine: where things are kept, what is installed, and how a program ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.machine.cache import cache_home, locked
from scripts.machine.errors import SetupError
from scripts.machine.packages import install_commands, install_packages
from tests.support import disk


def test_the_cache_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_home() == tmp_path / ".cache" / "supermachine-kernel"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says the specification
    assert cache_home() == tmp_path / ".cache" / "supermachine-kernel"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert cache_home() == tmp_path / "cache" / "supermachine-kernel"


def test_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused = pytest.raises(SetupError, match=r"file: expected a cache folder to write to, .*XDG_CACHE_HOME")
    with refused, locked(tmp_path / "file" / "lock"):
        pass


def test_nothing_is_installed_that_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "curl").write_text("")
    (tmp_path / "curl").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))  # no apt-get on it
    install_commands(["curl"])
    with pytest.raises(SetupError, match=r"^xz-utils: expected to be installed, found no apt-get"):
        install_commands(["curl", "xz"])


@pytest.mark.skipif(sys.platform != "linux", reason="apt is of Linux")
@pytest.mark.slow
def test_apt_says_why_and_what_to_run() -> None:
    disk.need_root("only root, or sudo, may run apt-get")
    package = "supermachine-no-such-package"
    with pytest.raises(SetupError) as refused:
        install_packages([package])
    assert refused.value.fields() == {
        "subject": package,
        "expected": "to be installed",
        "found": f"that apt-get ended with 100: E: Unable to locate package {package}",
        "cure": f"run: sudo apt-get install -y --no-install-recommends {package}",
    }


def program(body: str) -> list[str]:
    lines = f"import sys; from scripts.machine.program import run_program\ndef main():\n    {body}\nrun_program(main)"
    return [sys.executable, "-c", lines]


def test_a_reader_that_has_gone_is_no_traceback(project: Path) -> None:
    body = "print('x' * 100_000); return 0"
    with subprocess.Popen(program(body), cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout and running.stderr
        running.stdout.close()
        assert running.stderr.read() == b""
        assert running.wait() == 1


def test_an_interrupt_is_no_traceback(project: Path) -> None:
    body = "print(flush=True); import time; time.sleep(60)"
    with subprocess.Popen(program(body), cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout and running.stderr
        running.stdout.readline()
        running.send_signal(signal.SIGINT)
        assert running.stderr.read() == b"-c: interrupted\n"
        assert running.wait() == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing_behind(number: signal.Signals, project: Path, tmp_path: Path) -> None:
    body = f"import os, tempfile, time; dir = tempfile.TemporaryDirectory(dir={str(tmp_path)!r}); "
    body += "print(flush=True); time.sleep(60)"
    with subprocess.Popen(program(body), cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout and running.stderr
        running.stdout.readline()
        assert list(tmp_path.iterdir())
        running.send_signal(number)
        assert running.stderr.read() == f"ended by {number.name}\n".encode()
        assert running.wait() == 128 + number
    assert not list(tmp_path.iterdir())
