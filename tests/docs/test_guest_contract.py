"""The contract's table names a test for each of its lines, and they are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

PROJECT = Path(__file__).parents[2]
TEXT = (PROJECT / "docs/guest-contract.md").read_text(encoding="utf-8")


def rows() -> list[list[str]]:
    table = TEXT.split("\n## Facts and needs\n")[1].split("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    return [line.strip("|").split("|") for line in lines[1:]]


def test_every_fact_and_need_names_tests_that_are_there() -> None:
    guest = PROJECT / "tests/guest"
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in guest.glob("*.py")]
    there = {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    there |= {path.name for path in guest.glob("*.py")}
    assert len(rows()) > 40
    for row in rows():
        named = re.findall(r"`(test_[\w.]+)`", row[-1])
        assert named, row[0]
        assert [name for name in named if name not in there] == [], row[0]
