"""How a program of the project starts and ends."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, NoReturn

if TYPE_CHECKING:
    from supermachine_kernel import SupermachineKernelError


class OutputError(Exception):
    """Standard output cannot be written any more. The text says why."""


def run_program(main: Callable[[], int]) -> NoReturn:
    """End this process with the status that `main` returns, and without a traceback for what the caller caused.

    The status is 1 after an interrupt (Ctrl-C), when standard output is closed or full, and after an OSError that
    `main` did not explain itself; one line on standard error says which. A reader of standard output that has gone
    is no error to speak of: 1, without a line. SIGTERM and SIGHUP end the process with 128 + the signal's number,
    once every `with` and `finally` has run.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _exit_on_signal)
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # since scripts/_path.py
        signal.signal(signal.SIGINT, signal.default_int_handler)
    _open_standard_files()
    for name in ("TMPDIR", "TEMP", "TMP"):
        if os.environ.get(name) == os.curdir:  # the one relative path that the module tempfile leaves as it is
            os.environ[name] = os.getcwd()
            tempfile.tempdir = None
    try:
        status = _run(main)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second signal ends this process at once
        status = _failed("interrupted")
    except OutputError as error:
        status = 1 if error.__cause__.__class__ is BrokenPipeError else _failed(f"standard output: {error}")
    except OSError as error:
        status = _failed(f"{error.filename or 'the system'}: {error.strerror or error}")
    except MemoryError:
        status = _failed("the memory that this process may use does not suffice (ulimit -v)")
    sys.exit(status)


def report_error(error: SupermachineKernelError, *, as_json: bool) -> int:
    """Tell why the program failed: in one line on standard error, and with `--json` by its fields on standard output.

    Returns 1, the exit status.
    """
    if as_json:
        print(json.dumps({"error": error.fields()}, indent=2))
    return _failed(str(error))


def log(message: str) -> None:
    """Print progress to standard error: standard output is for results."""
    print(message, file=sys.stderr, flush=True)


def _run(main: Callable[[], int]) -> int:
    """The status of `main`, or that of its SystemExit, once its output is written."""
    try:
        status: object = main()
    except SystemExit as ending:
        status = ending.code
        if isinstance(status, str):
            log(status)
            status = 1
    sys.stdout.flush()
    return status if isinstance(status, int) else 0


def _failed(message: str) -> int:
    log(f"{Path(sys.argv[0]).name}: {message}")
    return 1


def _exit_on_signal(number: int, _: object) -> NoReturn:
    with contextlib.suppress(OSError):  # not by sys.stderr, into which the program may be writing just now
        os.write(2, f"ended by {signal.Signals(number).name}\n".encode())
    sys.exit(128 + number)


def _open_standard_files() -> None:
    """Let writing to standard output end in OutputError, and writing to standard error never fail.

    A standard file that is closed (`>&-`) is opened, so that no other file gets its number, and a child process does
    not write its output there.
    """
    for descriptor, wrong_way in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_RDONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, wrong_way)  # gets the lowest number that is free, which is this one
    sys.stdout = _text(_Output(1, "wb", closefd=False))
    sys.stderr = _text(_Messages(2, "wb", closefd=False))


def _text(file: io.RawIOBase) -> io.TextIOWrapper:
    encoding = getattr(sys.__stdout__, "encoding", None) or "utf-8"
    return io.TextIOWrapper(io.BufferedWriter(file), encoding, "backslashreplace", line_buffering=file.isatty())


class _Output(io.FileIO):
    """Standard output. The first write that fails is reported, and later ones are dropped, so it is reported once."""

    _failed = False

    def write(self, data: Any, /) -> int:
        if self._failed:
            return memoryview(data).nbytes
        try:
            return super().write(data)
        except OSError as error:
            self._failed = True
            raise OutputError(f"cannot be written: {error.strerror}") from error


class _Messages(io.FileIO):
    """Standard error. If it cannot be written, there is nobody to tell, so nothing happens."""

    def write(self, data: Any, /) -> int:
        with contextlib.suppress(OSError):
            return super().write(data)
        return memoryview(data).nbytes
