"""The digests that name things: of a file, and of a set."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from .release_layout import format_sums


def file_sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal, in constant memory. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def set_digest(sha256_by_name: Mapping[str, str]) -> str:
    """The name of one exact set: SHA-256 over its lines as sha256sum prints them, sorted by name."""
    return hashlib.sha256(format_sums(sha256_by_name).encode()).hexdigest()
