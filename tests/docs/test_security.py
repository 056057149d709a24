"""Each promise of SECURITY.md names the tests that attack it, and they are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

PROJECT = Path(__file__).parents[2]
TEXT = (PROJECT / "SECURITY.md").read_text(encoding="utf-8")


def test_every_promise_names_a_test() -> None:
    rows = [line.split("|")[1:-1] for line in TEXT.splitlines() if line.startswith("| ") and "promise |" not in line]
    assert len(rows) >= 10
    assert [row[0] for row in rows if "`tests/" not in row[-1]] == []


def test_every_test_that_is_named_is_there() -> None:
    named = re.findall(r"`(tests/[\w/.]*)(?:::(\w+))?`", TEXT)
    assert named
    for path, function in named:
        assert (PROJECT / path).exists(), path
        if function:
            tree = ast.parse((PROJECT / path).read_text(encoding="utf-8"))
            names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
            assert function in names, f"{path}::{function}"
