"""The agent of the tests that need no guest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.native_agent import NativeAgent


@pytest.fixture(scope="module")
def program() -> Path:
    """The agent compiled for this machine."""
    from tests.support import native_agent  # the wheel's module is on the path since pytest_configure

    return native_agent.compile_native("native.c", native_agent.sources("client.c"))


@pytest.fixture(scope="module")
def agent(program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NativeAgent]:
    """One that runs for all tests of a file."""
    from tests.support import native_agent

    with native_agent.running(program, tmp_path_factory.mktemp("agent")) as agent:
        yield agent
