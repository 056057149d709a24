"""The whole set at a stable place: made once, completed where it is not right, whoever else is at it."""

import os
import stat

from ._assets import ASSETS, Asset, installed_version, manifest
from ._errors import AssetError, DestinationError
from ._lockstep import release_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Optional

    from ._write import StrPath

_SETTLED = 5 * 60
"""Seconds after which the system has written a file back by itself (Linux and macOS: half a minute)."""


def ensure_assets(directory: "Optional[StrPath]" = None) -> "Path":
    """See that the whole set is in `directory`, right and on disk; return that folder.

    Without `directory` it is `$XDG_DATA_HOME/supermachine/v<version>/`, or
    `~/.local/share/supermachine/v<version>/`, where the supermachine library keeps its own copy. A build of
    other than the released files has its label in that version, and so a folder of its own.

    A file that is right, by size and SHA-256, is kept; one that is missing or wrong is replaced in one step;
    a wrong mode (0o755 for the programs, 0o644 for the rest) is mended. Any number of processes and threads
    may do this at once, and be killed while they do. Raises AssetMissingError or AssetError when an asset that
    is needed is not right itself, and DestinationError when the place is not fit.
    """
    from pathlib import Path

    folder = default_directory() if directory is None else Path(directory)
    complete(folder)
    return folder


def default_directory() -> "Path":
    """The set's own place for this user. Raises DestinationError when no home is known."""
    from pathlib import Path

    # XDG Base Directory Specification: a relative path there is invalid and to be ignored.
    data = os.environ.get("XDG_DATA_HOME", "")
    if not os.path.isabs(data):
        data = os.path.join(_home(), ".local", "share")
    version = installed_version()
    if "+" not in version:
        version = release_of(version) or version  # a post-release: the wheel anew, its assets those of the release
    return Path(data, "supermachine", f"v{version}")


def complete(folder: "Path") -> "dict[str, str]":
    """Make the set in `folder` whole; what was done to each file, by name: "kept", "mended" or "written"."""
    from ._write import make_folder, sweep

    manifest()  # without one there is nothing to make a folder for
    make_folder(folder, durable=True)
    done = {asset.name: _complete_file(asset, folder / asset.name) for asset in ASSETS}
    _settle(folder, [name for name, action in done.items() if action != "written"])
    sweep(folder)
    return done


def mismatch(path: "StrPath", size: int, sha256: str) -> "Optional[AssetError]":
    """How the file differs from the one of that size in bytes and SHA-256, as an error without a cure, or None."""
    name, expected = os.fspath(path), f"a file of {size} bytes"
    try:
        facts = os.lstat(path)
        if not stat.S_ISREG(facts.st_mode):
            return AssetError(name, "a file", _kind(facts.st_mode))
        if facts.st_size != size:
            return AssetError(name, f"{size} bytes", str(facts.st_size))
        found = _sha256(path)
    except FileNotFoundError:
        return AssetError(name, expected, "nothing")
    except OSError as error:
        return AssetError(name, expected, f"one that cannot be read ({error.strerror})")
    return None if found == sha256 else AssetError(name, f"SHA-256 {sha256}", found)


def _complete_file(asset: Asset, path: "Path") -> str:
    if mismatch(path, asset.size, asset.sha256) is None:
        return _mend_mode(asset, path)
    asset.verify()
    try:
        asset.place(path, mode=asset.mode, durable=True)
    except DestinationError:
        if mismatch(path, asset.size, asset.sha256) is not None:
            raise
        return _mend_mode(asset, path)  # another was faster
    return "written"


def _mend_mode(asset: Asset, path: "Path") -> str:
    """The mode is exact, so that processes of different umasks agree; a read-only store may lack the write bit."""
    try:
        if stat.S_IMODE(os.lstat(path).st_mode) | 0o200 == asset.mode:
            return "kept"
        os.chmod(path, asset.mode)
    except OSError as error:
        expected, found = f"to give it mode {asset.mode:#o}", f"an error: {error.strerror}"
        cure = "remove it, or name another folder"
        raise DestinationError(str(path), expected, found, cure, errno=error.errno) from error
    return "mended"


def _settle(folder: "Path", names: "list[str]") -> None:
    """Bring to disk what another writer put there so lately that the system may not have."""
    import time

    from ._write import sync

    try:
        now = time.time()
        young = [folder / name for name in names if now - os.stat(folder / name).st_ctime < _SETTLED]
        for path in (*young, folder) if young else ():
            sync(str(path))
    except OSError as error:
        expected, found = "to flush it to the disk", f"an error: {error.strerror}"
        raise DestinationError(str(folder), expected, found, "name another folder", errno=error.errno) from error


def _home() -> str:
    """$HOME, else what the user database says."""
    home = os.environ.get("HOME")
    if home is None:
        home = os.path.expanduser("~")
    if not os.path.isabs(home):
        cure = "set HOME or XDG_DATA_HOME to an absolute path, or name the folder"
        raise DestinationError("HOME", "the absolute path of the user's home folder", repr(home), cure)
    return home


def _sha256(path: "StrPath") -> str:
    import hashlib

    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a symbolic link" if stat.S_ISLNK(mode) else "a device, socket or pipe"
