"""Boot a kernel and an initramfs in QEMU and read its console.

QEMU does not outlive the program that boots, however that ends: Linux kills it then.
"""

from __future__ import annotations

import functools
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from scripts.guest.device import Device

PROGRAM = "qemu-system-aarch64"
MEMORY = "512M"
# pauth-impdef: QEMU computes the architected pointer authentication very slowly, and nobody looks at its values.
# The interrupt controller and PSCI by HVC are those of the real host.
MACHINE = ("-M", "virt,gic-version=3", "-cpu", "max,pauth-impdef=on")
# A power off, and a restart as after a panic (-no-reboot), both end QEMU.
CONSOLE = ("-nic", "none", "-no-reboot", "-display", "none", "-monitor", "none", "-serial", "stdio")
COMMAND_LINE = "console=ttyAMA0 earlycon"
HOST_MEMORY = "256M"
HOST_COMMAND_LINE = "console=ttyAMA0 reboot=t panic=-1"
"""What the real host gives a guest, unless it is told otherwise."""


class Emulator(NamedTuple):
    """A program of QEMU, its arguments for a machine like the real host's, and that host's command line.

    `emulation` are the arguments where `extra` of Machine names no other `-accel`.
    """

    program: str
    machine: tuple[str, ...]
    host_command_line: str
    emulation: tuple[str, ...] = ()


AARCH64 = Emulator(PROGRAM, MACHINE, HOST_COMMAND_LINE)
# Without ACPI the firmware makes a multiprocessor table, and QEMU names its devices on the command line. Linux for x86
# changes its own code as it runs, by way of int3. QEMU 7.2 with a thread for each CPU at times runs one that has gone.
X86_64 = Emulator(
    "qemu-system-x86_64",
    ("-M", "microvm,acpi=off", "-cpu", "max"),
    "console=ttyS0 reboot=t panic=-1 no_timer_check",
    ("-accel", "tcg,thread=single"),
)

_KVM_LIMIT = 5.0
_IMAGE_SIZE, _MAGIC, _MAGIC_AT = 16, b"ARM\x64", 56
# QEMU ends with the thread that started it. That thread waits for it, so only a program that dies leaves it behind.
_LONGEST_LINE, _KEPT_LINES = 64 << 10, 100_000
"""Bytes and lines of the console that are kept at most: what runs in a guest may print without end."""
END_WITH_US = ("setpriv", "--pdeathsig", "KILL") if sys.platform == "linux" else ()


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


class Machine:
    """A guest that runs. It is a context, and QEMU is gone when that ends."""

    def __init__(
        self,
        kernel: Path,
        initramfs: Path | None,
        *,
        cpus: int,
        emulator: Emulator = AARCH64,
        memory: str = MEMORY,
        command_line: str = COMMAND_LINE,
        vsock: Device | None = None,
        extra: Sequence[str] = (),
        on_line: Callable[[Line], None] = lambda line: None,
        keyboard: int = subprocess.DEVNULL,
    ) -> None:
        """Start it. A guest that goes on from a snapshot needs no initramfs. `memory` is as QEMU has it; `vsock` is a
        running device, for this boot alone; `extra` are more arguments for QEMU. `on_line` is called for each line of
        the console, in a thread. What is written to the other end of the pipe `keyboard` is typed on the console.
        """
        command = [*END_WITH_US, emulator.program, *emulator.machine, *CONSOLE, "-m", memory, "-smp", str(cpus)]
        command += [] if "-accel" in extra else emulator.emulation
        command += ["-kernel", str(kernel), "-append", command_line]
        command += [] if initramfs is None else ["-initrd", str(initramfs)]
        if vsock is not None:
            shared = f"memory-backend-memfd,id=memory,size={memory},share=on"
            command += ["-object", shared, "-machine", "memory-backend=memory", *vsock.arguments]
        self._on_line = on_line
        self._lines: deque[Line] = deque(maxlen=_KEPT_LINES)
        self._count = 0  # of all lines, kept or not
        self._news = threading.Condition()
        self._silent = False
        self._fault: BaseException | None = None
        self._start = time.monotonic()
        # A group of its own, so that it can be ended as a whole and no Ctrl-C reaches it before us.
        self._process = subprocess.Popen(
            [*command, *extra],
            stdin=keyboard,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=[] if vsock is None else [vsock.file],
        )
        if vsock is not None:
            vsock.inherited()
        self._reader = threading.Thread(target=self._read, name="console", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The process of QEMU."""
        return self._process.pid

    @property
    def ms(self) -> int:
        """Milliseconds since QEMU was started."""
        return round((time.monotonic() - self._start) * 1000)

    @property
    def runs(self) -> bool:
        """Whether QEMU has not ended."""
        return self._process.poll() is None

    @property
    def lines(self) -> list[Line]:
        """What the console has said until now, the last _KEPT_LINES lines of it."""
        with self._news:
            return list(self._lines)

    def wait_for(self, pattern: str, limit: float, start: int = 0) -> Line:
        """The first line, from number `start` on, in which the regular expression is found.

        Raises TimeoutError after `limit` seconds, or once QEMU has ended without it.
        """
        end = time.monotonic() + limit
        with self._news:
            while True:
                for number in range(min(self._count - start, len(self._lines)), 0, -1):
                    if re.search(pattern, self._lines[-number].text):
                        return self._lines[-number]
                start = max(start, self._count)
                if self._silent or not self._news.wait(max(0.0, end - time.monotonic())):
                    last = "\n".join(line.text for line in list(self._lines)[-20:])
                    ending = "QEMU ended" if self._silent else f"{limit:g} s were over"
                    raise TimeoutError(f"expected a console line like {pattern!r}; {ending}; the last lines:\n{last}")

    def wait(self, limit: float) -> Boot:
        """What was seen until QEMU ended by itself, or `limit` seconds after its start ended it."""
        end = self._start + limit
        with self._news:
            self._news.wait_for(lambda: self._silent, max(0.0, end - time.monotonic()))
        if self._fault is not None:
            raise self._fault
        try:
            status: int | None = self._process.wait(max(0.01, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            status = None
        self.end()
        return Boot(self.lines, status, self.ms)

    def end(self) -> None:
        """Kill QEMU, if it has not ended."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            while raw := self._process.stdout.readline(_LONGEST_LINE):
                line = Line(self.ms, raw.rstrip(b"\n").decode("utf-8", "replace").rstrip("\r"))
                with self._news:
                    self._lines.append(line)
                    self._count += 1
                    self._news.notify_all()
                self._on_line(line)
        except BaseException as error:
            self._fault = error
        with self._news:
            self._silent = True
            self._news.notify_all()


@functools.cache
def acceleration(emulator: Emulator, kernel: Path) -> tuple[str, ...]:
    """QEMU's arguments for KVM where it runs this kernel, else none.

    It is asked by a short boot, because a /dev/kvm that can be opened may be one on which no kernel runs.
    """
    if not emulator.program.endswith(f"-{platform.machine()}") or not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return ()
    arguments, command_line = ("-accel", "kvm"), emulator.host_command_line
    try:
        with Machine(kernel, None, cpus=1, emulator=emulator, command_line=command_line, extra=arguments) as machine:
            machine.wait_for("Linux version", _KVM_LIMIT)
    except TimeoutError:
        return ()
    return arguments


def as_host_loads(kernel: Path, scratch: Path) -> Path:
    """A copy of an arm64 Image that QEMU loads where the real host does: 0x80000 bytes above the beginning of memory.

    QEMU does so if the header (the kernel's Documentation/arch/arm64/booting.rst) says no size. Another file is
    returned as it is.
    """
    with kernel.open("rb") as file:
        if file.read(64)[_MAGIC_AT : _MAGIC_AT + 4] != _MAGIC:
            return kernel
    copy = scratch / "kernel"
    shutil.copyfile(kernel, copy)
    with copy.open("r+b") as file:
        file.seek(_IMAGE_SIZE)
        file.write(bytes(8))
    return copy


def root_disk(image: Path) -> list[str]:
    """QEMU's arguments for a read-only virtio-blk device, the guest's /dev/vda."""
    drive = f"file={str(image).replace(',', ',,')},format=raw,if=none,id=root,readonly=on"
    return ["-drive", drive, "-device", "virtio-blk-device,drive=root"]
