"""How a program of the project starts and ends."""

from __future__ import annotations

import os
import signal
import sys
from typing import Callable, NoReturn


def run_program(main: Callable[[], int]) -> NoReturn:
    """End this process with the status that `main` returns.

    An interrupt (Ctrl-C) and a reader that has closed standard output end it with status 1, without a traceback.
    SIGTERM and SIGHUP end it with status 128 + the signal's number, once every `with` and `finally` has run.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _exit_on_signal)
    try:
        status = main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        log("interrupted")
        status = 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python flushes standard output once more when it ends
        status = 1
    sys.exit(status)


def log(message: str) -> None:
    """Print progress to standard error: standard output is for results."""
    print(message, file=sys.stderr, flush=True)


def _exit_on_signal(number: int, _: object) -> NoReturn:
    log(f"ended by {signal.Signals(number).name}")
    sys.exit(128 + number)
