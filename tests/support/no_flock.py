"""A flock(2) that fails as on a network file system: a library for LD_PRELOAD."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

_FLOCK = """\
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>

/* As NFS answers: EBADF for an exclusive lock of a descriptor that cannot write (flock(2), NFS details). */
int flock(int fd, int operation)
{
    int wanted = atoi(getenv("FLOCK_ERRNO"));
    int mode = fcntl(fd, F_GETFL) & O_ACCMODE;
    if (wanted == EBADF && ((operation & LOCK_SH) || mode != O_RDONLY))
        return 0;
    errno = wanted;
    return -1;
}
"""


def variables(folder: Path, error: int) -> dict[str, str]:
    """What makes flock() fail with `error`, with EBADF only where NFS would; `folder` gets the library."""
    source, library = folder / "flock.c", folder / "flock.so"
    source.write_text(_FLOCK)
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler, "no C compiler; install gcc"
    subprocess.run([compiler, "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    return {"LD_PRELOAD": str(library), "FLOCK_ERRNO": str(error)}
