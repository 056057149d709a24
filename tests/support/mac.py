"""pip on any machine, told to take what it would take on a Mac with Apple Silicon."""

from __future__ import annotations

from tests.support.sets import PLATFORM_TAG

AS_ON_A_MAC = ("--platform", PLATFORM_TAG, "--only-binary=:all:")
"""pip's options that take the wheel of a Mac; pip wants `--target` or `--dest` beside them."""
AS_ON_A_MAC_VARIABLES = {"PIP_PLATFORM": PLATFORM_TAG, "PIP_ONLY_BINARY": ":all:", "PIP_NO_DEPS": "1"}
"""The same as the environment of a pip that something else starts."""
