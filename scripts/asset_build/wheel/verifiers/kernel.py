"""A kernel of the format that a guest set names."""

from .arm64_image import verify_arm64_image
from .bzimage import verify_bzimage
from .kernel_facts import KernelFacts

FORMATS = {"arm64-image": verify_arm64_image, "bzimage": verify_bzimage}


def verify_kernel(data: bytes, kernel_format: str, name: str = "kernel") -> KernelFacts:
    """Verify that `data` is a whole kernel of that format, and return what it says of itself."""
    return FORMATS[kernel_format](data, name)
