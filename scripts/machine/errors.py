"""The errors a program ends with, beside those of the build."""

from __future__ import annotations

from supermachine_kernel import SupermachineKernelError


class SetupError(SupermachineKernelError):
    """This machine lacks something the program needs."""


class WheelError(SupermachineKernelError):
    """A wheel could not be built, or pip does not install it."""
