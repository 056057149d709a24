#!/usr/bin/env python3
"""Make a release: stage its files, lock a published one, or archive the corresponding source."""

from __future__ import annotations

import runpy

if not __package__:
    runpy.run_path(f"{__file__.rpartition('/')[0]}/_path.py")

import argparse
import hashlib
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.asset_build.atomic_write import write_atomically
from scripts.asset_build.errors import BuildError
from scripts.asset_build.guest_sets import GuestSet, named_sets
from scripts.asset_build.lock import LOCK_NAME, LockedSet, read_lock_file
from scripts.asset_build.paths import PROJECT
from scripts.asset_build.release_layout import SUMS_NAME, release_folder
from scripts.asset_build.wheel.sources import resolve
from scripts.asset_build.wheel.verify import verify_set
from scripts.machine import environments
from scripts.machine.arguments import add_set, chosen_name, output_file, output_folder
from scripts.machine.errors import SetupError
from scripts.machine.program import log, report_error, run_program
from supermachine_kernel._version import VERSION

if TYPE_CHECKING:
    from scripts.asset_build.release.publish import Change

EPILOG = """\
A release of this version is the folder v<version>/ with <set>-<asset>.xz for each asset, and SHA256SUMS; any server
(or folder) that has it is a base for SUPERMACHINE_RELEASE_URL. assets.lock.json in the repository holds size and
SHA-256 of each file: builds with other files have a version with the label +custom.

examples:
  python3 scripts/release.py stage --out dist/release --dry-run   what would be staged, and change in the lock
  python3 scripts/release.py stage --out dist/release             from the sets that builds would take (see wheel.py)
  python3 scripts/release.py lock --from https://mirror.example/supermachine
  python3 scripts/release.py source --out dist
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit status: 0 done, 1 not, 2 usage."""
    options = _parser().parse_args(arguments)
    try:
        if not all(importlib.util.find_spec(name) for name in ("requests", "tqdm")):
            os.execv(python := str(environments.ensure("build")), [python, *sys.argv])
        report = options.run(options)
    except (BuildError, SetupError) as error:
        return report_error(error, as_json=options.json)
    except ImportError as error:  # a Python that was built without liblzma, say
        lacking = SetupError(sys.executable, f"the module {error.name}", "none", "use a Python that has it")
        return report_error(lacking, as_json=options.json)
    except OSError as error:
        place = error.filename or getattr(options, "out", None) or options.lock  # a full disk names no file
        found = error.strerror or str(error)
        explained = SetupError(str(place), "a place to read and write", found, "name another folder")
        return report_error(explained, as_json=options.json)
    print(json.dumps(report, indent=2) if options.json else _text(report))
    return 0


def stage(options: argparse.Namespace) -> dict[str, Any]:
    """Pack the sets that builds would take into the release layout, and lock them."""
    from scripts.asset_build.release.publish import pack_release, plan_lock, sums_of

    locked, files = [], {}
    for guest_set in named_sets(chosen_name(options)):
        source = resolve(PROJECT, {**os.environ, "SUPERMACHINE_SET": guest_set.name})
        log(f"verifying the set {guest_set.name} of the {source.kind}")
        verified = verify_set(source, _locked(options.lock, guest_set))
        log("packing (the kernel takes a while)")
        packed, its_files = pack_release(verified)
        locked.append(packed)
        files.update(its_files)
    change = plan_lock(options.lock, locked, replace=options.replace)
    files[SUMS_NAME] = sums_of(change.lock)
    folder = options.out / release_folder(VERSION)
    report = {
        "version": VERSION,
        "set_digests": {each.name: each.digest for each in locked},
        "folder": str(folder),
        "files": {name: _file(folder / name, content) for name, content in files.items()},
        **_lock_report(change, options.dry_run),
    }
    if not options.dry_run:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_atomically(folder / name, content)
        change.write()
    return report


def lock(options: argparse.Namespace) -> dict[str, Any]:
    """Lock the release that is published at a base, every file of it checked."""
    from scripts.asset_build.release.publish import lock_published, plan_lock

    locked = [
        lock_published(options.base, guest_set, os.environ, _locked(options.lock, guest_set))
        for guest_set in named_sets(chosen_name(options))
    ]
    change = plan_lock(options.lock, locked, replace=options.replace)
    if not options.dry_run:
        change.write()
    report = {"version": VERSION, "set_digests": {each.name: each.digest for each in locked}}
    return {**report, **_lock_report(change, options.dry_run)}


def source(options: argparse.Namespace) -> dict[str, Any]:
    """Write the corresponding source of the sets into a folder: an archive for each."""
    from scripts.asset_build.release import source_archive

    sets = named_sets(chosen_name(options))
    return {"archives": [str(source_archive.write(options.out, guest_set)) for guest_set in sets]}


def _locked(path: Path, guest_set: GuestSet) -> LockedSet | None:
    return read_lock_file(path).set(guest_set.name) if path.exists() else None


def _lock_report(change: Change, dry_run: bool) -> dict[str, Any]:
    return {"lock": str(change.path), "changes": change.lines, "written": not dry_run}


def _file(path: Path, content: bytes) -> dict[str, Any]:
    """A file to be staged, and how it stands to the one that is there."""
    state = "new"
    if path.is_file():
        state = "same" if path.read_bytes() == content else "changed"
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest(), "state": state}


def _text(report: dict[str, Any]) -> str:
    if "archives" in report:
        return "\n".join(report["archives"])
    lines = [f"version     {report['version']}"]
    lines += [f"set digest  {digest} ({name})" for name, digest in report["set_digests"].items()]
    if "files" in report:
        lines.append(f"folder      {report['folder']}")
        lines += [
            f"  {name:<29} {file['size']:>9}  {file['sha256']}  {file['state']}"
            for name, file in report["files"].items()
        ]
    lines.append(f"lock        {report['lock']}" + ("" if report["changes"] else ": no change"))
    lines += [f"  {change}" for change in report["changes"]]
    if not report["written"]:
        lines.append("dry run: nothing was written")
    return "\n".join(lines)


def _base(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("expected a URL or a folder, found nothing")
    return text


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, epilog=EPILOG, formatter_class=raw)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Any) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=run.__doc__, description=run.__doc__)
        add_set(added, default="all")
        added.add_argument("--json", action="store_true", help="print what was done as JSON")
        added.set_defaults(run=run)
        return added

    staged = command("stage", stage)
    staged.add_argument("--out", type=output_folder, required=True, help="folder for v<version>/: the release base")
    locked = command("lock", lock)
    locked.add_argument(
        "--from", dest="base", type=_base, required=True, metavar="BASE", help="https, http or file URL, or folder"
    )
    for writes_lock in (staged, locked):
        writes_lock.add_argument(
            "--lock",
            type=output_file,
            default=PROJECT / LOCK_NAME,
            help=f"the lock (default: {LOCK_NAME} here)",
        )
        writes_lock.add_argument("--dry-run", action="store_true", help="show what would change, write nothing")
        writes_lock.add_argument(
            "--replace", action="store_true", help="let another set take the place of the one locked for this version"
        )
    command("source", source).add_argument("--out", type=output_folder, required=True, help="folder for the archive")
    return parser


if __name__ == "__main__":
    run_program(main)
