#!/usr/bin/env python3
"""Audit a wheel: walk from the archive over the assets, the lock and every other member to what is installed."""

from __future__ import annotations

import runpy

if not __package__:
    runpy.run_path(f"{__file__.rpartition('/')[0]}/_path.py")

import argparse
import json
from pathlib import Path
from typing import Any

from scripts.asset_build.audit.chain import Link, audit
from scripts.asset_build.audit.errors import AuditError
from scripts.asset_build.lock import LOCK_NAME
from scripts.asset_build.paths import PROJECT
from scripts.machine.arguments import existing_file, existing_folder
from scripts.machine.program import run_program

EPILOG = """\
Each link of the chain is proven from those before it, and printed with its digest; the first that does not hold ends
the audit. Every byte of every member is compared with what this checkout makes of the assets; how a member is
compressed is not, only what it unpacks to. What a custom set's build recorded of itself is the wheel's own word.

With --installed, everything in the installed package and everything that names it is compared too: links, modes, byte
code (with its source, as this Python compiles it), the command's script, other spellings of the name, .pth files. Not
compared: what is in INSTALLER, REQUESTED, direct_url.json and uv_cache.json, other packages, and the interpreter.

Nothing of the wheel is run or imported, and nothing but this checkout is needed: it must be the checkout of the
wheel's version.

examples:
  python3 scripts/audit.py dist/*.whl
  python3 scripts/audit.py WHEEL --installed .venv/lib/python3.13/site-packages
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit status: 0 every link holds, 1 one does not, 2 usage."""
    options = _parser().parse_args(arguments)
    links: list[Link] = []
    failed = None
    try:
        for link in audit(options.wheel, PROJECT, options.lock, options.installed):
            links.append(link)
            if not options.json:
                print(f"ok      {link.name:<10} {link.digest}  {link.proven}")
    except AuditError as error:
        failed = error
    if options.json:
        print(json.dumps(_report(options.wheel, links, failed), indent=2))
    elif failed:
        print(f"BROKEN  {failed.link:<10} {failed}")
    return 1 if failed else 0


def _report(wheel: Path, links: list[Link], failed: AuditError | None) -> dict[str, Any]:
    return {
        "wheel": str(wheel),
        "holds": failed is None,
        "links": [vars(link) for link in links],
        "broken": failed.link if failed else None,
        "error": failed.fields() if failed else None,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("wheel", type=existing_file, help="the wheel to audit")
    lock = f"the lock of that version (default: {LOCK_NAME} here)"
    parser.add_argument("--lock", type=existing_file, default=PROJECT / LOCK_NAME, help=lock)
    installed = "a site-packages folder it is installed in"
    parser.add_argument("--installed", type=existing_folder, metavar="DIR", help=installed)
    parser.add_argument("--json", action="store_true", help="print the chain as JSON")
    return parser


if __name__ == "__main__":
    run_program(main)
