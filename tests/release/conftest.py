"""What the tests of a release share."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.staged import Staged


@pytest.fixture(scope="session")
def staged(project: Path, built_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Staged:
    """Staged once: packing a kernel takes seconds, and pytest-xdist's workers share it."""
    from tests.support.staged import stage  # the wheel's module is on the path since pytest_configure

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with (folder / "staged.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        return stage(project, built_set, folder / "staged")
