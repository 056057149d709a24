"""The table of wheels is the one place that knows a wheel's platform tags."""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.tags import Tag, parse_tag, sys_tags
from packaging.utils import canonicalize_name, parse_wheel_filename

from scripts.asset_build import guest_sets
from scripts.asset_build.audit.reader import PACKAGE, read_wheel
from scripts.asset_build.errors import BuildError
from scripts.asset_build.guest_sets import (
    GUEST_SETS,
    WHEEL_ROWS,
    WheelRow,
    chosen_set,
    set_of_this_machine,
    wheel_row,
)
from scripts.asset_build.lock import read_lock_file
from scripts.asset_build.wheel.sources import resolve

PROJECT = Path(__file__).parents[2]
TABLE = "scripts/asset_build/guest_sets.py"


def test_each_set_has_one_wheel() -> None:
    """No row has a set that kernel-build does not know, and none has that of another row."""
    assert sorted(row.guest_set for row in WHEEL_ROWS) == sorted(GUEST_SETS)
    assert [wheel_row(name).guest_set for name in GUEST_SETS] == [*GUEST_SETS]
    with pytest.raises(KeyError):
        wheel_row("mips")


def test_the_platform_of_several_tags_is_a_compressed_tag_set() -> None:
    row = WheelRow("x", ("musllinux_1_2_x86_64", "manylinux_2_17_x86_64"), frozenset(), "nowhere")
    assert row.platform_tag == "manylinux_2_17_x86_64.musllinux_1_2_x86_64"
    assert parse_tag(f"py3-none-{row.platform_tag}") == {Tag(*tag.split("-", 2)) for tag in row.tags}


def test_every_other_spelling_of_a_mac_s_tag_is_one_of_the_table_s() -> None:
    """Documentation, workflows and examples are read without Python and spell it; Python files take the table's."""
    tags = {tag for row in WHEEL_ROWS for tag in row.platform_tags}
    listed = ["git", "-C", str(PROJECT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = filter(None, subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split("\0"))
    spelled = {}
    for name in names:
        if (PROJECT / name).is_file() and Path(name).suffix in {"", ".md", ".py", ".yml", ".sh", ".toml", ".cfg"}:
            found = set(re.findall(r"macosx_\d+_\d+_arm64", (PROJECT / name).read_text(errors="replace")))
            spelled.update({name: found} if found else {})
    assert {name: found - tags for name, found in spelled.items() if not name.startswith("tests/")} == {
        name: set() for name in spelled if not name.startswith("tests/")
    }
    in_python = {name for name in spelled if name.endswith(".py") and not name.startswith("tests/")}
    assert in_python == {TABLE}


def test_the_audit_reads_the_name_of_a_wheel_as_packaging_does(wheel: Path, custom_wheel: Path) -> None:
    """The audit does so by itself, because it runs on a Python without any package."""
    for path in (wheel, custom_wheel):
        name, version, build, tags = parse_wheel_filename(path.name)
        read = read_wheel(path)
        assert (name, str(version), build) == (canonicalize_name(PACKAGE), read.version, ())
        assert tags == parse_tag(path.stem.split("-", 2)[2])


def test_a_set_that_does_not_exist_is_one_line() -> None:
    with pytest.raises(BuildError) as caught:
        resolve(PROJECT, {"SUPERMACHINE_SET": "mips"})
    assert str(caught.value) == (
        f"SUPERMACHINE_SET: expected one of {', '.join(GUEST_SETS)}, found mips; name one of these, or unset it"
    )


def test_a_lock_with_a_set_that_does_not_exist_is_one_line(tmp_path: Path) -> None:
    lock = tmp_path / "assets.lock.json"
    lock.write_text(json.dumps({"format": 1, "version": "1", "sets": {"mips": {}}}))
    with pytest.raises(BuildError) as caught:
        read_lock_file(lock)
    assert f"found the set 'mips', and there are {', '.join(GUEST_SETS)}; take the file" in str(caught.value)


def test_without_a_name_the_set_is_that_of_this_machine_or_the_first() -> None:
    here = set(sys_tags())
    fitting = [name for name in GUEST_SETS if any(Tag(*tag.split("-", 2)) in here for tag in wheel_row(name).tags)]
    assert chosen_set({}).name == (fitting or [*GUEST_SETS])[0]


@pytest.mark.parametrize(("machine", "found"), [(platform.machine(), "x86_64"), ("another", "aarch64")])
def test_the_set_of_a_machine_is_that_of_the_row_with_it(
    machine: str, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever row that is; where no row has the machine, it is the first."""
    first = WheelRow("aarch64", (), frozenset({("another", platform.machine()), (sys.platform, "another")}), "others")
    second = WheelRow("x86_64", (), frozenset({(sys.platform, machine)}), "this machine, or another")
    monkeypatch.setattr(guest_sets, "WHEEL_ROWS", (first, second))
    assert set_of_this_machine() == found


def test_a_row_names_assets_that_exist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = json.loads(guest_sets.TABLE.read_text())
    rows["aarch64"]["assets"].append("vmlinuz")
    table = tmp_path / "guest-sets.json"
    table.write_text(json.dumps(rows))
    monkeypatch.setattr(guest_sets, "TABLE", table)
    with pytest.raises(BuildError, match=r"guest-sets.json: aarch64: expected assets among kernel, .*, found vmlinuz"):
        guest_sets._read_table()
