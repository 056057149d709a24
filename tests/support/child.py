"""Python in a process of its own, with the installed module or a copy of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TRY_EACH = """\
for use in uses:
    try:
        use()
    except Exception as error:
        print(type(error).__name__, error.subject, "|", error.found)
    else:
        print("done")
"""
"""Code that calls each of `uses`, and prints "done", or the type, subject and finding of its error."""


def python(
    code: str, *arguments: object, site: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `code`, warnings as errors; `site` is where it finds the module, else where this process does."""
    return _run(["-c", code, *map(str, arguments)], site, environment)


def command_line(*arguments: object, site: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the module's command line."""
    return _run(["-m", "supermachine_kernel", *map(str, arguments)], site, environment)


def error_of(code: str, *arguments: object, site: Path | None = None, **environment: str) -> str:
    """The module's own error that `code` ends in, as `Type: message`; anything else that it does is a failure."""
    (message,) = errors_of([code], *arguments, site=site, **environment)
    return message


def errors_of(codes: list[str], *arguments: object, site: Path | None = None, **environment: str) -> list[str]:
    """The error of each of `codes`, all run in one process."""
    program = f"""\
import supermachine_kernel, sys
for code in {codes!r}:
    try:
        exec(code)
    except supermachine_kernel.SupermachineKernelError as error:
        print(type(error).__name__ + ":", error)
    else:
        sys.exit("no error: " + code)
"""
    done = python(program, *arguments, site=site, **environment)
    assert done.returncode == 0, done.stderr
    messages = done.stdout.splitlines()
    assert len(messages) == len(codes), f"not one line each: {done.stdout}"
    return messages


def copy_of(installed: Path, folder: Path) -> Path:
    """A copy of the installed module, to be damaged; a folder to have on the path."""
    site = folder / "site"
    shutil.copytree(installed, site, ignore=shutil.ignore_patterns("__pycache__"))
    return site


def environment_with(site: Path | None, changes: dict[str, str]) -> dict[str, str]:
    """This process's environment, changed; an empty value takes a variable out."""
    merged = {**os.environ, **changes}
    if site is not None:
        # Byte code is known by size and second: a file that a test changes again within one would stay as it was.
        merged["PYTHONDONTWRITEBYTECODE"] = "1"
        merged["PYTHONPATH"] = str(site)
    return {name: value for name, value in merged.items() if value or name not in changes}


def _run(arguments: list[str], site: Path | None, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    # Python looks for modules where it is started; there are none, and what it leaves there it should not have.
    with tempfile.TemporaryDirectory() as empty:
        done = subprocess.run(
            [sys.executable, "-W", "error", *arguments],
            cwd=empty,
            env=environment_with(site, environment),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert os.listdir(empty) == []
        return done
