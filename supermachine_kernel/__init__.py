"""The guest side of the supermachine microVM runtime: the kernel and what runs beside it in a guest."""

import _thread
import os
import sys

_LOADING = _thread.RLock()
"""Held while a module of this package is imported in the middle of a process.

A child of fork inherits the locks of imports that other threads were in the middle of, and nobody releases them there.
So a fork waits for this lock.
"""
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_LOADING.acquire, after_in_parent=_LOADING.release, after_in_child=_LOADING.release)

_START_AGAIN = "the files were changed while this process ran, as an upgrade does: start it again"


def _not_loaded(where: str, error: ImportError) -> ImportError:
    """What to raise for a module of this package that is not there any more, or does not fit those that were loaded."""
    text = f"{where}: expected the modules of this package, found an error: {error}; {_START_AGAIN}"
    return ImportError(text, name=error.name)


TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._api import *  # noqa: F403
    from ._api import __all__ as __all__
else:

    def __getattr__(name):
        """Load the public names when the first of them is used (PEP 562), so that an import takes next to no time."""
        if name.startswith("_") and name not in ("__all__", "__version__"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(_load(), name)

    def __dir__():
        return dir(_load())

    def _load():
        """Fill this module from `_api`, which also puts its own `__getattr__` and `__dir__` in the place of these."""
        with _LOADING:
            try:
                from ._api import fill
            except ImportError as error:
                raise _not_loaded(__spec__.origin or __name__, error) from error
            fill()
        return sys.modules[__name__]

    if hasattr(__spec__.loader, "archive"):
        # The archive may be replaced or removed while the process runs, and its name may be relative to a folder that
        # the process leaves. What a call or an error needs of this package cannot be read from there then.
        from . import _bundle, _doctor, _ensure, _installation, _lockstep, _read, _write  # noqa: F401

        _load()
