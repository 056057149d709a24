"""Every code block of the documentation is run, as its reader would run it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from sybil import Document, Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

from scripts.machine.install import AS_ON_A_MAC_VARIABLES

DOCUMENTS = sorted(path.name for path in (Path(__file__).parents[2] / "docs").glob("*.md"))


@pytest.fixture
def reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copy_of_checkout: Path, built_set: Path, wheel: Path
) -> Path:
    """A newcomer in a fresh clone with the assets built, whose pip asks for macOS and finds the wheel.

    The home folder is a new one; the caches stay, so that nothing is built or fetched again.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    shutil.copytree(built_set, copy_of_checkout / "kernel-build/out/aarch64")
    (tmp_path / "home").mkdir()
    for name, value in {
        "HOME": str(tmp_path / "home"),
        "XDG_CACHE_HOME": cache,
        "PIP_FIND_LINKS": str(wheel.parent),
        "PIP_NO_INDEX": "1",
        **AS_ON_A_MAC_VARIABLES,
        "PIP_TARGET": str(tmp_path / "site"),
        "PATH": os.pathsep.join(
            (
                str(Path(sys.executable).parent),
                str(Path(os.environ["SUPERMACHINE_TEST_INSTALLED"]) / "bin"),
                os.environ["PATH"],
            )
        ),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.chdir(copy_of_checkout)
    return copy_of_checkout


def run_bash(example: Example) -> str | None:
    command = ["bash", "-euo", "pipefail", "-c", example.parsed]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return None if done.returncode == 0 else f"ended with {done.returncode}:\n{done.stdout}"


def read_yaml(example: Example) -> str | None:
    """Workflow steps are shown as they stand in the project's own workflow, which runs them."""
    steps = yaml.safe_load(example.parsed)
    workflow = yaml.safe_load((Path(".github") / "workflows" / "ci.yml").read_text())
    known = [step for job in workflow["jobs"].values() for step in job.get("steps", [])]
    missing = [step for step in steps if step not in known]
    return f"not a step of ci.yml: {missing}" if missing else None


def read_mermaid(example: Example) -> str | None:
    """Each line is an edge or the kind of chart; GitHub draws it."""
    first, *edges = example.parsed.strip().splitlines()
    wrong = [line for line in edges if not re.search(r"-->", line)]
    return None if first == "flowchart LR" and not wrong else f"not a flow chart: {wrong or first}"


SYBIL = Sybil(
    parsers=[
        PythonCodeBlockParser(),
        CodeBlockParser(language="bash", evaluator=run_bash),
        CodeBlockParser(language="yaml", evaluator=read_yaml),
        CodeBlockParser(language="mermaid", evaluator=read_mermaid),
        SkipParser(),
    ]
)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["../README.md", *DOCUMENTS])
def test_every_block_runs(reader: Path, name: str) -> None:
    document: Document = SYBIL.parse(reader / "docs" / name)
    examples = list(document)
    languages = set(re.findall(r"^```(\w*)$", document.text, re.MULTILINE)) - {""}
    assert languages <= {"python", "bash", "yaml", "mermaid"}, "a block that nobody runs"
    for example in examples:
        example.evaluate()


def test_there_is_documentation_for_each_kind_of_user(project: Path) -> None:
    assert {"embedding.md", "maintaining.md", "troubleshooting.md", "faults.md"} <= set(DOCUMENTS)
    readme = (project / "README.md").read_text()
    for name in DOCUMENTS:
        assert f"docs/{name}" in readme, f"README.md does not lead to docs/{name}"
