"""What the shell scripts of the project do whatever their caller has exported."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
FIRST_FOLDERS = re.compile(r'^(?:unset CDPATH|.*\bcd "\$(?:\(dirname|1").*)$', re.MULTILINE)
SCRIPTS = [
    file.relative_to(PROJECT)
    for file in [*PROJECT.glob("examples/*/*.sh"), PROJECT / "scripts" / "container.sh", PROJECT / ".ci" / "run"]
    if FIRST_FOLDERS.search(file.read_text())
]


@pytest.mark.parametrize("script", SCRIPTS, ids=str)
def test_a_script_goes_to_the_folders_it_means_whatever_cdpath_is(script: Path, tmp_path: Path) -> None:
    lines = "\n".join(FIRST_FOLDERS.findall((PROJECT / script).read_text())).replace("${BASH_SOURCE[0]}", "$0")
    for place in ("here", "elsewhere"):
        for folder in (script.parent, script.parent.parent / "Resources", Path("out")):
            (tmp_path / place / folder).mkdir(parents=True, exist_ok=True)
    show = 'pwd; printf "%s\\n" "${here-}" "${resources-}" "${out-}"'
    inside = {**os.environ, "CDPATH": str(tmp_path / "elsewhere")}
    command = ["bash", "-c", f"set -eu\n{lines}\n{show}", str(script), "out"]
    done = subprocess.run(command, cwd=tmp_path / "here", env=inside, capture_output=True, text=True, check=True)
    assert "elsewhere" not in done.stdout
