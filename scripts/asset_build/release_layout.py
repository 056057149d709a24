"""The release layout: the base, the names below it, and SHA256SUMS."""

import re
from collections.abc import Mapping

BASE = "https://github.com/supercorp-ai/supermachine/releases/download"
"""Where the releases are, unless SUPERMACHINE_RELEASE_URL says otherwise."""

SUMS_NAME = "SHA256SUMS"

# As sha256sum (GNU coreutils) prints and checks them: digest, space, space or "*" (binary), name.
_SUMS_LINE = re.compile(r"([0-9a-f]{64}) [ *]([A-Za-z0-9][A-Za-z0-9._+-]*)")


def release_folder(version: str) -> str:
    """The folder of a version below the base."""
    return f"v{version}"


def packed_name(set_name: str, asset_name: str) -> str:
    """The name of an asset as it is published."""
    return f"{set_name}-{asset_name}.xz"


def format_sums(sha256_by_name: Mapping[str, str]) -> str:
    """Lines as sha256sum prints them, sorted by name: SHA256SUMS, and what the set digest is of."""
    return "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(sha256_by_name.items()))


def parse_sums(text: str) -> dict[str, str]:
    """SHA-256 by name. Raises ValueError with the line that is none, or names a file a second time."""
    sums: dict[str, str] = {}
    for line in text.splitlines():
        match = _SUMS_LINE.fullmatch(line)
        if match is None or match[2] in sums:
            raise ValueError(line[:100])
        sums[match[2]] = match[1]
    return sums
