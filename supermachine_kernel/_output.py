"""Print for people and for programs, also where standard output is closed, full or of another encoding."""

import codecs
import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any, Optional, TextIO, Union

from ._errors import SupermachineKernelError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PROGRAM = "supermachine-kernel"
FORMAT = 1
"""Of the --json output, which docs/cli.schema.json describes: raised when a field changes its meaning or goes."""

_WIDTH = 80
_COLOURS = {"ok": 32, "kept": 32, "warn": 33, "mended": 33, "written": 33, "bad": 31}  # ECMA-48, SGR


class OutputError(SupermachineKernelError):
    """Standard output takes nothing more."""


def prepare_streams() -> None:
    """Have streams to print to that take every name of a file."""
    # Python has None for a stream that was closed at its start (`>&-`), and print() takes None for stdout.
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.open(os.devnull, os.O_WRONLY), "w", closefd=False))  # noqa: SIM115
    if hasattr(sys.stdout, "reconfigure"):
        codecs.register_error("supermachine-kernel", _printable)
        sys.stdout.reconfigure(errors="supermachine-kernel")


def _printable(error: UnicodeError) -> "tuple[Union[str, bytes], int]":
    """A path is bytes, and goes out as it is; what the stream's encoding lacks is written as an escape."""
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.backslashreplace_errors(error)


def write(text: str, end: str = "\n") -> None:
    """Print `text`. Raises BrokenPipeError where the reader has gone, else OutputError."""
    with _naming_standard_output():
        print(text, end=end)


def flush() -> None:
    """Have printed what is still buffered. Raises as `write` does."""
    with _naming_standard_output():
        sys.stdout.flush()


@contextlib.contextmanager
def _naming_standard_output() -> "Iterator[None]":
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        found, cure = f"an error: {error.strerror}", "give it another place to go to"
        raise OutputError("standard output", "to write to it", found, cure) from error


def discard(stream: "TextIO") -> None:
    """Let what `stream` still has buffered go nowhere, so that it does not fail again when the interpreter ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def say(kind: str, message: str) -> None:
    """Print one line on standard error, if that takes it."""
    with contextlib.suppress(OSError):
        print(f"{PROGRAM}: {kind}: {_harmless(' '.join(message.splitlines()))}", file=sys.stderr)
    flush_errors()


def _harmless(text: str) -> str:
    """The text without what a terminal would act on: parts of it may be out of a stranger's file."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def flush_errors() -> None:
    """Have printed what standard error still has buffered, or let it go nowhere."""
    try:
        sys.stderr.flush()
    except OSError:
        discard(sys.stderr)


def print_json(command: str, **fields: "Any") -> None:
    """Print the one document of `command`."""
    import json

    write(json.dumps({**fields, "format": FORMAT, "command": command}, indent=2, sort_keys=True))


def print_table(rows: "Sequence[tuple[str, ...]]") -> None:
    """Print columns as wide as they need; a number stands to the right, a state has its colour."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    numbers = [any(cell.isdecimal() for cell in column) for column in zip(*rows)]
    for row in rows:
        cells = [
            cell.rjust(width) if number else cell.ljust(width) for cell, width, number in zip(row, widths, numbers)
        ]
        write(_coloured("  ".join(cells).rstrip(), row[-1]))


def print_finding(subject: str, status: str, found: str, cure: "Optional[str]") -> None:
    """Print one finding of doctor, wrapped, with its cure below."""
    import textwrap

    write(f"{_coloured(f'{status:4}', status)} {subject:18}", end="  ")
    indent = " " * 25
    for mark, text in (("", found), ("-> ", cure)):
        if text:
            wrap = textwrap.TextWrapper(
                _WIDTH,
                initial_indent=indent + mark,
                subsequent_indent=indent,
                break_long_words=False,
                break_on_hyphens=False,
            )
            write(wrap.fill(_harmless(text))[0 if mark else len(indent) :])


def _coloured(text: str, state: str) -> str:
    """In colour on a terminal, unless NO_COLOR (no-color.org) or a dumb terminal speaks against it."""
    colour = _COLOURS.get(state)
    if not colour or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not sys.stdout.isatty():
        return text
    return f"\x1b[{colour}m{text}\x1b[0m"
