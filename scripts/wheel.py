#!/usr/bin/env python3
"""Build the wheel and check it: from the assets that are there, or from source."""

from __future__ import annotations

import runpy

if not __package__:
    runpy.run_path(f"{__file__.rpartition('/')[0]}/_path.py")

import argparse
import ast
import json
import os
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from scripts.asset_build import frontend
from scripts.asset_build.atomic_write import write_atomically
from scripts.asset_build.audit.chain import audit_installed, audit_wheel
from scripts.asset_build.audit.errors import AuditError
from scripts.asset_build.audit.reader import PACKAGE, Wheel, read_wheel
from scripts.asset_build.errors import BuildError
from scripts.asset_build.guest_sets import GuestSet, named_sets
from scripts.asset_build.lock import LOCK_NAME
from scripts.asset_build.paths import PROJECT
from scripts.machine import environments
from scripts.machine.arguments import add_set, chosen_name, output_folder
from scripts.machine.build import build_assets
from scripts.machine.errors import SetupError, WheelError
from scripts.machine.install import install
from scripts.machine.program import log, report_error, run_program
from supermachine_kernel._assets import KNOWN_ASSETS

EPILOG = """\
The assets come from the first of these that is there:
  1. override  SUPERMACHINE_ASSETS_DIR, a folder with the whole set (one file each: SUPERMACHINE_KERNEL_PATH,
               SUPERMACHINE_INIT_OCI_PATH, SUPERMACHINE_BUSYBOX_PATH, SUPERMACHINE_AGENT_PATH,
               SUPERMACHINE_SMPARK_KO_PATH)
  2. tree      SUPERMACHINE_KERNEL_BUILD, else kernel-build/ here, else ../kernel-build/
  3. release   the files that assets.lock.json locks, from SUPERMACHINE_RELEASE_URL or the GitHub release

examples:
  python3 scripts/wheel.py --from-source          build the assets, then the wheel
  python3 scripts/wheel.py --set all              a wheel of each guest set
  python3 scripts/wheel.py --out /tmp/wheels --json
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit status: 0 a checked wheel, 1 none, 2 usage."""
    options = _parser().parse_args(arguments)
    try:
        if options.from_source:
            _refuse_other_sources()
        reports = [_one_wheel(options, guest_set) for guest_set in named_sets(chosen_name(options))]
    except (BuildError, WheelError, SetupError) as error:
        return report_error(error, as_json=options.json)
    if options.json:
        print(json.dumps(reports[0] if len(reports) == 1 else reports, indent=2))
    else:
        print("\n\n".join(map(_table, reports)))
    return 0


def _one_wheel(options: argparse.Namespace, guest_set: GuestSet) -> dict[str, Any]:
    if options.from_source:
        build_assets(guest_set.name)
    return build_wheel(options.out, guest_set)


def _refuse_other_sources() -> None:
    """A wheel `--from-source` has what was built here, and nothing that wins over it."""
    variables = ["SUPERMACHINE_ASSETS_DIR", *(asset.variable for asset in KNOWN_ASSETS)]
    winning = [name for name in variables if os.environ.get(name)]
    if "SUPERMACHINE_KERNEL_BUILD" in os.environ:  # set empty, it means no tree
        winning.append("SUPERMACHINE_KERNEL_BUILD")
    if winning:
        expected, found = "to build and take the tree kernel-build/", f"{', '.join(winning)} set"
        raise WheelError("--from-source", expected, found, "unset it, or leave --from-source away")


def build_wheel(out: Path, guest_set: GuestSet) -> dict[str, Any]:
    """Build, check, and put the wheel of the set into `out`; what it is, for `--json`.

    Raises BuildError, WheelError or SetupError.
    """
    python = environments.ensure("build")
    out = out.absolute()
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()  # it can be written to, which is told before the build and not after it
    except OSError as error:
        raise _not_writable(out, error) from error
    with tempfile.TemporaryDirectory(prefix="supermachine-kernel-wheel-") as folder:
        log(f"building the wheel of {guest_set.name}")
        built = frontend.build_wheel(python, PROJECT, Path(folder), {**os.environ, "SUPERMACHINE_SET": guest_set.name})
        report = _check(python, built)
        final = out / built.name
        content = built.read_bytes()
        try:
            write_atomically(final, content)
        except OSError as error:
            raise _not_writable(final, error) from error
    return {"wheel": str(final), **report}


def _not_writable(path: Path, error: OSError) -> WheelError:
    found = error.strerror or str(error)
    return WheelError(str(path), "a place that can be written", found, "name another folder with --out")


def _check(python: Path, path: Path) -> dict[str, Any]:
    """Install the wheel as pip does on its machines, audit both, and let the module verify itself; what it is."""
    log("checking the wheel")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "site"
        try:
            with ThreadPoolExecutor() as pool:  # pip takes as long as the audit, and runs beside it
                installing = pool.submit(install, python, path, target)
                wheel = read_wheel(path)
                links = list(audit_wheel(wheel, PROJECT, PROJECT / LOCK_NAME))
                installing.result()
            links.append(audit_installed(wheel, target))
        except AuditError as error:
            raise WheelError(path.name, "a wheel that the audit passes", str(error)) from error
        command = [str(python), "-m", "supermachine_kernel", "verify"]
        inside = {**os.environ, "PYTHONPATH": str(target), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, cwd=folder, env=inside, capture_output=True, text=True, check=False)
        if done.returncode:
            found = (done.stderr or done.stdout).strip()
            raise WheelError(path.name, "a wheel whose module verifies its assets once installed", found)
    log(f"  {len(links)} links of the audit hold")
    return _report(wheel)


def _report(wheel: Wheel) -> dict[str, Any]:
    source = wheel.contents[f"{PACKAGE}/_manifest.py"].decode()
    manifest = ast.literal_eval(source.partition("MANIFEST = ")[2])
    kept = ("set_digest", "origin", "kernel_release", "af_tsi", "assets")
    return {
        "version": manifest["version"],
        "set": manifest["set"],
        "tag": wheel.tag,
        "size": len(wheel.data),
        "sha256": wheel.sha256,
        **{name: manifest[name] for name in kept},
    }


def _table(report: dict[str, Any]) -> str:
    tsi = "with AF_TSI" if report["af_tsi"] else "without AF_TSI"
    lines = [
        f"wheel       {report['wheel']}",
        f"tag         {report['tag']}",
        f"size        {report['size']} bytes",
        f"SHA-256     {report['sha256']}",
        f"set digest  {report['set_digest']} ({report['origin']})",
        f"kernel      {report['kernel_release']} {tsi}",
        "",
        f"{'asset':<19} {'bytes':>9} {'mode':>6}  SHA-256",
    ]
    for name, asset in report["assets"].items():
        lines.append(f"{name:<19} {asset['size']:>9} {asset['mode']:#6o}  {asset['sha256']}")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_set(parser, default="this")
    parser.add_argument("--from-source", action="store_true", help="build the assets first (kernel-build/)")
    parser.add_argument(
        "--out", type=output_folder, default=PROJECT / "dist", help="where the wheel goes (default: dist/)"
    )
    parser.add_argument("--json", action="store_true", help="print what was built as JSON")
    return parser


if __name__ == "__main__":
    run_program(main)
