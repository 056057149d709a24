"""Split virtqueues in a guest's memory, seen from the device (virtio 1.2, section 2.7).

Whatever is read here was written by the guest, so every address, index and length is checked before it is used.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Sequence
from typing import NamedTuple

_DESCRIPTOR = struct.Struct("<QIHH")
_USED = struct.Struct("<II")
_NEXT, _WRITE, _INDIRECT = 1, 2, 4
_NO_INTERRUPT = 1
MAX_QUEUE = 32768


class GuestError(Exception):
    """The guest, or QEMU for it, broke the protocol. The text says what was expected and what was found."""


class Region(NamedTuple):
    """A part of the guest's memory: its address in the guest, its address in QEMU, and its bytes."""

    guest: int
    user: int
    view: memoryview


class Memory:
    """The guest's memory. Both look-ups give a writable view, and raise GuestError for what is not memory."""

    def __init__(self, regions: Sequence[Region]) -> None:
        self._regions = list(regions)

    def guest(self, address: int, size: int) -> memoryview:
        """`size` bytes at a guest-physical address."""
        for region in self._regions:
            start = address - region.guest
            if start >= 0 and start + size <= len(region.view):
                return region.view[start : start + size]
        raise GuestError(f"expected {size} bytes of the guest's memory at {address:#x}, found none there")

    def user(self, address: int, size: int) -> memoryview:
        """`size` bytes at an address of QEMU's own, which is how vhost-user gives the rings' places."""
        for region in self._regions:
            start = address - region.user
            if start >= 0 and start + size <= len(region.view):
                return region.view[start : start + size]
        raise GuestError(f"expected a ring of {size} bytes at QEMU's {address:#x}, found no shared memory there")

    def by_guest_addresses(self) -> Memory:
        """The same memory, in which `user` takes guest-physical addresses."""
        return Memory([region._replace(user=region.guest) for region in self._regions])


class Chain(NamedTuple):
    """A chain of descriptors that the guest made available: what is to be read, and what may be written."""

    head: int
    readable: list[memoryview]
    writable: list[memoryview]


class Queue:
    """One virtqueue. `peek` shows the next chain, `use` gives it back, `notify` tells the guest of all given back."""

    def __init__(
        self, memory: Memory, size: int, places: tuple[int, int, int], base: int | None, call: int | None = None
    ) -> None:
        """`places` are QEMU's addresses of the descriptors, the available ring and the used ring. The next chain is the
        one at `base`; None: the first that was not given back.
        """
        if size < 1 or size > MAX_QUEUE or size & (size - 1):
            raise GuestError(f"expected a queue size that is a power of 2 up to {MAX_QUEUE}, found {size}")
        descriptors, available, used = places
        self._memory, self._size, self._call = memory, size, call
        self._descriptors = memory.user(descriptors, 16 * size)
        self._available = memory.user(available, 4 + 2 * size).cast("H")
        self._used = memory.user(used, 4 + 8 * size)
        self._used_index = self._used[:4].cast("H")
        self._given = self._used_index[1]
        self.base = self._given if base is None else base & 0xFFFF
        self._untold = 0
        self._fence = threading.Lock()

    def peek(self) -> Chain | None:
        """Return the next chain, or None if the guest has made none available. Raises GuestError."""
        waiting = (self._available[1] - self.base) & 0xFFFF
        if not waiting:
            return None
        if waiting > self._size:
            raise GuestError(f"expected at most {self._size} available chains, found {waiting}")
        head = self._available[2 + self.base % self._size]
        return self._walk(head)

    def use(self, chain: Chain, written: int) -> None:
        """Give the chain of the last `peek` back, with `written` bytes in it."""
        _USED.pack_into(self._used, 4 + 8 * (self._given % self._size), chain.head, written)
        self._given = (self._given + 1) & 0xFFFF
        self._used_index[1] = self._given  # after the entry: stores of x86 and of the interpreter keep their order
        self.base = (self.base + 1) & 0xFFFF
        self._untold += len(chain.readable) + len(chain.writable)

    @property
    def is_pressing(self) -> bool:
        """Whether a quarter of the ring or more was given back since the last `notify`: the guest may wait for that."""
        return 4 * self._untold >= self._size

    def notify(self) -> None:
        """Interrupt the guest if anything was given back since the last time, unless it asked not to be."""
        if not self._untold or self._call is None:
            return
        self._untold = 0
        with self._fence:  # a full barrier: the index must be in memory before the flag is read
            pass
        if not self._available[0] & _NO_INTERRUPT:
            os.write(self._call, b"\1\0\0\0\0\0\0\0")

    def set_call(self, call: int | None) -> None:
        """The eventfd that interrupts the guest."""
        self._call = call

    def _walk(self, head: int) -> Chain:
        readable: list[memoryview] = []
        writable: list[memoryview] = []
        index = head
        for _ in range(self._size):
            if index >= self._size:
                raise GuestError(f"expected a descriptor below {self._size}, found {index}")
            address, length, flags, following = _DESCRIPTOR.unpack_from(self._descriptors, 16 * index)
            if flags & _INDIRECT:
                raise GuestError("expected no indirect descriptor, which was not offered, found one")
            if not flags & _WRITE and writable:
                raise GuestError("expected what is read before what is written, found it after")
            (writable if flags & _WRITE else readable).append(self._memory.guest(address, length))
            if not flags & _NEXT:
                return Chain(head, readable, writable)
            index = following
        raise GuestError(f"expected a chain of at most {self._size} descriptors, found a longer one or a loop")
