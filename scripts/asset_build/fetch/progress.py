"""What a person sees of a fetch on standard error: a bar on a terminal, and lines of text."""

import sys
from typing import NoReturn, Optional

from tqdm import tqdm


def progress_bar(total: Optional[int]) -> "tqdm[NoReturn]":
    """A bar for `total` bytes, where that is known; where standard error is no terminal, it is not shown."""
    return tqdm(total=total, unit="B", unit_scale=True, unit_divisor=1024, leave=False, file=sys.stderr, disable=None)


def note(text: str) -> None:
    """Write a line."""
    tqdm.write(text, file=sys.stderr)
