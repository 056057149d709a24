"""A VMM's loader in miniature: it reads the kernel's header in the mapped file and puts the Image into guest memory.

python3 vmm.py FILE    FILE is to become the guest memory that holds the kernel
"""

import mmap
import struct
import sys
from typing import NamedTuple

import supermachine_kernel

# Documentation/arch/arm64/booting.rst, "Call the kernel image": 64 bytes, little-endian.
HEADER = struct.Struct("<II QQQ QQQ 4s I")
BASE = 2 << 20  # any boundary of 2 MiB in the guest's memory


class Header(NamedTuple):
    """What a boot loader needs of an Image: offset and size in bytes."""

    text_offset: int
    image_size: int


def read_header(image: memoryview) -> Header:
    """Read the header where it lies. Raises ValueError when it is none."""
    _, _, text_offset, image_size, _, _, _, _, magic, _ = HEADER.unpack_from(image)
    if magic != b"ARM\x64":
        raise ValueError(f"expected the magic of an arm64 Image, found {magic!r}")
    return Header(text_offset, image_size)


def main() -> None:
    with supermachine_kernel.KERNEL.view() as image:
        header = read_header(image)
        entry = BASE + header.text_offset
        with open(sys.argv[1], "w+b") as file:
            file.truncate(entry + header.image_size)
            with mmap.mmap(file.fileno(), 0) as memory, memoryview(memory) as guest:
                guest[entry : entry + len(image)] = image  # the only copy: from the file's pages into the guest's
        print(f"{len(image):#x} bytes of kernel, {header.image_size:#x} reserved: jump to {entry:#x}")


if __name__ == "__main__":
    main()
