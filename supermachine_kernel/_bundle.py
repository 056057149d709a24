"""The set inside an app or a folder, with a receipt that says what it is."""

import os
import stat

from ._assets import ASSETS, manifest
from ._ensure import complete, problem
from ._errors import AssetMissingError, DestinationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any, Optional

RECEIPT = "manifest.json"
"""The manifest of the set beside it: version, set digest, and size, SHA-256 and mode of each asset."""


def bundle(target: "Path") -> "dict[str, str]":
    """Put the set and its receipt where `target` keeps them; what was done to each file, by name.

    Nothing that is right is written, and a `manifest.json` that is somebody else's is not replaced. Raises as
    `ensure_assets` does.
    """
    folder = folder_of(target)
    _refuse_foreign(folder / RECEIPT)
    done = complete(folder)
    # Last: a receipt speaks of what is there.
    done[RECEIPT] = _write_receipt(folder / RECEIPT)
    return done


def folder_of(target: "Path") -> "Path":
    """`Contents/Resources` of a macOS app, any other folder itself. Raises DestinationError for half an app."""
    if not os.path.abspath(target).lower().endswith(".app"):
        return target
    contents = target / "Contents"
    if not contents.is_dir():
        raise DestinationError(
            f"{target}: expected a macOS app with a folder Contents, found none; build the app first, or name a "
            "folder that does not end in .app"
        )
    return contents / "Resources"


def is_signed(target: "Path") -> bool:
    """Whether `target` is an app with a signature, which seals its resources too."""
    return (target / "Contents" / "_CodeSignature").is_dir()


def check(folder: "Path") -> "dict[str, Optional[str]]":
    """What is wrong with each file of the set in `folder`, by name; None where nothing is.

    A receipt there must be of this installation's set. The files are compared with what the receipt says, so
    that a whole set of another version is told from a broken one; without a receipt, with this installation's
    manifest. A program without its execute bits is wrong too. Raises AssetMissingError when there is no folder.
    """
    if not folder.is_dir():
        raise AssetMissingError(
            f"{folder}: expected a folder with the set, found none; name one, or make it with bundle"
        )
    findings: dict[str, Optional[str]] = {}
    expected = manifest()
    path = folder / RECEIPT
    if os.path.lexists(path):
        receipt, findings[RECEIPT] = _read_receipt(path)
        expected = receipt or expected
    for asset in ASSETS:
        entry = expected["assets"][asset.name]
        file = folder / asset.name
        findings[asset.name] = problem(file, entry["size"], entry["sha256"]) or _lost_bits(file, asset.mode)
    return findings


def _lost_bits(path: "Path", mode: int) -> "Optional[str]":
    found = stat.S_IMODE(os.lstat(path).st_mode)
    if mode & 0o111 & ~found:
        return f"{path}: expected mode {mode:#o}, found {found:#o}: it cannot be executed"
    return None


def _refuse_foreign(path: "Path") -> None:
    if os.path.lexists(path) and not path.is_dir() and _parse_receipt(_content(path)) is None:
        raise DestinationError(
            f"{path}: expected a receipt of this program or nothing there, found another file; move it away, or "
            "name another folder"
        )


def _receipt() -> bytes:
    import json

    return (json.dumps(manifest(), indent=2, sort_keys=True) + "\n").encode()


def _write_receipt(path: "Path") -> str:
    from ._extract import place_bytes

    content = _receipt()
    if path.is_file() and not path.is_symlink() and _content(path) == content:
        return "kept"
    place_bytes(content, path, mode=0o644, durable=True)
    return "written"


def _content(path: "Path") -> "Optional[bytes]":
    try:
        return path.read_bytes()
    except OSError:
        return None


def _read_receipt(path: "Path") -> "tuple[Optional[dict[str, Any]], Optional[str]]":
    """The receipt, where it is one, and what is wrong with it."""
    content = _content(path)
    receipt = _parse_receipt(content)
    if receipt is None:
        return None, f"{path}: expected the receipt that bundle writes, found something else"
    if content == _receipt():
        return receipt, None
    mine = f"{manifest()['version']} (set digest {manifest()['set_digest'][:16]})"
    found = f"{receipt['version']} (set digest {str(receipt['set_digest'])[:16]})"
    if found == mine:
        return None, f"{path}: expected the receipt that bundle writes, found one that was changed"
    return receipt, f"{path}: expected the set of this installation, {mine}, found {found}"


def _parse_receipt(content: "Optional[bytes]") -> "Optional[dict[str, Any]]":
    import json

    try:
        receipt: dict[str, Any] = json.loads(content or b"")
        entries = [receipt["assets"][asset.name] for asset in ASSETS]
        right = all(type(entry["size"]) is int and type(entry["sha256"]) is str for entry in entries)
        return receipt if right and receipt["set_digest"] and receipt["version"] else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
