"""Run the build's hook for a wheel: a program for `frontend`, run by path in the build's own environment."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

from build import ProjectBuilder


def main(project: str, out: str) -> int:
    """Build the wheel of `project` into `out`; the exit status of the hook."""
    try:
        ProjectBuilder(project, runner=_run).build("wheel", out)
    except _HookFailed as failed:
        return failed.status
    return 0


class _HookFailed(BaseException):
    """A hook failed. `build` would turn an Exception into one of its own with a traceback, so this is none."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def _run(cmd: Sequence[str], cwd: str | None = None, extra_environ: Mapping[str, str] | None = None) -> None:
    """Run a hook with this program's standard error, because `build` would hide the progress."""
    done = subprocess.run(cmd, cwd=cwd, env={**os.environ, **(extra_environ or {})}, check=False)
    if done.returncode:
        raise _HookFailed(done.returncode)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
