"""The contract's table names a test for each of its lines, and its frames and fields are those of both clients."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from scripts.guest.agent_frames import Kind, Tag

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


def numbers_of_table(heading: str) -> dict[str, int]:
    """The numbers and names of the rows below this line of a table."""
    rows = TEXT.split(f"\n{heading}\n")[1].split("\n\n")[0]
    return {name: int(number) for number, name in re.findall(r"^\| (\d+) \| (\w+) \|", rows, re.MULTILINE)}


def numbers_of_header(prefix: str) -> dict[str, int]:
    """The members of an enum in the client's header; one without a number follows the one before it."""
    header = (PROJECT / "kernel-build/agent/client.h").read_text(encoding="utf-8")
    numbers: dict[str, int] = {}
    last = 0
    for name, number in re.findall(rf"^\t{prefix}_(\w+)(?: = (\d+))?,", header, re.MULTILINE):
        last = int(number) if number else last + 1
        numbers[name] = last
    return {name: number for name, number in numbers.items() if not name.startswith("V1_")}


@pytest.mark.parametrize(
    ("heading", "prefix", "names"),
    [("| kind | | from | payload |", "FRAME", Kind), ("| tag | | in | content |", "FIELD", Tag)],
    ids=["frames", "fields"],
)
def test_frames_and_fields_are_those_of_the_clients_in_c_and_python(
    heading: str, prefix: str, names: type[Kind] | type[Tag]
) -> None:
    table = numbers_of_table(heading)
    assert len(table) == len(names)
    assert table == {member.name: member.value for member in names}
    assert table == numbers_of_header(prefix)
