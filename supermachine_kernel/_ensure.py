"""Keep a complete, verified copy of the assets in one folder, safely under concurrent callers."""

import os
import stat
from pathlib import Path

from ._assets import ASSETS, Asset, manifest, not_empty, open_asset
from ._errors import AssetError, DestinationError
from ._folder import Folder, flush, flush_parents, make_folder, open_folder
from ._lockstep import release_of
from ._package import installed_version
from ._proof import is_proven, write_proof
from ._read import open_matching
from ._write import change_mode, is_usable, sweep, write_files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

    from ._write import StrPath


def ensure_assets(directory: "Optional[StrPath]" = None, *, check: str = "record") -> Path:
    """What `supermachine_kernel.ensure_assets` does."""
    if check not in ("record", "content"):
        raise ValueError(f"expected 'record' or 'content' for check, found {check!r}")
    folder = default_directory() if directory is None else Path(not_empty(directory))
    manifest()
    if check == "record" and _is_proven(folder):
        return folder
    complete(folder, record=True)
    return folder


def _is_proven(folder: Path) -> bool:
    try:
        with Folder(str(folder)) as opened:
            return is_proven(opened)
    except OSError:  # none yet
        return False


def default_directory() -> Path:
    """The folder for this user and version. Raises DestinationError when no home is known."""
    # XDG Base Directory Specification: a relative path there is invalid and to be ignored.
    data = os.environ.get("XDG_DATA_HOME", "")
    if not os.path.isabs(data):
        data = os.path.join(_home(), ".local", "share")
    version = installed_version()
    if "+" not in version:
        version = release_of(version) or version  # a post-release is another wheel with the assets of the release
    return Path(data, "supermachine", f"v{version}")


def complete(folder: Path, *, record: bool = False) -> "dict[str, str]":
    """Bring the files in `folder`, which is made where it is missing, to what the manifest says, as `complete_in`."""
    require_assets(folder)
    make_folder(folder)
    with open_folder(str(folder), str(folder)) as opened:
        return complete_in(opened, record=record)


def require_assets(folder: Path) -> None:
    """Raise AssetError where `folder` would be made, and an asset that goes there cannot be had."""
    manifest()  # without one nothing can be compared
    if not os.path.isdir(folder):
        for asset in ASSETS:
            open_asset(asset).close()


def complete_in(opened: Folder, *, record: bool = False) -> "dict[str, str]":
    """Bring the files in a folder to what the manifest says, and to disk.

    The result says what was done to each file, by name: "kept", "mended" (its mode was wrong) or "written". With
    `record`, what was proven is written down beside the files, for the next start.
    """
    done, proven = _keep_right_ones(opened)
    wrong = [asset for asset in ASSETS if asset.name not in done]
    if wrong:
        try:
            proven.update(_write_assets(opened, wrong))
            done.update((asset.name, "written") for asset in wrong)
        except DestinationError:
            done, proven = _keep_right_ones(opened)
            if len(done) < len(ASSETS):
                raise
            # Another process was faster, and this one may not replace its files.
    opened.flush()
    flush_parents(Path(opened.path))
    if record:
        write_proof(opened, [proven[asset.name] for asset in ASSETS])
    sweep(opened)
    return {asset.name: done[asset.name] for asset in ASSETS}


def _keep_right_ones(folder: Folder) -> "tuple[dict[str, str], dict[str, os.stat_result]]":
    """The files that are right by size, SHA-256 and mode: what was done to each, and the facts before it was read."""
    done, proven = {}, {}
    for asset in ASSETS:
        try:
            descriptor, facts = open_matching(folder, asset.name, asset.size, asset.sha256)
        except AssetError:
            continue
        try:
            action = _mend_mode(asset, descriptor)
            if action:
                flush(descriptor)  # another writer may have put it there a moment ago
                done[asset.name], proven[asset.name] = action, facts
        except OSError as error:
            path, found = folder.path_of(asset.name), f"an error: {error.strerror}"
            cure = "name another folder"
            raise DestinationError(path, "to flush it to the disk", found, cure, errno=error.errno) from error
        finally:
            os.close(descriptor)
    return done, proven


def _mend_mode(asset: Asset, descriptor: int) -> str:
    """Give the file its exact mode, so that processes of different umasks agree; "" where it stays of no use.

    A read-only store may lack the write bit, and a file system may keep one mode for all of its files. A file that
    has other names too stays as it is there, and is written anew here.
    """
    facts = os.fstat(descriptor)
    before = stat.S_IMODE(facts.st_mode)
    if before | 0o200 == asset.mode:
        return "kept"
    if facts.st_nlink > 1:
        return ""
    change_mode(descriptor, asset.mode)
    after = stat.S_IMODE(os.fstat(descriptor).st_mode)
    if not is_usable(after, asset.mode):
        return ""
    return "mended" if after != before else "kept"


def _write_assets(folder: Folder, assets: "list[Asset]") -> "dict[str, os.stat_result]":
    """Write those assets; the facts about each new file, by name."""
    readers = []
    try:
        for asset in assets:
            readers.append(open_asset(asset))
        files = [(asset.name, asset.mode, reader) for asset, reader in zip(assets, readers)]
        facts = write_files(folder, [*files], verify=True, durable=True)
    finally:
        for reader in readers:
            reader.close()
    return {asset.name: each for asset, each in zip(assets, facts)}


def _home() -> str:
    """$HOME, else what the user database says."""
    home = os.environ.get("HOME")
    if home is None:
        home = os.path.expanduser("~")
    if not os.path.isabs(home):
        cure = "set HOME or XDG_DATA_HOME to an absolute path, or name the folder"
        raise DestinationError("HOME", "the absolute path of the user's home folder", repr(home), cure)
    return home
