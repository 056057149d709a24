"""Arguments that several programs take, for argparse: what is wrong with one is a line of usage."""

from __future__ import annotations

import argparse
import os
import stat
from pathlib import Path

from ..asset_build.guest_sets import GUEST_SETS, chosen_set


def add_set(parser: argparse.ArgumentParser, *, default: str) -> None:
    """Add `--set`, a guest set or "all"; `default` is "this" (the set of this machine) or "all"."""
    told = "that of this machine" if default == "this" else "all"
    help_text = f"the guest set, or all of them (default: SUPERMACHINE_SET, else {told})"
    parser.add_argument("--set", dest="guest_set", choices=[*GUEST_SETS, "all"], help=help_text)
    parser.set_defaults(default_set=default)


def chosen_name(options: argparse.Namespace) -> str:
    """The set that `--set` names, or "all". Raises BuildError for a wrong SUPERMACHINE_SET."""
    if options.guest_set:
        return str(options.guest_set)
    if options.default_set == "all" and not os.environ.get("SUPERMACHINE_SET"):
        return "all"
    return chosen_set(os.environ).name


def existing_file(text: str) -> Path:
    """The path of a file that is there."""
    path, mode = _path_and_mode(text)
    if mode is None or not stat.S_ISREG(mode):
        raise argparse.ArgumentTypeError(f"{path}: expected a file, found {_kind(mode)}")
    return path


def existing_folder(text: str) -> Path:
    """The path of a folder that is there."""
    path, mode = _path_and_mode(text)
    if mode is None or not stat.S_ISDIR(mode):
        raise argparse.ArgumentTypeError(f"{path}: expected a folder, found {_kind(mode)}")
    return path


def existing(text: str) -> Path:
    """The path of a file or a folder that is there."""
    path, mode = _path_and_mode(text)
    if mode is None:
        raise argparse.ArgumentTypeError(f"{path}: expected a file or a folder, found nothing")
    return path


def output_folder(text: str) -> Path:
    """The path of a folder to write to, which need not be there yet."""
    path, mode = _path_and_mode(text)
    if mode is not None and not stat.S_ISDIR(mode):
        raise argparse.ArgumentTypeError(f"{path}: expected a folder, found {_kind(mode)}")
    return path


def output_file(text: str) -> Path:
    """The path of a file to write, which need not be there yet."""
    path, mode = _path_and_mode(text)
    if mode is not None and not stat.S_ISREG(mode):
        raise argparse.ArgumentTypeError(f"{path}: expected a file, found {_kind(mode)}")
    return path


def _path_and_mode(text: str) -> tuple[Path, int | None]:
    """The path, and the mode of what is there; None where nothing is."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path, found an empty text; an empty variable, perhaps")
    path = Path(text)
    try:
        return path, path.stat().st_mode
    except FileNotFoundError:
        return path, None
    except (OSError, ValueError) as error:  # ValueError: a zero byte
        shown = text if len(text) <= 100 else f"{text[:100]}... ({len(text)} characters)"
        reason = error.strerror if isinstance(error, OSError) else error
        raise argparse.ArgumentTypeError(f"{shown}: expected a path that can be looked at, found: {reason}") from error


def _kind(mode: int | None) -> str:
    if mode is None:
        return "nothing"
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a file" if stat.S_ISREG(mode) else "neither a file nor a folder"


def ports(text: str) -> tuple[int, int]:
    """The guest's port and this machine's, from HOST:GUEST."""
    found = [int(number) for number in text.split(":") if number.isascii() and number.isdigit() and len(number) < 6]
    if text.count(":") != 1 or len(found) != 2 or not all(0 < port < 65536 for port in found):
        raise argparse.ArgumentTypeError(f"{text}: expected HOST:GUEST, two numbers from 1 to 65535")
    return found[1], found[0]
