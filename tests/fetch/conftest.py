"""What the tests of the fetch share: an empty cache, and a release in a folder."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """The variables of a build whose cache is empty."""
    return {"SUPERMACHINE_CACHE_DIR": str(tmp_path / "cache")}


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A release base: a folder with the one file."""
    from tests.support import small_release  # not before pytest_configure has put the installed module on the path

    return small_release.write_release(tmp_path / "release")
