"""Structural proof by kind: an arm64 Linux Image, a static AArch64 program, a module that a kernel can load.

Each verifier takes the content and what an error calls it, and raises InspectionError.
"""

from .kernel import KernelFacts, verify_kernel
from .module import verify_module
from .program import verify_program

__all__ = ["KernelFacts", "verify_kernel", "verify_module", "verify_program"]
