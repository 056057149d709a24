"""Build the wheel of a checkout as a frontend does, in an environment that has what the build requires."""

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from supermachine_kernel._assets import KNOWN_ASSETS

from .errors import BuildError

ERROR_FILE = "SUPERMACHINE_BUILD_ERROR"
"""The variable that names the file into which the build writes why it stopped, as JSON."""

_CHILD = Path(__file__).with_name("frontend_child.py")
_PATHS = {"SUPERMACHINE_ASSETS_DIR", "SUPERMACHINE_KERNEL_BUILD", "SUPERMACHINE_CACHE_DIR"}
_PATHS |= {asset.variable for asset in KNOWN_ASSETS}


def build_wheel(python: Path, project: Path, out: Path, environ: Mapping[str, str]) -> Path:
    """Build the wheel of `project` into the folder `out`; return its path.

    `python` is the interpreter of an environment with the package `build` and the build's requirements. What the
    build says on standard error, the progress of a download among it, is shown as it comes. Raises BuildError.
    """
    with tempfile.TemporaryDirectory(prefix="supermachine-kernel-") as folder:
        log, error = Path(folder, "log"), Path(folder, "error")
        command = [str(python), "-I", str(_CHILD), str(project.absolute()), str(out.absolute())]
        variables = {**_for_the_child(environ), ERROR_FILE: str(error)}
        with log.open("wb") as file:
            done = subprocess.run(command, env=variables, stdout=file, check=False)
        if error.exists():
            raise BuildError(**json.loads(error.read_text(encoding="utf-8")))
        if done.returncode:
            said = log.read_text(encoding="utf-8", errors="replace").strip()
            raise BuildError(
                str(project), "a build that ends with a message", f"status {done.returncode} and: {said or 'nothing'}"
            )
    (wheel,) = out.glob("*.whl")
    return wheel


def _for_the_child(environ: Mapping[str, str]) -> dict[str, str]:
    """The caller's variables, without Python's own; relative paths in them are those of the caller's folder."""
    variables = {name: value for name, value in environ.items() if not name.startswith("PYTHON")}
    for name in _PATHS & variables.keys():
        if variables[name]:
            variables[name] = os.path.abspath(variables[name])
    base = variables.get("SUPERMACHINE_RELEASE_URL", "")
    if os.path.isdir(base):
        variables["SUPERMACHINE_RELEASE_URL"] = os.path.abspath(base)
    return variables
