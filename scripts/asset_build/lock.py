"""assets.lock.json: size and SHA-256 of every asset of the released version, packed and unpacked."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from supermachine_kernel._version import VERSION

from .digests import set_digest
from .errors import BuildError, describe
from .guest_sets import GUEST_SETS

LOCK_NAME = "assets.lock.json"
FORMAT = 1


@dataclass(frozen=True)
class LockedFile:
    """Size in bytes and SHA-256 in hexadecimal of one file."""

    size: int
    sha256: str


@dataclass(frozen=True)
class LockedAsset:
    """One asset as it is in the wheel, and the `.xz` it is published as."""

    unpacked: LockedFile
    packed: LockedFile


@dataclass(frozen=True)
class LockedSet:
    """One asset set of a release; `build` is the build-info.json of the build it came from, where known."""

    name: str
    assets: Mapping[str, LockedAsset]
    build: Optional[Mapping[str, Any]] = None

    @property
    def digest(self) -> str:
        """The set digest."""
        return set_digest({name: asset.unpacked.sha256 for name, asset in self.assets.items()})


@dataclass(frozen=True)
class Lock:
    """The sets of one version; none before it is released."""

    version: str
    sets: Mapping[str, LockedSet]

    def set(self, name: str) -> Optional[LockedSet]:
        """The locked set of this source's own version, or None: a lock of another version locks nothing."""
        return self.sets.get(name) if self.version == VERSION else None


def read_lock(project: Path) -> Lock:
    """The lock of a checkout or sdist. Raises BuildError when it is missing or not of its format."""
    return read_lock_file(project / LOCK_NAME)


def read_lock_file(path: Path) -> Lock:
    """The lock in the file `path`. Raises BuildError when it is missing or not of its format."""
    cure = "take the file from the repository, or remove it and make it anew with scripts/release.py"
    try:
        return parse_lock(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BuildError(str(path), "the lock", f"nothing readable ({error.strerror})", cure) from error
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise BuildError(str(path), f"a lock of format {FORMAT}", describe(error), cure) from error


def parse_lock(text: str) -> Lock:
    """The lock in `text`. Raises ValueError, KeyError, TypeError or AttributeError on what is none."""
    document = json.loads(text, object_pairs_hook=_object)
    if type(document["format"]) is not int or document["format"] != FORMAT:
        raise ValueError(f"format {document['format']!r}")
    json.dumps(document, ensure_ascii=False).encode()  # an escaped half of a surrogate pair cannot be printed
    sets = {name: _parse_set(name, value) for name, value in document["sets"].items()}
    return Lock(_text(document["version"]), sets)


def format_lock(lock: Lock) -> str:
    """Return the text of the lock. Equal locks have equal texts, and a changed asset changes its own lines only."""
    document = {
        "format": FORMAT,
        "version": lock.version,
        "sets": {
            name: {
                "set_digest": locked.digest,
                "assets": {
                    asset: {**vars(entry.unpacked), "xz": vars(entry.packed)}
                    for asset, entry in sorted(locked.assets.items())
                },
                "build": locked.build,
            }
            for name, locked in sorted(lock.sets.items())
        },
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object; a name that stands twice is an error (RFC 8259, 4, does not say which value would count)."""
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} twice in one object")
    return value


def _parse_set(name: str, value: Any) -> LockedSet:
    if name not in GUEST_SETS:
        raise ValueError(f"the set {name!r}, and there are {', '.join(GUEST_SETS)}")
    assets = {
        asset.name: LockedAsset(
            unpacked=_parse_file(value["assets"][asset.name]), packed=_parse_file(value["assets"][asset.name]["xz"])
        )
        for asset in GUEST_SETS[name].assets
    }
    build = value.get("build")
    if build is not None and not isinstance(build, dict):
        raise TypeError(f"build {build!r} where an object or null should be")
    locked = LockedSet(name, assets, build)
    if value["set_digest"] != locked.digest:
        raise ValueError(f"set_digest {value['set_digest']!r}, where its assets give {locked.digest!r}")
    return locked


def _parse_file(value: Any) -> LockedFile:
    size, sha256 = value["size"], _text(value["sha256"])
    if type(size) is not int or size < 0:
        raise ValueError(f"size {size!r}")
    if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
        raise ValueError(f"sha256 {sha256!r}")
    return LockedFile(size, sha256)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} where a string should be")
    return value
