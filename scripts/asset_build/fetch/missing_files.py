"""Fetch files that the cache lacks into the cache."""

import atexit
import contextlib
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, Optional, Union

from ..errors import BuildError, ContentMismatchError
from ..lock import LOCK_NAME, LockedAsset, LockedFile
from ..release_layout import packed_name
from .cache import Cache
from .limits import Limits
from .progress import note, progress_bar
from .release_location import ReleaseLocation
from .transfer import Expected
from .xz import unpack

_ATTEMPTS = 3
"""How often a file is unpacked while somebody else deletes it."""


def fetch_missing(
    set_name: str,
    missing: Mapping[str, LockedAsset],
    cache: Cache,
    location: Union[str, Path],
    token: Optional[str],
    limits: Limits,
) -> dict[str, Path]:
    """The unpacked files by asset name, fetched from the release base `location`. Raises BuildError."""
    cache, total = _writable(cache), sum(asset.packed.size for asset in missing.values())
    with progress_bar(total) as bar, ReleaseLocation(location, token, bar.update, limits) as release:
        for name, asset in missing.items():
            with cache.alone(asset.unpacked, release.session.seconds_left() / 2):
                if cache.find(asset.unpacked) is None:
                    _into_cache(cache, release, packed_name(set_name, name), asset)
                else:  # another build has made it meanwhile
                    bar.update(asset.packed.size)
    return {name: cache.path(asset.unpacked) for name, asset in missing.items()}


def _writable(cache: Cache) -> Cache:
    """The cache, or, where it cannot be written, one that is removed with the process."""
    reason = cache.prepare()
    if reason is None:
        return cache
    folder = Path(tempfile.mkdtemp(prefix="supermachine-kernel-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    note(f"note: {cache.folder} cannot be written ({reason}): what is fetched is kept for this build alone")
    return Cache(folder)


def _into_cache(cache: Cache, release: ReleaseLocation, name: str, asset: LockedAsset) -> None:
    """Fetch the published file `name` and unpack it."""
    path, packed = cache.path(asset.unpacked), asset.packed
    expected = Expected(packed.size, packed.size, packed.sha256)
    if path.exists():
        note(f"{path}: damaged; fetching it anew")
    note(f"fetching {release.display(name)} ({packed.size} bytes)")
    with cache.writing(), cache.temporary() as file, release.fetched(name, file, expected):
        _unpack(file, cache, asset.unpacked)
    note(f"fetched {name}: {asset.unpacked.size} bytes, SHA-256 {asset.unpacked.sha256}")


def _unpack(packed: BinaryIO, cache: Cache, wanted: LockedFile) -> None:
    """Unpack to the entry of `wanted`, again where somebody deletes its temporary file, or the folder, meanwhile."""
    for _ in range(_ATTEMPTS):
        packed.seek(0)
        with contextlib.suppress(FileNotFoundError):
            with cache.entry(wanted) as file:
                unpacked = unpack(packed, file, wanted.size)
                if unpacked.size != wanted.size:
                    raise ContentMismatchError(f"{wanted.size} bytes once unpacked", f"{unpacked.size} bytes")
                if unpacked.sha256 != wanted.sha256:
                    raise ContentMismatchError(f"SHA-256 {wanted.sha256} once unpacked ({LOCK_NAME})", unpacked.sha256)
            return
    expected, found = "a cache that keeps what is written to it", f"a new file deleted, {_ATTEMPTS} times in a row"
    raise BuildError(str(cache.folder), expected, found, "set SUPERMACHINE_CACHE_DIR to a folder that is left alone")
