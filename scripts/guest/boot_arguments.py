"""The values of boot.py's options. Each raises argparse.ArgumentTypeError for what it cannot take."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from scripts.guest.oci_run import Volume
from scripts.machine.arguments import existing


def source(text: str) -> Path:
    """A wheel, or a folder."""
    path = existing(text)
    if not path.is_dir() and not (path.is_file() and path.suffix == ".whl"):
        raise argparse.ArgumentTypeError(f"{text}: expected a wheel or a folder with the assets of a set")
    return path.absolute()


def cpus(text: str) -> int:
    """A number of CPUs."""
    # The kernel is built for 64; QEMU emulates them on the few of this machine.
    if not text.isdigit() or not 1 <= int(text) <= 8:
        raise argparse.ArgumentTypeError(f"{text}: expected a number from 1 to 8")
    return int(text)


def seconds(text: str) -> float:
    """A time limit."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: expected a number of seconds above 0")
    return number


def memory(text: str) -> str:
    """A size of memory as QEMU has it."""
    if not re.fullmatch(r"[1-9][0-9]{0,6}[MG]", text):
        raise argparse.ArgumentTypeError(f"{text}: expected a size such as 512M or 2G")
    return text


def volume(text: str) -> Volume:
    """A file and where the image finds it."""
    file, _, rest = text.partition(":")
    path, _, mode = rest.partition(":")
    if not path.startswith("/") or mode not in ("", "ro", "rw"):
        raise argparse.ArgumentTypeError(f"{text}: expected FILE:PATH or FILE:PATH:ro, with an absolute PATH")
    if not Path(file).is_file():
        raise argparse.ArgumentTypeError(f"{file}: expected a file with an ext4 or XFS file system, found none")
    return Volume(Path(file).absolute(), path, read_only=mode == "ro")
