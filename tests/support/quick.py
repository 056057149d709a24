"""Which of a test's cases `scripts/test.py --quick` runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def sampled(cases: Iterable[Any]) -> list[Any]:
    """The cases for `pytest.mark.parametrize`: the first is in the quick run too, the others are not."""
    first, *others = cases
    values = (each if isinstance(each, tuple) else (each,) for each in others)
    return [first, *(pytest.param(*each, marks=pytest.mark.whole_run) for each in values)]
