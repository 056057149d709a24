"""Fixtures of the tests that every supported Python runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support import child

# A busy machine is no fault of what is tested.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.fixture
def module_copy(installed: Path, tmp_path: Path) -> Path:
    """A copy of the installed module, which a test may change; a folder to have on the path."""
    return child.copy_of(installed, tmp_path)
