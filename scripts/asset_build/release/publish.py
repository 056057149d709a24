"""Make a release and its lock: the release layout from verified sets, the lock from a published release."""

import contextlib
import hashlib
import io
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from supermachine_kernel._assets import Asset
from supermachine_kernel._version import VERSION

from ..atomic_write import write_atomically
from ..errors import BuildError
from ..fetch.progress import progress_bar
from ..fetch.release_location import ReleaseLocation
from ..fetch.release_url import display_url, is_offline, parse_location
from ..fetch.transfer import Expected
from ..fetch.xz import pack, unpack
from ..guest_sets import GuestSet
from ..lock import Lock, LockedAsset, LockedFile, LockedSet, format_lock, read_lock_file
from ..release_layout import SUMS_NAME, format_sums, packed_name, parse_sums
from ..wheel.sources import Source
from ..wheel.verify import VerifiedSet, verify_set

_SUMS_LIMIT = 64 << 10
_INCOMPRESSIBLE = 1 << 20
"""Bytes that an `.xz` may be longer than what is in it."""


@dataclass(frozen=True)
class Change:
    """What writing the lock would do: `lines` say it, none of them when it is that very lock already."""

    path: Path
    lock: Lock
    lines: list[str]

    def write(self) -> None:
        """Write the lock, where it differs."""
        if self.lines:
            write_atomically(self.path, format_lock(self.lock).encode())


def pack_release(verified: VerifiedSet) -> tuple[LockedSet, dict[str, bytes]]:
    """The locked set of `verified`, and its files in the release by name: an `.xz` for each asset.

    The build info goes into the lock alone: a release has an `.xz` for each asset, SHA256SUMS, and no other file.
    """
    name = verified.guest_set.name
    files = {packed_name(name, asset): pack(content) for asset, content in verified.contents.items()}
    assets = {
        asset: LockedAsset(unpacked=_measure(content), packed=_measure(files[packed_name(name, asset)]))
        for asset, content in verified.contents.items()
    }
    return LockedSet(name, assets, verified.build), files


def sums_of(lock: Lock) -> bytes:
    """SHA256SUMS of the release that `lock` is of: a line for each file of each set."""
    packed = {
        packed_name(name, asset): entry.packed.sha256
        for name, locked in lock.sets.items()
        for asset, entry in locked.assets.items()
    }
    return format_sums(packed).encode()


def lock_published(
    text: str, guest_set: GuestSet, environ: Mapping[str, str], locked: Optional[LockedSet]
) -> LockedSet:
    """The locked set of the release at the base `text`: each file fetched, held against SHA256SUMS, and verified.

    A release does not say how it was built: the build info stays that of `locked` where that is the same set,
    and is none otherwise. Raises BuildError.
    """
    location = parse_location(text, "--from")
    if is_offline(environ) and isinstance(location, str):
        raise BuildError(f"{display_url(location)}: SUPERMACHINE_OFFLINE keeps it from being asked", cure="unset it")
    names = {asset.name: packed_name(guest_set.name, asset.name) for asset in guest_set.assets}
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="supermachine-kernel-"))
        files = {name: Path(folder, name) for name in names}
        bar = stack.enter_context(progress_bar(None))
        base = stack.enter_context(ReleaseLocation(location, environ.get("GITHUB_TOKEN"), bar.update, setting="--from"))
        sums = _fetch_sums(base, list(names.values()))
        assets = {
            asset.name: _fetch_measured(base, names[asset.name], sums[names[asset.name]], asset, files[asset.name])
            for asset in guest_set.assets
        }
        urls = {name: base.display(packed) for name, packed in names.items()}
        verified = verify_set(Source(guest_set, "published", files, urls=urls), locked)
    return LockedSet(guest_set.name, assets, verified.build)


def _fetch_sums(base: ReleaseLocation, names: list[str]) -> dict[str, str]:
    """The published SHA256SUMS, which has a line for each of `names`. Raises BuildError."""
    text = io.BytesIO()
    with base.fetched(SUMS_NAME, text, Expected(_SUMS_LIMIT)):
        content = text.getvalue()
    where = base.display(SUMS_NAME)
    try:
        sums = parse_sums(content.decode())
    except ValueError as error:
        raise BuildError(where, "sha256sum's output", repr(str(error)), "stage it anew") from error
    missing = [name for name in names if name not in sums]
    if missing:
        raise BuildError(where, ", ".join(names), f"no {', '.join(missing)}", "stage the whole set")
    return sums


def _fetch_measured(base: ReleaseLocation, name: str, sha256: str, asset: Asset, path: Path) -> LockedAsset:
    """Fetch the published file `name` and unpack it to `path`: its size and SHA-256, packed and unpacked."""
    largest = asset.sizes[1]
    with path.open("wb") as file, tempfile.TemporaryFile(dir=path.parent) as packed:
        with base.fetched(name, packed, Expected(largest + _INCOMPRESSIBLE, sha256=sha256, said_by=SUMS_NAME)):
            unpacked = unpack(packed, file, largest)
        return LockedAsset(unpacked, LockedFile(packed.tell(), sha256))


def plan_lock(path: Path, new: Iterable[LockedSet], *, replace: bool) -> Change:
    """Plan the change that locks the sets `new` in the file `path`, beside others of this version there.

    A set that is locked for this version is taken to be published: another one in its place is refused with
    BuildError, which shows the difference, unless `replace`.
    """
    old = read_lock_file(path) if path.exists() else Lock(VERSION, {})
    kept = old.sets if old.version == VERSION else {}
    lines = [] if old.version == VERSION else [f"version: {old.version} -> {VERSION}"]
    added = {}
    for locked in new:
        name, differences = locked.name, _differences(kept.get(locked.name), locked)
        if name in kept and differences and not replace:
            refusal = (
                f"{path}: {name} of {VERSION} is locked, and this is another; --replace if that was never published:"
            )
            raise BuildError("\n  ".join([refusal, *differences]))
        added[name] = locked
        lines += differences
    return Change(path, Lock(VERSION, {**kept, **added}), lines)


def _differences(old: Optional[LockedSet], new: LockedSet) -> list[str]:
    lines = []
    for name, asset in new.assets.items():
        before = old.assets[name] if old else None
        for what, found, was in (
            (name, asset.unpacked, before.unpacked if before else None),
            (packed_name(new.name, name), asset.packed, before.packed if before else None),
        ):
            if found != was:
                lines.append(f"{what}: {_describe_file(was)} -> {_describe_file(found)}")
    before_build = old.build if old else None
    if before_build != new.build:
        lines.append(f"build info: {_describe_build(before_build)} -> {_describe_build(new.build)}")
    return lines


def _describe_build(build: Optional[Mapping[str, Any]]) -> str:
    return f"inputs {str(build.get('inputs_sha256'))[:16]}" if build else "none"


def _describe_file(file: Optional[LockedFile]) -> str:
    return f"{file.size} bytes {file.sha256}" if file else "none"


def _measure(content: bytes) -> LockedFile:
    return LockedFile(len(content), hashlib.sha256(content).hexdigest())
