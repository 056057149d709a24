"""The linters of .pre-commit-config.yaml, each on all files of the checkout; and how long a file of code may be.

Of the same list scripts/test.py runs ruff and mypy by themselves, before anything else, and test_workflows.py runs the
actionlint that is packaged whole.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import disk

PROJECT = Path(__file__).resolve().parents[2]
CONFIG = yaml.safe_load((PROJECT / ".pre-commit-config.yaml").read_text())
HOOKS: dict[str, dict[str, Any]] = {hook["id"]: hook for (repo,) in [CONFIG["repos"]] for hook in repo["hooks"]}
ELSEWHERE = {"ruff", "ruff-format", "mypy", "actionlint"}
NEEDS_PYTHON_3_11 = {"zizmor", "validate-pyproject"}


def files_of(hook: dict[str, Any]) -> list[str]:
    """The files that git knows, or would take, and that the hook is for."""
    listed = ["git", "-C", str(PROJECT), "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split("\n")
    wanted = re.compile(hook.get("files", ""))
    exclude = re.compile(hook.get("exclude", r"(?!)"))
    paths = [name for name in names if wanted.search(name) and not exclude.search(name) and (PROJECT / name).is_file()]
    if "shell" in hook.get("types", []):
        return [name for name in paths if re.match(rb"#!.*\b(ba)?sh\n", (PROJECT / name).read_bytes()[:40] + b"\n")]
    return paths


def run(hook: dict[str, Any], files: list[str], folder: Path = PROJECT) -> subprocess.CompletedProcess[str]:
    program, *options = shlex.split(hook["entry"])
    command = [str(Path(sys.executable).with_name(program)), *options, *files]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", sorted(HOOKS.keys() - ELSEWHERE))
def test_the_linter_finds_nothing(name: str) -> None:
    if name in NEEDS_PYTHON_3_11 and sys.version_info < (3, 11):
        disk.skip_or_fail(f"{name} needs Python 3.11: run the tests with that or a later one")
    files = files_of(HOOKS[name])
    assert files
    done = run(HOOKS[name], files)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "file", "content"),
    [
        ("shellcheck", "a.sh", "#!/bin/sh\necho $1\n"),
        ("shfmt", "a.sh", "#!/bin/sh\nif true; then\n  echo\nfi\n"),
        ("clang-format", "a.c", "int main(void) { return 0; }\n"),
        ("codespell", "a.md", "rec" + "ieve\n"),
        ("zizmor", "a.yml", "on: push\njobs:\n  a:\n    runs-on: x\n    steps:\n      - uses: a/b@v1\n"),
        ("validate-pyproject", "pyproject.toml", "[project]\nname = 1\n"),
    ],
)
def test_the_linter_sees_a_mistake(name: str, file: str, content: str, tmp_path: Path) -> None:
    if name in NEEDS_PYTHON_3_11 and sys.version_info < (3, 11):
        disk.skip_or_fail(f"{name} needs Python 3.11: run the tests with that or a later one")
    (tmp_path / file).write_text(content)
    for config in (".editorconfig", ".clang-format"):
        (tmp_path / config).write_bytes((PROJECT / config).read_bytes())
    assert run(HOOKS[name], [file], tmp_path).returncode != 0


def test_no_file_of_code_is_longer_than_contributing_allows() -> None:
    (most,) = re.findall(r"shell file is longer than (\d+) lines", (PROJECT / "CONTRIBUTING.md").read_text())
    code = files_of({"files": r"\.(py|pyi|c|h|S|sh)$"})
    assert len(code) > 300
    lengths = {name: len((PROJECT / name).read_text(encoding="utf-8").splitlines()) for name in code}
    assert {name: length for name, length in lengths.items() if length > int(most)} == {}


def test_the_versions_are_those_of_pyproject_and_of_the_workflow() -> None:
    pinned = (PROJECT / "pyproject.toml").read_text() + (PROJECT / ".github" / "workflows" / "ci.yml").read_text()
    for name, hook in HOOKS.items():
        for requirement in hook.get("additional_dependencies", []):
            assert requirement in pinned, name


def test_the_linters_are_those_that_the_project_has_chosen() -> None:
    assert HOOKS.keys() >= ELSEWHERE | {
        "shellcheck",
        "shfmt",
        "clang-format",
        "codespell",
        "zizmor",
        "validate-pyproject",
    }
