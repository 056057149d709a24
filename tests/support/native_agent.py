"""The agent compiled for the machine that tests it, with the address and undefined behaviour sanitizers."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from scripts.guest.agent import Agent
from scripts.machine.cache import cache_home, locked
from scripts.machine.packages import install_commands
from tests.support.disk import need_root

SOURCES = Path(__file__).resolve().parents[2] / "kernel-build" / "agent"
PROGRAMS = Path(__file__).resolve().parents[1] / "guest" / "agent"
GUEST_ONLY = ("main.c", "vsock.c", "selftest.c", "guest.c", "pid1.c")
"""What needs a guest: vsock, and what would change the testing machine."""
WORKERS = 8
LIMITS = (f"-DAGENT_WORKERS={WORKERS}", "-DGOODBYE_MS=300")
"""Shorter than those that are shipped, so that a test sees them pass."""
HASTY = (*LIMITS, "-DPING_MS=1000", "-DPINGS=5", "-DSILENCE_MS=2000")
"""For tests that wait for these limits; to the callers of any other test, a busy machine could do them wrong."""

_LISTENS = 0x10000
"""__SO_ACCEPTCON of Linux (include/uapi/linux/net.h), among the flags of /proc/net/unix."""

THOROUGH = os.environ.get("SUPERMACHINE_TEST_THOROUGH") == "1"
"""Set: what the ordinary run samples is tested whole."""


def sources(*without: str) -> list[str]:
    """The agent's files that run here."""
    names = sorted(path.name for path in SOURCES.glob("*.c"))
    return [str(SOURCES / name) for name in names if name not in (*GUEST_ONLY, *without)]


def compile_native(program: str, files: Sequence[str], limits: Sequence[str] = LIMITS) -> Path:
    """Compile tests/guest/agent/`program` with the agent's `files`, sanitized; a warning is an error.

    The same sources are compiled once: the program stays in the user's cache.
    """
    install_commands(["gcc"])
    options = ["-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", *limits, f"-I{SOURCES}"]
    options += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    every = [str(PROGRAMS / program), *files]
    digest = hashlib.sha256(" ".join([*options, *every]).encode())
    for path in [*every, *sorted(map(str, SOURCES.glob("*.h"))), str(SOURCES.parent / "smpark" / "smpark.h")]:
        digest.update(Path(path).read_bytes())
    kept = cache_home() / "test" / f"{Path(program).stem}-{digest.hexdigest()[:16]}"
    with locked(kept.with_suffix(".lock")):
        if not kept.exists():
            subprocess.run(["gcc", *options, *every, "-o", f"{kept}.new"], check=True)
            Path(f"{kept}.new").rename(kept)
    return kept


class NativeAgent(Agent):
    """A running one; `pid` is its listening process, `path` its Unix socket."""

    def __init__(self, path: Path, pid: int) -> None:
        super().__init__(self._connect)
        self.path = path
        self.pid = pid

    def _connect(self) -> socket.socket:
        with contextlib.ExitStack() as failed:
            connection = failed.enter_context(socket.socket(socket.AF_UNIX))
            connection.settimeout(120)
            connection.connect(str(self.path))
            failed.pop_all()
        return connection

    def descriptors(self) -> int:
        """How many the listening process has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def children(self) -> list[int]:
        """Its processes that serve callers."""
        return [int(word) for word in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]


@contextlib.contextmanager
def running(program: Path, scratch: Path) -> Iterator[NativeAgent]:
    """Start the agent, and end it; a report of a sanitizer fails the test."""
    need_root("the agent is root's")
    path, log = scratch / "agent.socket", scratch / "agent.log"
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "ASAN_OPTIONS": "abort_on_error=1:detect_leaks=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    with log.open("wb") as errors:
        process = subprocess.Popen([str(program), str(path)], env=environment, stderr=errors, start_new_session=True)
    try:
        wait_until(lambda: is_listening(path))
        yield NativeAgent(path, process.pid)
        assert process.poll() is None, f"the agent ended: {log.read_text()}"
    finally:
        process.kill()
        process.wait()
    report = log.read_text()
    assert "ERROR: " not in report and "runtime error" not in report, report


def wait_until(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    """Wait for the condition to hold. Raises AssertionError after so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds:g} s"
        time.sleep(0.02)


def is_listening(path: Path) -> bool:
    """Whether the Unix socket takes connections. It is there from bind() on, and refuses them until listen()."""
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        fields = line.split(maxsplit=7)
        if fields[7:] == [str(path)] and int(fields[3], 16) & _LISTENS:
            return True
    return False


def is_gone(pid_file: Path) -> bool:
    """Whether the process of which the file has the number has ended; somebody may still have to wait for it."""
    try:
        status = Path(f"/proc/{pid_file.read_text().strip()}/status").read_text()
    except FileNotFoundError:
        return True
    return "State:\tZ" in status
