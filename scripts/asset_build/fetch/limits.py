"""How long a fetch may take."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """How long a fetch may take; times in seconds.

    `connect` and `silence` (no byte arrives) end one try, `total` ends the fetch of all files. `tries` is how many
    tries in a row may bring next to nothing. The wait between two tries starts at `backoff` and doubles, up to
    `longest_wait`. A host that asks for a longer wait than that is not asked again.
    """

    connect: float = 10
    silence: float = 30
    total: float = 1800
    tries: int = 6
    backoff: float = 0.5
    longest_wait: float = 60


LIMITS = Limits()
