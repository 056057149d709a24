"""The release source: the published files of one version, from the cache or fetched."""

import sys
from collections.abc import Mapping
from pathlib import Path

from supermachine_kernel._version import VERSION

from ..errors import BuildError
from ..lock import LockedSet
from .cache import Cache, cache_folder
from .limits import LIMITS, Limits
from .release_url import display_url, is_offline, parse_location


class OfflineError(BuildError):
    """The files are not in the cache, and SUPERMACHINE_OFFLINE keeps the build from the network."""


def fetch(locked: LockedSet, environ: Mapping[str, str], *, limits: Limits = LIMITS) -> dict[str, Path]:
    """The unpacked files of the locked set, by asset name, each one checked. Raises BuildError.

    They lie in the cache, or, where it cannot be written, in a folder that is removed with the process. A download
    that breaks off is resumed by the same process; a killed one leaves nothing that a later build would take.
    """
    cache = Cache(cache_folder(environ))
    found = {name: path for name, asset in locked.assets.items() if (path := cache.find(asset.unpacked)) is not None}
    missing = {name: asset for name, asset in locked.assets.items() if name not in found}
    if not missing:
        return found
    location = parse_location(environ.get("SUPERMACHINE_RELEASE_URL"))
    if is_offline(environ) and isinstance(location, str):
        raise OfflineError(
            str(cache.folder),
            ", ".join(missing),
            f"no sound file, and SUPERMACHINE_OFFLINE keeps the build from {display_url(location)}",
            f"unset it, or set SUPERMACHINE_RELEASE_URL to a folder with v{VERSION}/, or SUPERMACHINE_CACHE_DIR to a "
            "filled cache",
        )
    try:  # only now: where the cache has everything, nothing of what this imports is needed
        from .missing_files import fetch_missing
    except ImportError as error:
        cure = "use a Python that has it, or install what build-system in pyproject.toml requires"
        raise BuildError(sys.executable, f"the module {error.name}, to fetch the assets", "none", cure) from error
    return {**found, **fetch_missing(locked.name, missing, cache, location, environ.get("GITHUB_TOKEN"), limits)}
