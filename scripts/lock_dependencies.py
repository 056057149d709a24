#!/usr/bin/env python3
"""Lock what the project's environments have: every package, by version and SHA-256, for all supported Pythons."""

from __future__ import annotations

import runpy

if not __package__:
    runpy.run_path(f"{__file__.rpartition('/')[0]}/_path.py")

import argparse
import os
import re
import subprocess
import tempfile
from pathlib import Path

from scripts.asset_build.paths import PROJECT
from scripts.machine import environments
from scripts.machine.errors import SetupError
from scripts.machine.program import log, report_error, run_program

KEPT = {"UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_NATIVE_TLS", "UV_SYSTEM_CERTS"}
"""Settings of uv that say where the index is, and whom to trust."""

EPILOG = """\
Run it after a change of the dependency groups in pyproject.toml, or to take newer packages (--upgrade). It asks the
package index, and writes scripts/machine/requirements/. The environments in use are made anew at their next use.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit status: 0 locked, 1 not, 2 usage."""
    options = _parser().parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory(prefix="supermachine-kernel-lock-") as folder:
            requires = Path(folder, "build-requires.txt")
            requires.write_text("\n".join(build_requires()) + "\n")
            for lock in sorted(environments.LOCKS.glob("*.txt")):
                log(f"locking {lock.relative_to(PROJECT)}")
                lock_group(lock, requires, upgrade=options.upgrade)
    except SetupError as error:
        return report_error(error, as_json=False)
    return 0


def build_requires() -> list[str]:
    """What the build of the wheel requires: the list of pyproject.toml's build-system."""
    found = re.search(r"^requires = \[(.*?)\]", (PROJECT / "pyproject.toml").read_text(), re.MULTILINE | re.DOTALL)
    if found is None:
        raise SetupError("pyproject.toml", "build-system.requires", "none")
    return re.findall(r'"([^"]+)"', found[1])


def lock_group(lock: Path, requires: Path, *, upgrade: bool) -> None:
    """Write the lock of the dependency group whose name it has. Raises SetupError.

    The build's own requirements win over those of other packages: cx_Freeze for Python 3.9 wants an older setuptools,
    and runs with this one.
    """
    command = [str(environments.ensure("index").with_name("uv")), "pip", "compile", "--quiet", "--universal"]
    command += ["--generate-hashes", "--no-annotate", "--python-version", "3.9", "--override", str(requires)]
    command += ["--custom-compile-command", "python3 scripts/lock_dependencies.py", "--output-file", str(lock)]
    command += ["--group", f"pyproject.toml:{lock.stem}", *(["--upgrade"] if upgrade else [])]
    if lock.stem in ("build", "test"):
        command.append(str(requires))
    # The user's settings of uv could add packages, or take others.
    inside = {name: value for name, value in os.environ.items() if not name.startswith("UV_") or name in KEPT}
    command.append("--no-config")
    done = subprocess.run(command, cwd=PROJECT, env=inside, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SetupError(str(lock), "a set of packages that fit together", done.stderr.strip())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--upgrade", action="store_true", help="take the newest packages that fit, not the locked ones")
    return parser


if __name__ == "__main__":
    run_program(main)
