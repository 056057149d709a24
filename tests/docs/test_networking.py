"""Each fault in docs/networking.md names the tests that it does not occur, and they are there."""

from __future__ import annotations

import re
from pathlib import Path

PROJECT = Path(__file__).parents[2]
TEXT = (PROJECT / "docs" / "networking.md").read_text(encoding="utf-8")


def test_every_test_that_a_fault_names_is_there() -> None:
    section = TEXT.partition("## What is known to go wrong")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:-1] for line in section.splitlines() if line.startswith("| ")][1:]
    named = [re.findall(r"`(\w+)`", row[-1]) for row in rows]
    assert len(rows) > 20
    assert all(named)
    cases = "\n".join(path.read_text() for path in (PROJECT / "tests/guest/tsi").glob("*.c"))
    tests = "\n".join(path.read_text() for path in (PROJECT / "tests/guest").glob("test_*.py"))
    known = {*re.findall(r"^(?:CASE|FAULT)\((\w+)\)", cases, re.MULTILINE)}
    known |= {*re.findall(r"^def (test_\w+)", tests, re.MULTILINE)}
    assert {name for names in named for name in names} - known == set()
