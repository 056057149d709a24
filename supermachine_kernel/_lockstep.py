"""Library and assets of one version: snapshots are keyed to the kernel build."""

import re

from ._errors import LockstepError
from ._installation import how_to_install
from ._package import installed_version
from ._version import VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional


def require_version(version: str) -> None:
    """What `supermachine_kernel.require_version` does."""
    if release_of(version) != version:
        raise ValueError(f"expected a release version X.Y.Z, found {version!r}; pass e.g. {VERSION!r}")
    found = installed_version()
    if release_of(found) != version:
        found += ", and snapshots are keyed to the kernel build"
        raise LockstepError("supermachine-kernel", f"version {version}", found, how_to_install(version))


def release_of(version: str) -> "Optional[str]":
    """The release X.Y.Z that `version` is, or is a build of; None for a pre-release and what is no version."""
    # PEP 440 in its normal form, which is how a build writes its version.
    number = "(?:0|[1-9][0-9]*)"
    pattern = rf"({number}\.{number}\.{number})(?:\.post{number})?(?:\+[a-z0-9]+(?:\.[a-z0-9]+)*)?"
    match = re.fullmatch(pattern, version)
    return match.group(1) if match else None
