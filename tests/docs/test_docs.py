"""Every code block of the documentation is run, as its reader would run it."""

from __future__ import annotations

import configparser
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

from scripts.asset_build.guest_sets import set_of_this_machine
from scripts.machine.install import install

DOCUMENTS = sorted(path.name for path in (Path(__file__).parents[2] / "docs").glob("*.md"))


@pytest.fixture(scope="session")
def native_site(native_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the wheel of this machine's own set was installed into."""
    target = tmp_path_factory.mktemp("native") / "site"
    install(Path(sys.executable), native_wheel, target)
    return target


@pytest.fixture
def reader(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    copy_of_checkout: Path,
    built_set: Path,
    x86_64_set: Path,
    wheel: Path,
    native_wheel: Path,
    native_site: Path,
) -> Path:
    """A newcomer in a fresh clone with both sets built, whose pip finds both wheels and takes this machine's.

    The home folder is a new one; the caches stay, so that nothing is built or fetched again.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    for folder in (built_set, x86_64_set):
        shutil.copytree(folder, copy_of_checkout / "kernel-build/out" / folder.name)
    (tmp_path / "home").mkdir()
    for name, value in {
        "HOME": str(tmp_path / "home"),
        "XDG_CACHE_HOME": cache,
        "PIP_FIND_LINKS": f"{wheel.parent} {native_wheel.parent}",
        "PIP_NO_INDEX": "1",
        "PIP_TARGET": str(tmp_path / "site"),
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), str(native_site / "bin"), os.environ["PATH"])),
        "PYTHONPATH": str(native_site),
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("XDG_DATA_HOME", "SUPERMACHINE_SET"):
        monkeypatch.delenv(name, raising=False)
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


def compare_output(example: Example) -> str | None:
    """After each line that begins with a dollar there is what the command prints, with other paths and digests."""
    if set_of_this_machine() != "x86_64":
        return None  # another wheel has other assets
    for command, shown in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", example.parsed, re.MULTILINE):
        done = subprocess.run(command.split(), stdout=subprocess.PIPE, text=True, check=False)
        if labels(done.stdout) != labels(shown):
            return f"{command} prints:\n{done.stdout}"
    return None


def labels(table: str) -> list[str]:
    """What each line of a table begins with, without the finding of `doctor`."""
    return re.findall(r"^(?:(?:ok|warn|bad)\s+)?([a-z][\w.-]*(?: [a-z]+)?)(?=\s)", table, re.MULTILINE)


SYBIL = Sybil(
    parsers=[
        PythonCodeBlockParser(),
        CodeBlockParser(language="bash", evaluator=run_bash),
        CodeBlockParser(language="yaml", evaluator=read_yaml),
        CodeBlockParser(language="mermaid", evaluator=read_mermaid),
        CodeBlockParser(language="text", evaluator=compare_output),
        SkipParser(),
    ]
)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["../README.md", "../examples/README.md", *DOCUMENTS])
def test_every_block_runs(reader: Path, name: str) -> None:
    document: Document = SYBIL.parse(reader / "docs" / name)
    examples = list(document)
    languages = set(re.findall(r"^```(\w*)$", document.text, re.MULTILINE)) - {""}
    assert languages <= {"python", "bash", "yaml", "mermaid", "text"}, "a block that nobody runs"
    for example in examples:
        example.evaluate()


def test_the_readme_leads_to_every_page_and_stays_short(project: Path) -> None:
    readme = (project / "README.md").read_text()
    for name in DOCUMENTS:
        assert f"/docs/{name})" in readme, f"README.md does not lead to docs/{name}"
    assert len(readme.splitlines()) <= 130


def test_the_readme_s_links_are_those_of_the_project_s_url_to_files_that_exist(project: Path) -> None:
    """An index shows the README without the repository around it, so its links are absolute."""
    setup = configparser.ConfigParser()
    setup.read(project / "setup.cfg")
    (source,) = re.findall(r"^Source = (\S+)$", setup["metadata"]["project_urls"], re.MULTILINE)
    readme = (project / "README.md").read_text()
    links = re.findall(r"\]\(([^\s)]+)\)", readme)
    assert len(links) > len(DOCUMENTS)
    for link in links:
        assert link == source or (project / link.removeprefix(f"{source}/blob/main/")).is_file(), link


def test_links_between_the_pages_lead_to_files_that_exist(project: Path) -> None:
    pages = [
        project / name for name in ("CONTRIBUTING.md", "SECURITY.md", "kernel-build/README.md", "examples/README.md")
    ]
    pages += sorted((project / "docs").glob("*.md"))
    for page in pages:
        for link in re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page}: {link}"
