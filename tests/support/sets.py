"""The set with which a test is run that would say the same of any."""

from __future__ import annotations

from scripts.asset_build.guest_sets import GUEST_SETS, wheel_row

SET = "aarch64"
GUEST_SET = GUEST_SETS[SET]
PLATFORM_TAG = wheel_row(SET).platform_tag
