"""Boot a kernel and an initramfs in QEMU and read its console, for so long and no longer."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

PROGRAM = "qemu-system-aarch64"
MEMORY = "512M"
# pauth-impdef: QEMU computes the architected pointer authentication very slowly, and nobody looks at its values.
# A power off, and a restart as after a panic (-no-reboot), both end QEMU.
MACHINE = ("-M", "virt", "-cpu", "max,pauth-impdef=on", "-m", MEMORY, "-nic", "none", "-no-reboot")
CONSOLE = ("-display", "none", "-monitor", "none", "-serial", "stdio")
COMMAND_LINE = "console=ttyAMA0 earlycon"


class Line(NamedTuple):
    """A line of the console and when it was whole, in milliseconds since QEMU was started (host clock)."""

    ms: int
    text: str


class Boot(NamedTuple):
    """What was seen. `status` is QEMU's exit status, None if the time limit ended it; `ms` its whole time."""

    lines: list[Line]
    status: int | None
    ms: int

    @property
    def text(self) -> str:
        """The console, without times."""
        return "\n".join(line.text for line in self.lines)


def boot(
    kernel: Path,
    initramfs: Path,
    *,
    cpus: int,
    limit: float,
    extra: Sequence[str] = (),
    on_line: Callable[[Line], None] = lambda line: None,
    keyboard: int = subprocess.DEVNULL,
) -> Boot:
    """Boot until QEMU ends by itself or `limit` seconds are over; QEMU is gone when this returns.

    What is written to the other end of the pipe `keyboard` is typed on the console.
    """
    command = [PROGRAM, *MACHINE, *CONSOLE, "-smp", str(cpus), "-kernel", str(kernel), "-initrd", str(initramfs)]
    command += ["-append", COMMAND_LINE, *extra]
    start = time.monotonic()
    # A group of its own, so that it can be ended as a whole and no Ctrl-C reaches it before us.
    process = subprocess.Popen(
        command, stdin=keyboard, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        lines = _read(process, start, start + limit, on_line)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=max(0.0, start + limit - time.monotonic()))
        status = process.returncode
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    return Boot(lines, status, _ms(start))


def _read(process: subprocess.Popen[bytes], start: float, end: float, on_line: Callable[[Line], None]) -> list[Line]:
    assert process.stdout is not None
    lines: list[Line] = []
    pending = b""

    def add(raw: bytes) -> None:
        lines.append(Line(_ms(start), raw.decode("utf-8", "replace").rstrip("\r")))
        on_line(lines[-1])

    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while (left := end - time.monotonic()) > 0:
            if not selector.select(left):
                break
            data = os.read(process.stdout.fileno(), 65536)
            if not data:
                break
            *whole, pending = (pending + data).split(b"\n")
            for raw in whole:
                add(raw)
    if pending:
        add(pending)
    return lines


def _ms(start: float) -> int:
    return round((time.monotonic() - start) * 1000)
