"""What a person sees of a fetch, on standard error: a bar on a terminal, plain lines elsewhere."""

import sys
import threading
from typing import NoReturn, Optional

from tqdm import tqdm


class Progress:
    """Told by several threads how their downloads go; `total` is what comes in all, in bytes where known."""

    def __init__(self, total: Optional[int]) -> None:
        self._lock = threading.Lock()
        self._bar: Optional[tqdm[NoReturn]] = None
        if sys.stderr.isatty():
            self._bar = tqdm(total=total, unit="B", unit_scale=True, unit_divisor=1024, leave=False, file=sys.stderr)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, count: int) -> None:
        """`count` more bytes have come; negative when they are asked for again."""
        if self._bar is not None:
            with self._lock:
                self._bar.update(count)

    def note(self, text: str) -> None:
        """A line of its own."""
        with self._lock:
            if self._bar is not None:
                self._bar.write(text, file=sys.stderr)
            else:
                print(text, file=sys.stderr, flush=True)
