"""Where this package lies, what its manifest says, and whether an archive holds it."""

import os

from . import _LOADING, _not_loaded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Optional

MANIFEST: "Optional[dict[str, Any]]"
SETS: "dict[str, tuple[str, ...]]"
try:
    from . import _manifest

    MANIFEST, SETS = getattr(_manifest, "MANIFEST", {}), getattr(_manifest, "SETS", {})
except ImportError:  # a source checkout, or an editable install that found no assets
    MANIFEST, SETS = None, {}
except Exception:  # a damaged file: whoever asks for the manifest is told, not whoever imports this package
    MANIFEST, SETS = {}, {}

try:
    DIRECTORY = os.path.dirname(os.path.abspath(__file__))
except NameError:  # an importer that knows no files: nothing is found below a device
    DIRECTORY = os.path.join(os.devnull, "supermachine_kernel")
"""The package's folder, as an absolute path: the current folder may be another by the time it is used."""

ASSETS_DIRECTORY = os.path.join(DIRECTORY, "assets")


class _Loading:
    """Entered while a public call imports what it needs: no other thread forks until it is left.

    A module of this package that is not there any more, or does not fit the ones that were loaded before, is an error
    that says why.
    """

    def __enter__(self) -> None:
        _LOADING.acquire()

    def __exit__(
        self,
        kind: "Optional[type[BaseException]]",
        error: "Optional[BaseException]",
        traceback: "Optional[TracebackType]",
    ) -> None:
        _LOADING.release()
        if isinstance(error, ImportError) and str(error.name).startswith("supermachine_kernel"):
            raise _not_loaded(DIRECTORY, error) from error


LOADING = _Loading()


def installed_version() -> str:
    """The version of the assets that are here, with the label of a build of other than the locked ones."""
    if isinstance(MANIFEST, dict) and "version" in MANIFEST:
        return str(MANIFEST["version"])
    with LOADING:
        from ._version import VERSION
    return VERSION


def archive() -> "Optional[str]":
    """The archive that holds this package, or None. What exists of the path to the package ends there."""
    path = DIRECTORY
    while not os.path.exists(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    return path if os.path.isfile(path) else None


def has_changed() -> bool:
    """Whether another version was installed over this one since it was imported: its manifest is another."""
    try:
        content = read_file("_manifest.py")
    except Exception:  # none, or one that cannot be read: it says nothing of another version
        return False
    digest: Any = MANIFEST.get("set_digest") if isinstance(MANIFEST, dict) else None
    return str(digest).encode() not in content


def read_file(name: str) -> bytes:
    """The content of a small file of this package, also in an archive. Raises OSError, KeyError or a zip's errors."""
    path = os.path.join(DIRECTORY, name)
    holder = archive()
    if holder is None:
        with open(path, "rb") as file:
            return file.read()
    with LOADING:
        import zipfile
    with zipfile.ZipFile(holder) as opened:
        return opened.read(member(holder, path))


def member(holder: str, path: str) -> str:
    """The name by which the archive `holder` has the file at `path`."""
    return os.path.relpath(path, holder).replace(os.sep, "/")
