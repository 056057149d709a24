"""The error a build stops with."""

from supermachine_kernel import SupermachineKernelError


class BuildError(SupermachineKernelError):
    """What keeps a build from being right: file or URL, expected, found, what to do."""
