"""The digests that name things: of a file, and of a set."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, Optional

from .release_layout import format_sums


def file_sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal, in constant memory. Raises OSError."""
    with path.open("rb") as file:
        return stream_sha256(file)


def stream_sha256(file: BinaryIO, limit: Optional[int] = None) -> str:
    """SHA-256 of what is left of an open file, or of its next `limit` bytes. Raises OSError."""
    digest = hashlib.sha256()
    while chunk := file.read(1 << 20 if limit is None else min(1 << 20, limit)):
        digest.update(chunk)
        limit = None if limit is None else limit - len(chunk)
    return digest.hexdigest()


def set_digest(sha256_by_name: Mapping[str, str]) -> str:
    """The name of one exact set: SHA-256 over its lines as sha256sum prints them, sorted by name."""
    return hashlib.sha256(format_sums(sha256_by_name).encode()).hexdigest()
