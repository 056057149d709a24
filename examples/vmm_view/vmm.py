"""A VMM's loader in miniature: it reads the kernel's header in the mapped file and puts the kernel into guest memory.

python3 vmm.py FILE    FILE is to become the guest memory that holds the kernel
"""

import mmap
import struct
import sys
from typing import NamedTuple

import supermachine_kernel

BASE = 2 << 20  # any boundary of 2 MiB in the guest's memory


class Header(NamedTuple):
    """What a boot loader needs of a kernel, in bytes: what to leave out at its beginning, where in memory the rest
    goes from `BASE` on and where it is entered, and how much memory it takes."""

    skip: int
    load: int
    entry: int
    size: int


def read_arm64(image: memoryview) -> Header:
    """Documentation/arch/arm64/booting.rst, "Call the kernel image": 64 bytes, little-endian."""
    _, _, text_offset, image_size, _, _, _, _, magic, _ = struct.unpack_from("<II QQQ QQQ 4s I", image)
    if magic != b"ARM\x64":
        raise ValueError(f"expected the magic of an arm64 Image, found {magic!r}")
    return Header(0, text_offset, text_offset, image_size)


def read_x86(image: memoryview) -> Header:
    """Documentation/arch/x86/boot.rst: the setup code stays behind, and 64-bit mode begins 0x200 after what follows."""
    magic, setup_sectors = bytes(image[0x202:0x206]), image[0x1F1]
    if magic != b"HdrS":
        raise ValueError(f"expected the magic of an x86 bzImage, found {magic!r}")
    (init_size,) = struct.unpack_from("<I", image, 0x260)
    return Header((setup_sectors + 1) * 512, 0, 0x200, init_size)


READERS = {"aarch64": read_arm64, "x86_64": read_x86}


def main() -> None:
    with supermachine_kernel.KERNEL.view() as image:
        header = READERS[supermachine_kernel.MANIFEST["set"]](image)
        start = BASE + header.load
        with open(sys.argv[1], "w+b") as file:
            file.truncate(start + max(header.size, len(image)))
            with mmap.mmap(file.fileno(), 0) as memory, memoryview(memory) as guest:
                kernel = image[header.skip :]
                guest[start : start + len(kernel)] = kernel  # the only copy: from the file's pages into the guest's
                kernel.release()
        print(f"{len(image):#x} bytes of kernel, {header.size:#x} reserved: jump to {BASE + header.entry:#x}")


if __name__ == "__main__":
    main()
