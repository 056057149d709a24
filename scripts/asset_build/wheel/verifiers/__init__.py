"""Structural proof by kind: a kernel that a boot loader takes, a static program, a module that a kernel can load.

Each verifier takes the content, the format or the machine that it must be for, and what an error calls it. It raises
InspectionError.
"""

from .kernel import verify_kernel
from .kernel_facts import KernelFacts
from .module import verify_module
from .program import verify_program

__all__ = ["KernelFacts", "verify_kernel", "verify_module", "verify_program"]
