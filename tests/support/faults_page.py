"""docs/faults.md: what the fault tests found, held against their run, or written by it."""

from __future__ import annotations

import os
import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "faults.md"
WRITING = "SUPERMACHINE_TEST_WRITE_FAULTS" in os.environ
"""Set by who wants the page written anew from the whole run (see its own text)."""

_HEAD = """\
# Faults of a fetch, and what comes of each

A build that takes its assets from the release ends in the right bytes or in one line, and then there is no wheel. Each
row was injected for real, on loopback, by `tests/fetch/test_transfer_faults.py`; the tests fail when a row no longer
says what happens. Host names, digests and times are taken out of the lines. To write the page anew, run
`SUPERMACHINE_TEST_WRITE_FAULTS=1 python3 scripts/test.py -- -n 0 tests/fetch/test_transfer_faults.py`.

"once" is the first request alone, "always" each of them; a line after "right bytes" is a note shown on the way.

| fault | outcome | line |
|---|---|---|
"""

_rows: dict[str, str] = {}


def record(name: str, outcome: str, line: str) -> None:
    """Hold a row against the page; when it is being written, keep it for `write`."""
    row = f"| {name} | {outcome} | {f'`{_normalised(line)}`' if line else ''} |"
    if WRITING:
        _rows[name] = row
    else:
        found = [there for there in PAGE.read_text(encoding="utf-8").splitlines() if there.startswith(f"| {name} |")]
        assert found == [row], f"{PAGE.name} is not what the run gives; its text says how to write it anew"


def names() -> list[str]:
    """The faults on the page, in order."""
    rows = PAGE.read_text(encoding="utf-8").partition("|---|---|---|\n")[2]
    return [row.split(" | ")[0].removeprefix("| ") for row in rows.splitlines()]


def write(order: list[str]) -> None:
    """Write the page from the rows of this run, which must be all of them."""
    PAGE.write_text(_HEAD + "".join(f"{_rows[name]}\n" for name in order), encoding="utf-8")


def _normalised(line: str) -> str:
    for pattern, instead in (
        (r"\b(127\.0\.0\.1|localhost)(:\d+)?", "HOST"),
        (r"/\S*/(cache|release|full)\b", r"/…/\1"),
        (r"\b[0-9a-f]{64}\b", "…"),
        (r"\b(after|byte) \d+\b", r"\1 N"),
        (r"\b\d+ tr(y|ies) in \d+ s", "N tries in N s"),
        (r"again in [\d.]+ s", "again in N s"),
        (r"\d+ by the end", "N by the end"),
        (r"v\d+\.\d+\.\d+", "v…"),
        (r"aarch64-[a-z.-]+\.xz", "NAME"),
        (r"\|", r"\\|"),
    ):
        line = re.sub(pattern, instead, line)
    return line
