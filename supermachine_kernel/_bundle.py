"""The set inside an app or a folder, with a receipt that says what it is."""

import os
import stat

from ._assets import ASSETS, is_manifest, manifest
from ._ensure import complete, mismatch
from ._errors import AssetError, AssetMissingError, DestinationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any, Optional

RECEIPT = "manifest.json"
"""The manifest of the set beside it: version, set digest, and size, SHA-256 and mode of each asset."""

_LONGEST_RECEIPT = 1 << 20


def bundle(target: "Path") -> "dict[str, str]":
    """Put the set and its receipt where `target` keeps them; what was done to each file, by name.

    Nothing that is right is written, and a `manifest.json` that is somebody else's is not replaced. Raises as
    `ensure_assets` does.
    """
    folder = folder_of(target)
    if is_foreign(folder / RECEIPT):
        expected, cure = "a receipt of this program or nothing there", "move it away, or name another folder"
        raise DestinationError(str(folder / RECEIPT), expected, "something else", cure)
    done = complete(folder)
    # Last: a receipt speaks of what is there.
    done[RECEIPT] = _write_receipt(folder / RECEIPT)
    return done


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


def check(folder: "Path") -> "dict[str, Optional[AssetError]]":
    """What is wrong with each file of the set in `folder`, by name: an error without a cure, or None.

    A receipt there must be of this installation's set. The files are compared with what the receipt says, so
    that a whole set of another version is told from a broken one; without a receipt, with this installation's
    manifest. A program without its execute bits is wrong too. Raises AssetMissingError when there is no folder,
    DestinationError where that cannot be seen.
    """
    if not _is_folder(folder):
        cure = "name one, or make it with bundle"
        raise AssetMissingError(str(folder), "a folder with the set", "none", cure)
    findings: dict[str, Optional[AssetError]] = {}
    expected = manifest()
    path = folder / RECEIPT
    if os.path.lexists(path):
        receipt, findings[RECEIPT] = _read_receipt(path)
        expected = receipt or expected
    for asset in ASSETS:
        entry = expected["assets"][asset.name]
        file = folder / asset.name
        findings[asset.name] = mismatch(file, entry["size"], entry["sha256"]) or _lost_bits(file, asset.mode)
    return findings


def _is_folder(path: "Path") -> bool:
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise _cannot_look(path, error) from error


def _cannot_look(path: "Path", error: OSError) -> DestinationError:
    expected, found = "to read it", f"an error: {error.strerror}"
    cure = "name a place that you may read, or run this as its owner"
    return DestinationError(str(path), expected, found, cure, errno=error.errno)


def _lost_bits(path: "Path", mode: int) -> "Optional[AssetError]":
    found = stat.S_IMODE(os.lstat(path).st_mode)
    if mode & 0o111 & ~found:
        return AssetError(str(path), f"mode {mode:#o}", f"{found:#o}, so that it cannot be executed")
    return None


def _receipt() -> bytes:
    import json

    return (json.dumps(manifest(), indent=2, sort_keys=True) + "\n").encode()


def _write_receipt(path: "Path") -> str:
    from ._write import place_bytes

    content = _receipt()
    if path.is_file() and not path.is_symlink() and _content(path) == content:
        return "kept"
    place_bytes(content, path, mode=0o644, durable=True)
    return "written"


def _content(path: "Path") -> "Optional[bytes]":
    """What a file of a receipt's kind and size holds: a pipe would not end, a device neither."""
    try:
        facts = os.stat(path)
        return path.read_bytes() if stat.S_ISREG(facts.st_mode) and facts.st_size <= _LONGEST_RECEIPT else None
    except PermissionError as error:
        raise _cannot_look(path, error) from error
    except OSError:
        return None


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
    return receipt if is_manifest(receipt) else None
