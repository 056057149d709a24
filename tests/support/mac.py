"""pip on any machine, told to take what it would take on a Mac with Apple Silicon."""

from __future__ import annotations

from scripts.asset_build.guest_sets import wheel_row
from tests.support.sets import SET

_PLATFORM = wheel_row(SET).platform_tags[0]

AS_ON_A_MAC = ("--platform", _PLATFORM, "--only-binary=:all:")
"""pip's options that take the wheel of a Mac; pip wants `--target` or `--dest` beside them."""
AS_ON_A_MAC_VARIABLES = {"PIP_PLATFORM": _PLATFORM, "PIP_ONLY_BINARY": ":all:", "PIP_NO_DEPS": "1"}
"""The same as the environment of a pip that something else starts."""
