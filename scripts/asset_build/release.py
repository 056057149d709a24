"""The release source: the published files of one version, fetched, proven and cached."""

from collections.abc import Mapping
from pathlib import Path

from .errors import BuildError
from .lock import LockedSet


def fetch(locked: LockedSet, environ: Mapping[str, str]) -> dict[str, Path]:
    """The unpacked files of the locked set, by asset name. Raises BuildError."""
    raise BuildError(f"the release of {locked.name} cannot be fetched yet; use an override or the tree")
