"""The project's folder in the user's cache, where programs keep what they make once."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from ..asset_build.errors import BuildError
from ..asset_build.fetch.cache import user_cache
from ..asset_build.file_lock import file_lock
from .errors import SetupError
from .program import log


def cache_home() -> Path:
    """The project's folder in the user's cache. Raises SetupError where there is no home folder."""
    try:
        return user_cache(os.environ)
    except BuildError as error:
        raise SetupError(str(error)) from error


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of that file, alone on this machine. Raises SetupError if the file cannot be made.

    Where the file system has no locks, the work goes on after a line that says so.
    """
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            not_held = stack.enter_context(file_lock(path))
        except OSError as error:
            raise SetupError(
                f"{path.parent}: expected a cache folder to write to, found: {error.strerror}; "
                "set XDG_CACHE_HOME to one"
            ) from error
        if not_held:
            log(f"warning: {path}: cannot be locked ({not_held}); run one program of this project at a time")
        yield
