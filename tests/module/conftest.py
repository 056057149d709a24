"""Fixtures of the tests that every supported Python runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import child


@pytest.fixture
def damaged(installed: Path, tmp_path: Path) -> Path:
    """A copy of the installed module for a test to damage; a folder to have on the path."""
    return child.copy_of(installed, tmp_path)
