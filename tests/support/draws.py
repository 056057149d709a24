"""What tests/guest/draws.c draws at random on CPU 1 of a guest, and records in /draws."""

from __future__ import annotations

import struct

from tests.support.native_agent import wait_until
from tests.support.snapshot import Guest

DRAWS = 100
"""How many draws of each guest are compared, at the least."""

Record = tuple[int, bytes]
"""The time of a draw, in nanoseconds since the guest's boot, and what was drawn."""


def more_records(running: Guest) -> list[Record]:
    """All that it has recorded, once it has recorded enough since this call began."""
    before = len(_records(running))
    wait_until(lambda: len(_records(running)) >= before + DRAWS)
    return _records(running)


def assert_draws_differ(first: list[Record], second: list[Record]) -> None:
    """From the first that was not recorded before the snapshot: its CPU was parked, and had a key of its own."""
    saved = next(number for number, (one, other) in enumerate(zip(first, second)) if one != other)
    assert saved >= DRAWS, "what was recorded before is the same"
    after = [{draw for _, draw in found[saved:]} for found in (first, second)]
    assert min(map(len, after)) >= DRAWS
    assert not after[0] & after[1]


def _records(running: Guest) -> list[Record]:
    content = running.agent.read("/draws")[0]
    return list(struct.iter_unpack("<Q16s", content[: len(content) // 24 * 24]))
