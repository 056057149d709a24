"""What a person sees of a fetch on standard error: a bar on a terminal, lines of text elsewhere."""

import sys
import threading
from typing import NoReturn, Optional

from tqdm import tqdm


class Progress:
    """A bar that several downloads move; `total` is the sum of their bytes where it is known."""

    def __init__(self, total: Optional[int]) -> None:
        self._lock = threading.Lock()
        # disable=None: no bar where standard error is no terminal
        self._bar: tqdm[NoReturn] = tqdm(
            total=total, unit="B", unit_scale=True, unit_divisor=1024, leave=False, file=sys.stderr, disable=None
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def advance(self, count: int) -> None:
        """Count `count` more bytes; a negative number when they are to be received again."""
        with self._lock:
            self._bar.update(count)

    def note(self, text: str) -> None:
        """Write a line."""
        tqdm.write(text, file=sys.stderr)
