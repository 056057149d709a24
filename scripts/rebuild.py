#!/usr/bin/env python3
"""Rebuild a wheel from this checkout, with the assets that are in it, and say whether the two are the same bytes."""

from __future__ import annotations

import runpy

if not __package__:
    runpy.run_path(f"{__file__.rpartition('/')[0]}/_path.py")

import argparse
import difflib
import hashlib
import json
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.asset_build import frontend
from scripts.asset_build.errors import BuildError
from scripts.asset_build.paths import PROJECT
from scripts.asset_build.wheel.sources import BUILD_INFO, tree_candidates
from scripts.machine import environments
from scripts.machine.arguments import existing_file
from scripts.machine.errors import SetupError
from scripts.machine.program import log, run_program
from supermachine_kernel._assets import ASSETS, SET

EPILOG = """\
The record of the assets' build, which the bill of materials is made from, is in the lock for a release. For a custom
set it is taken from the tree (kernel-build/ here or beside, or SUPERMACHINE_KERNEL_BUILD) if it is of these very
assets; without one the rebuilt bill of materials says "unknown", and differs from one that was made with it.

examples:
  python3 scripts/rebuild.py dist/*.whl
"""
DIFF_LINES = 40
"""How much of a text's difference is shown."""


class RebuildError(Exception):
    """Why the wheel could not be rebuilt."""


@dataclass(frozen=True)
class Difference:
    """One thing that differs: a member's name (or the wheel's), what of it, in the wheel and in the rebuilt one."""

    name: str
    what: str
    wheel: str
    rebuilt: str
    diff: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.what} differs", f"    wheel    {self.wheel}", f"    rebuilt  {self.rebuilt}"]
        return "\n".join([*lines, *(f"    {line}" for line in self.diff)])


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit status: 0 identical, 1 not, 2 usage."""
    options = _parser().parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory(prefix="supermachine-kernel-rebuild-") as folder:
            rebuilt = rebuild(options.wheel, Path(folder))
            differences = list(compare(options.wheel, rebuilt))
            digest = _sha256(rebuilt.read_bytes())
    except (RebuildError, SetupError) as error:
        print(f"rebuild.py: {error}", file=sys.stderr)
        return 1
    report = {
        "wheel": str(options.wheel),
        "sha256": _sha256(options.wheel.read_bytes()),
        "rebuilt_sha256": digest,
        "identical": not differences,
        "differences": [vars(difference) for difference in differences],
    }
    print(json.dumps(report, indent=2) if options.json else _text(report, differences))
    return 1 if differences else 0


def rebuild(wheel: Path, folder: Path) -> Path:
    """Build a wheel in `folder` from this checkout and the assets in `wheel`. Raises RebuildError or SetupError."""
    assets, out = folder / "set", folder / "out"
    _unpack_assets(wheel, assets)
    _add_build_info(assets)
    log("building the wheel again")
    python = environments.ensure("build")
    inside = {name: value for name, value in os.environ.items() if not name.startswith("SUPERMACHINE_")}
    inside |= {"SUPERMACHINE_ASSETS_DIR": str(assets), "SUPERMACHINE_CROSS_BUILD": "1"}
    try:
        return frontend.build_wheel(python, PROJECT, out, inside)
    except BuildError as error:
        raise RebuildError(f"{wheel}: its assets do not make a wheel: {error}") from error


def _unpack_assets(wheel: Path, folder: Path) -> None:
    folder.mkdir()
    try:
        with zipfile.ZipFile(wheel) as archive:
            for asset in ASSETS:
                (folder / asset.name).write_bytes(archive.read(f"supermachine_kernel/assets/{asset.name}"))
            damaged = archive.testzip()
    except (OSError, zipfile.BadZipFile, KeyError, NotImplementedError, RuntimeError, EOFError) as error:
        raise RebuildError(f"{wheel}: expected a wheel with the assets, found: {error}; fetch it again") from error
    if damaged:
        raise RebuildError(f"{wheel}: expected a whole archive, found {damaged} damaged; fetch it again")


def _add_build_info(assets: Path) -> None:
    """Take the tree's record along; the build itself ignores one that is not of these files."""
    for tree in tree_candidates(PROJECT, os.environ):
        record = tree / "out" / SET / BUILD_INFO
        if record.is_file():
            shutil.copy(record, assets)
            return


def compare(wheel: Path, rebuilt: Path) -> Iterator[Difference]:
    """Everything in which two wheels differ; nothing when they are the same bytes under the same name."""
    if wheel.name != rebuilt.name:
        yield Difference(wheel.name, "the file name", wheel.name, rebuilt.name)
    if wheel.read_bytes() == rebuilt.read_bytes():
        return
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(rebuilt) as new:
        differences = list(_compare_members(old, new))
    yield from differences
    if not differences:
        contents = _binary(wheel.read_bytes(), rebuilt.read_bytes())
        yield Difference(wheel.name, "the archive around its members", *contents)


def _compare_members(old: zipfile.ZipFile, new: zipfile.ZipFile) -> Iterator[Difference]:
    names, rebuilt_names = old.namelist(), new.namelist()
    for name in dict.fromkeys(names + rebuilt_names):
        if name not in names or name not in rebuilt_names:
            there = {True: "there", False: "missing"}
            yield Difference(name, "presence", there[name in names], there[name in rebuilt_names])
            continue
        content, rebuilt_content = old.read(name), new.read(name)
        if content != rebuilt_content:
            yield _compare_content(name, content, rebuilt_content)
        for what in ("mode", "date", "compression", "system"):
            one, other = (_attributes(archive.getinfo(name))[what] for archive in (old, new))
            if one != other:
                yield Difference(name, what, one, other)
    if sorted(names) == sorted(rebuilt_names) and names != rebuilt_names:
        position = next(number for number, pair in enumerate(zip(names, rebuilt_names)) if pair[0] != pair[1])
        yield Difference("members", f"order, from number {position + 1},", names[position], rebuilt_names[position])
    elif len(names) != len(set(names)):
        twice = next(name for name in names if names.count(name) > 1)
        yield Difference(twice, "how often it is there", str(names.count(twice)), str(rebuilt_names.count(twice)))


def _compare_content(name: str, old: bytes, new: bytes) -> Difference:
    """As a diff where both are text, else by size, digest and the first byte that differs."""
    try:
        if b"\0" in old + new:
            raise ValueError
        lines, rebuilt_lines = (content.decode().splitlines() for content in (old, new))
    except ValueError:
        return Difference(name, "content", *_binary(old, new))
    diff = [line.rstrip("\n") for line in difflib.unified_diff(lines, rebuilt_lines, "wheel", "rebuilt", n=1)]
    if not diff:  # line ends
        return Difference(name, "content", *_binary(old, new))
    if len(diff) > DIFF_LINES:
        diff = [*diff[:DIFF_LINES], f"... {len(diff) - DIFF_LINES} more lines"]
    return Difference(name, "content", f"SHA-256 {_sha256(old)}", f"SHA-256 {_sha256(new)}", tuple(diff))


def _binary(old: bytes, new: bytes) -> tuple[str, str]:
    shorter = min(len(old), len(new))
    offset = next((number for number in range(shorter) if old[number] != new[number]), shorter)

    def described(content: bytes) -> str:
        found = content[offset : offset + 8].hex() or "the end"
        return f"{len(content)} bytes, SHA-256 {_sha256(content)}, at offset {offset}: {found}"

    return described(old), described(new)


def _attributes(entry: zipfile.ZipInfo) -> dict[str, str]:
    return {
        "mode": f"{entry.external_attr >> 16:o}",
        "date": "{}-{:02}-{:02} {:02}:{:02}:{:02}".format(*entry.date_time),
        "compression": {0: "stored", 8: "deflated"}.get(entry.compress_type, str(entry.compress_type)),
        "system": str(entry.create_system),
    }


def _text(report: dict[str, Any], differences: list[Difference]) -> str:
    if not differences:
        return f"identical: {report['wheel']}\nSHA-256    {report['sha256']}"
    return "\n".join([*map(str, differences), f"not identical: {report['wheel']}, {len(differences)} differences"])


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("wheel", type=existing_file, help="the wheel to rebuild")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


if __name__ == "__main__":
    run_program(main)
