"""An arm64 Linux Image: whole by its own header."""

import struct

from supermachine_kernel import InspectionError

from .kernel_facts import BANNER, KernelFacts, describe_format, has_af_tsi

# Documentation/arch/arm64/booting.rst, "Call the kernel image": the header of an Image is 64 bytes.
_HEADER = struct.Struct("<8s 8x QQ 24x 4s 4x")
_MAGIC = b"ARM\x64"
_BIG_ENDIAN = 1 << 0

_EXPECTED = "an uncompressed arm64 Linux Image"
_CURE = "take arch/arm64/boot/Image of the kernel build"


def verify_arm64_image(data: bytes, name: str) -> KernelFacts:
    """Verify that `data` is a little-endian arm64 Image with a Linux banner, whole by its own `image_size`.

    The header does not say how long the file is, only what it takes up in memory: a loss of less than half of
    that shows in the digests alone.
    """
    if len(data) < _HEADER.size or data[56:60] != _MAGIC:
        other = describe_format(data)
        if not other and len(data) >= _HEADER.size:
            other = f"{data[56:60]!r} where its magic {_MAGIC!r} should be (offset 56)"
        raise InspectionError(name, _EXPECTED, other or f"{len(data)} bytes", _CURE)
    code, image_size, flags, _ = _HEADER.unpack_from(data)
    if code == bytes(8):  # the first two instructions, at which a boot loader starts the kernel
        raise InspectionError(name, "an instruction to start at", "zeros (offset 0)", _CURE)
    if flags & _BIG_ENDIAN:
        cure = "build without CONFIG_CPU_BIG_ENDIAN"
        raise InspectionError(name, "a little-endian kernel", "a big-endian one", cure)
    if len(data) > image_size:
        cure = "something is appended, or the header is damaged: take the Image as the kernel build left it"
        raise InspectionError(name, f"at most its image_size, {image_size} bytes", f"{len(data)} bytes", cure)
    banner = BANNER.search(data)
    if banner is None or len(data) < image_size // 2:
        found = f"{len(data)} of {image_size} bytes" + ("" if banner else " and no 'Linux version' banner")
        cure = "it is truncated or not Linux: copy or build it again"
        raise InspectionError(name, "a whole Linux Image", found, cure)
    return KernelFacts(banner.group(1).decode(), has_af_tsi(data), image_size, data)
