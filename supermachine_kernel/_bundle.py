"""The set inside an app or a folder, with a receipt that says what it is."""

import os
import stat

from ._assets import ASSETS, Asset, is_manifest, manifest
from ._ensure import complete_in, require_assets
from ._errors import AssetError, AssetMissingError, DestinationError
from ._folder import Folder, cure_of, make_folder, open_folder
from ._package import SETS
from ._proof import is_proven
from ._read import open_matching
from ._write import is_usable, write_files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any, Optional

    from ._write import StrPath

RECEIPT = "manifest.json"
"""The manifest of the set beside it: version, set digest, and size, SHA-256 and mode of each asset."""

_LONGEST_RECEIPT = 1 << 20
_LARGEST_ASSET, _LONGEST_VERSION = 1 << 40, 100


def bundle(target: "Path") -> "dict[str, str]":
    """Put the set and its receipt where `target` keeps them; what was done to each file, by name.

    Nothing that is right is written, and a `manifest.json` that is somebody else's is not replaced. Raises as
    `ensure_assets` does.
    """
    folder = folder_of(target)
    if is_foreign(folder / RECEIPT):
        expected, cure = "a receipt of this program or nothing there", "move it away, or name another folder"
        raise DestinationError(str(folder / RECEIPT), expected, "something else", cure)
    require_assets(folder)
    with _open(target, folder) as opened:
        done = complete_in(opened)
        # Last: a receipt speaks of what is there.
        done[RECEIPT] = _write_receipt(opened)
    return done


def _open(target: "Path", folder: "Path") -> Folder:
    """Open the folder of the set, made where it is missing: within an app, by steps that follow no link.

    A link there would have the set written outside of the app, which was named. Raises DestinationError.
    """
    if folder == target:
        make_folder(folder)
        return open_folder(str(folder), str(folder))
    with open_folder(str(target), str(folder)) as app, _enter(app, "Contents") as contents:
        return _enter(contents, folder.name)


def _enter(folder: Folder, name: str) -> Folder:
    path, expected = folder.path_of(name), "a folder of the app"
    try:
        return folder.enter(name)
    except OSError as error:
        if os.path.islink(path):
            found = f"a link to {os.path.realpath(path)}"
            raise DestinationError(path, expected, found, "remove it, or name its end") from error
        found = f"one that cannot be made or entered ({error.strerror})"
        raise DestinationError(path, expected, found, cure_of(error), errno=error.errno) from error


def folder_of(target: "Path") -> "Path":
    """`Contents/Resources` of a macOS app, any other folder itself. Raises DestinationError for half an app."""
    path = os.path.abspath(target).lower()
    if path.endswith(os.path.join(".app", "contents")):
        found = "the folder Contents of an app, which keeps the set in Resources"
        raise DestinationError(str(target), "an app or a folder for the set", found, "name the app")
    if not path.endswith(".app"):
        return target
    contents = target / "Contents"
    if not _is_folder(contents):
        cure = "build the app first, or name a folder that does not end in .app"
        raise DestinationError(str(target), "a macOS app with a folder Contents", "none", cure)
    return contents / "Resources"


def is_signed(target: "Path") -> bool:
    """Whether `target` is an app with a signature, which seals its resources too."""
    return _is_folder(target / "Contents" / "_CodeSignature")


def is_foreign(receipt: "Path") -> bool:
    """Whether what is in a receipt's place is not one, so that `bundle` leaves it alone."""
    return os.path.lexists(receipt) and _parse_receipt(_content(receipt)) is None


def check(folder: "Path", *, quick: bool = False) -> "dict[str, Optional[AssetError]]":
    """What is wrong with each file of the set in `folder`, by name: an error without a cure, or None.

    A receipt there must be of this installation's set. The files are compared with what the receipt says, so
    that a whole set of another version is told from a broken one; without a receipt, with this installation's
    manifest. A program without its execute bits is wrong too. With `quick` no file is read, where the record that
    `ensure_assets` keeps says that this installation's assets were proven and have not changed. Raises
    AssetMissingError when there is no folder, DestinationError where that cannot be seen.
    """
    if not _is_folder(folder):
        cure = "name one, or make it with bundle"
        raise AssetMissingError(str(folder), "a folder with the set", "none", cure)
    findings: dict[str, Optional[AssetError]] = {}
    expected = manifest()
    path = folder / RECEIPT
    if os.path.lexists(path):
        receipt, findings[RECEIPT] = _read_receipt(path)
        if receipt is not None and receipt["set"] == expected["set"]:
            expected = receipt
    with open_folder(str(folder), str(folder)) as opened:
        if quick and RECEIPT not in findings and is_proven(opened):
            return dict.fromkeys(asset.name for asset in ASSETS)
        for asset in ASSETS:
            entry = expected["assets"][asset.name]
            findings[asset.name] = mismatch(opened, asset, entry["size"], entry["sha256"])
    return findings


def mismatch(folder: Folder, asset: Asset, size: int, sha256: str) -> "Optional[AssetError]":
    """How the file of `asset` differs from one of that size in bytes and SHA-256 that can be used, or None."""
    try:
        descriptor, facts = open_matching(folder, asset.name, size, sha256)
    except AssetError as error:
        return error
    os.close(descriptor)
    found = stat.S_IMODE(facts.st_mode)
    if is_usable(found, asset.mode):
        return None
    path, expected = folder.path_of(asset.name), f"mode {asset.mode:#o}"
    return AssetError(path, expected, f"{found:#o}, so that it cannot be executed")


def _is_folder(path: "Path") -> bool:
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise _cannot_look(path, error) from error


def _cannot_look(path: "StrPath", error: OSError) -> DestinationError:
    expected, found = "to read it", f"an error: {error.strerror}"
    cure = "name a place that you may read, or run this as its owner"
    return DestinationError(str(path), expected, found, cure, errno=error.errno)


def _receipt() -> bytes:
    import json

    return (json.dumps(manifest(), indent=2, sort_keys=True) + "\n").encode()


def _write_receipt(opened: Folder) -> str:
    path, content = opened.path_of(RECEIPT), _receipt()
    if not os.path.islink(path) and _content(path) == content:
        return "kept"
    write_files(opened, [(RECEIPT, 0o644, content)], durable=True)
    opened.flush()
    return "written"


def _content(path: "StrPath") -> "Optional[bytes]":
    """The content of a file that can be a receipt; None for what is too long, or is no file and may have no end."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return None
        with open(os.open(path, flags), "rb") as file:
            is_file = stat.S_ISREG(os.fstat(file.fileno()).st_mode)  # what was opened, not what the name was before
            content = file.read(_LONGEST_RECEIPT + 1) if is_file else b""
    except PermissionError as error:
        raise _cannot_look(path, error) from error
    except OSError:
        return None
    return content if len(content) <= _LONGEST_RECEIPT else None


def _read_receipt(path: "Path") -> "tuple[Optional[dict[str, Any]], Optional[AssetError]]":
    """The receipt, where it is one, and what is wrong with it."""
    content = _content(path)
    receipt = _parse_receipt(content)
    if receipt is None:
        return None, AssetError(str(path), "the receipt that bundle writes", "something else")
    if content == _receipt():
        return receipt, None
    mine = f"{manifest()['version']} (set digest {manifest()['set_digest'][:16]})"
    found = f"{receipt['version']} (set digest {receipt['set_digest'][:16]})"
    if found == mine:
        return None, AssetError(str(path), "the receipt that bundle writes", "one that was changed")
    return receipt, AssetError(str(path), f"the set of this installation, {mine}", found)


def _parse_receipt(content: "Optional[bytes]") -> "Optional[dict[str, Any]]":
    import json

    try:
        receipt: dict[str, Any] = json.loads(content or b"")
    except (ValueError, RecursionError):
        return None
    return receipt if is_manifest(receipt) and _is_plausible(receipt) else None


def _is_plausible(receipt: "dict[str, Any]") -> bool:
    """Whether what errors show of a receipt, which may be a stranger's, is of the form that bundle writes."""
    entries = [receipt["assets"][name] for name in SETS[receipt["set"]]]
    digests = [receipt["set_digest"], *(entry["sha256"] for entry in entries)]
    return (
        all(len(digest) == 64 and set(digest) <= set("0123456789abcdef") for digest in digests)
        and all(0 <= entry["size"] < _LARGEST_ASSET for entry in entries)
        and len(receipt["version"]) <= _LONGEST_VERSION
    )
