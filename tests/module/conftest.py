"""Fixtures of the tests that every supported Python runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import child


@pytest.fixture
def module_copy(installed: Path, tmp_path: Path) -> Path:
    """A copy of the installed module, which a test may change; a folder to have on the path."""
    return child.copy_of(installed, tmp_path)
