"""QEMU's replay log: how many instructions had run when each byte of the console was written.

The format is that of QEMU's docs/devel/replay.rst and replay/replay-internal.h, of the version that VERSION says.
Numbers are big-endian. A log of which one event is not understood gives no figure: the log must end with its last
event, and have as many bytes of the console as the console has shown.
"""

from __future__ import annotations

import struct
from pathlib import Path

from scripts.benchmarks.figure import BenchError

VERSION = 0xE0200C
_HEADER = 12
_INSTRUCTIONS, _CONSOLE, _RANDOM, _END = 0, 22, 27, 39
_BOTTOM_HALF, _BOTTOM_HALF_ONCE, _BLOCK = 3, 4, 8
_PAYLOAD = {
    _INSTRUCTIONS: 4,
    1: 0,  # an interrupt
    2: 0,  # an exception
    _BOTTOM_HALF: 8,
    _BOTTOM_HALF_ONCE: 8,
    _BLOCK: 8,
    **dict.fromkeys(range(10, 22), 0),  # a shutdown
    _CONSOLE: 8,
    28: 8,  # the host's clock
    29: 8,  # the clock of a guest that waits
    **dict.fromkeys(range(30, 39), 0),  # checkpoints
}
"""Bytes behind the event's own; what is not here is an event of a device that the guest does not have."""


def instructions_of_console(log: Path, console: int) -> list[int]:
    """The number of instructions before each of the `console` bytes of the console. Raises BenchError."""
    content = log.read_bytes()
    version = int.from_bytes(content[:4], "big")
    if version != VERSION:
        cure = "measure with QEMU 7.2, as Debian 12 has it"
        raise BenchError(str(log), f"a replay log of version {VERSION:#x}", f"{version:#x}", cure)
    at, total = _HEADER, 0
    written: list[int] = []
    while at < len(content) and content[at] != _END:
        event = content[at]
        at += 1
        if event == _INSTRUCTIONS:
            total += struct.unpack_from(">I", content, at)[0]
        elif event == _CONSOLE:
            written += [total] * struct.unpack_from(">I", content, at)[0]
        elif event == _RANDOM:
            at += 8 + struct.unpack_from(">I", content, at + 4)[0]
            continue
        elif event not in _PAYLOAD:
            raise BenchError(str(log), "events of a guest without disks and network", f"event {event} at byte {at - 1}")
        at += _PAYLOAD[event]
    if at != len(content) - 1 or len(written) != console:
        found = f"{len(written)} bytes of the console, and {len(content) - at - 1} bytes behind the last event"
        raise BenchError(str(log), f"{console} bytes of the console, and nothing behind the last event", found)
    return written
