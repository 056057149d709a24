"""A guest's driver of a virtqueue, in memory of this process: whatever a guest can write, right or wrong."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Sequence
from typing import NamedTuple

from scripts.guest.virtqueue import Memory, Queue, Region

GUEST, USER, SIZE = 0x4000_0000, 0x7F00_0000_0000, 1 << 20
DESCRIPTORS, AVAILABLE, USED, BUFFERS = 0, 4096, 8192, 16384
WRITE, NEXT = 2, 1


class Descriptor(NamedTuple):
    """As it is in memory; `address` is of the guest."""

    address: int
    length: int
    flags: int
    next: int = 0


class Driver:
    """One queue of `size` entries; its rings are at the beginning of `memory`, its buffers at GUEST + BUFFERS."""

    def __init__(self, size: int = 8) -> None:
        self.size = size
        self.bytes = mmap.mmap(-1, SIZE)
        self.memory = Memory([Region(GUEST, USER, memoryview(self.bytes))])
        self._offered = 0
        self._seen = 0

    @property
    def places(self) -> tuple[int, int, int]:
        """The addresses that QEMU would tell."""
        return USER + DESCRIPTORS, USER + AVAILABLE, USER + USED

    def queue(self) -> Queue:
        """The device's view."""
        return Queue(self.memory, self.size, self.places, 0)

    def describe(self, index: int, descriptor: Descriptor) -> None:
        """Write one descriptor."""
        struct.pack_into("<QIHH", self.bytes, DESCRIPTORS + 16 * index, *descriptor)

    def offer(self, head: int) -> None:
        """Make the chain that begins at `head` available."""
        struct.pack_into("<H", self.bytes, AVAILABLE + 4 + 2 * (self._offered % self.size), head & 0xFFFF)
        self._offered += 1
        struct.pack_into("<H", self.bytes, AVAILABLE + 2, self._offered & 0xFFFF)

    def send(self, *pieces: bytes) -> None:
        """Offer a chain of one descriptor for each piece, once the queue has given all former ones back."""
        place = BUFFERS
        for index, piece in enumerate(pieces):
            self.bytes[place : place + len(piece)] = piece
            more = NEXT if index + 1 < len(pieces) else 0
            self.describe(index, Descriptor(GUEST + place, len(piece), more, index + 1))
            place += len(piece)
        self.offer(0)

    def receive_into(self, lengths: Sequence[int]) -> None:
        """Offer one buffer for each length, all beside each other; not more than the queue has entries."""
        place = BUFFERS
        for index, length in enumerate(lengths):
            self.describe(index, Descriptor(GUEST + place, length, WRITE))
            place += length
            self.offer(index)

    def used(self) -> list[bytes]:
        """What came into the buffers given back since the last call."""
        (index,) = struct.unpack_from("<H", self.bytes, USED + 2)
        found = []
        while self._seen & 0xFFFF != index:
            head, length = struct.unpack_from("<II", self.bytes, USED + 4 + 8 * (self._seen % self.size))
            (address,) = struct.unpack_from("<Q", self.bytes, DESCRIPTORS + 16 * head)
            found.append(self.bytes[address - GUEST : address - GUEST + length])
            self._seen += 1
        return found
