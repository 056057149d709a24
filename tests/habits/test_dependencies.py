"""What the project's environments have is locked, and the lock says what pyproject.toml says."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts import lock_dependencies
from scripts.machine import environments
from scripts.machine.environments import LOCKS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

GROUPS = ("build", "index", "module", "test")


@pytest.fixture(scope="module")
def pyproject(project: Path) -> dict[str, Any]:
    return tomllib.loads((project / "pyproject.toml").read_text())


def requirements_of(group: str, pyproject: dict[str, Any]) -> set[str]:
    """The requirements of a dependency group and of those it includes, without extras and markers."""
    names: set[str] = set()
    for each in pyproject["dependency-groups"][group]:
        if isinstance(each, dict):
            names |= requirements_of(each["include-group"], pyproject)
        else:
            names.add(normalized(each))
    return names


def normalized(requirement: str) -> str:
    """The requirement as a lock has it: without extras and markers, the name in small letters (PEP 503)."""
    name, version = re.sub(r"\[[^]]*\]", "", requirement.partition(";")[0]).strip().split("==")
    return re.sub(r"[-_.]+", "-", name).lower() + "==" + version


def locked_in(group: str) -> list[str]:
    """The requirements of a lock, each with the lines of its hashes."""
    text = (LOCKS / f"{group}.txt").read_text()
    return re.split(r"\n(?=[a-z])", "\n".join(line for line in text.splitlines() if not line.startswith("#")).strip())


def test_every_environment_has_a_lock_and_every_lock_an_environment() -> None:
    assert sorted(path.stem for path in LOCKS.iterdir()) == sorted(GROUPS)


@pytest.mark.parametrize("group", GROUPS)
def test_the_lock_has_what_pyproject_asks_for(group: str, pyproject: dict[str, Any]) -> None:
    wanted = requirements_of(group, pyproject)
    if group in ("build", "test"):
        wanted |= {normalized(each) for each in pyproject["build-system"]["requires"]}
    locked = {each.split()[0] for each in locked_in(group)}
    assert wanted <= locked, "run python3 scripts/lock_dependencies.py"


@pytest.mark.parametrize("group", GROUPS)
def test_every_locked_package_has_one_version_and_a_hash(group: str) -> None:
    for each in locked_in(group):
        assert re.fullmatch(r"[a-z0-9-]+==\S+( ; [^\n]+)?( \\\n    --hash=sha256:[0-9a-f]{64})+", each), each


@pytest.mark.parametrize("group", GROUPS)
def test_no_lock_names_the_index_it_was_made_from(group: str) -> None:
    text = (LOCKS / f"{group}.txt").read_text()
    assert not re.search(r"://|--index|--find-links|--extra", text)


def test_uv_locks_without_the_settings_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A program in the place of uv writes down what it was given."""
    uv, requires = tmp_path / "uv", tmp_path / "requires.txt"
    told = f"import json, os, sys; json.dump([sys.argv, dict(os.environ)], open({str(tmp_path / 'told')!r}, 'w'))"
    uv.write_text(f"#!{sys.executable}\n{told}\n")
    uv.chmod(0o755)
    monkeypatch.setattr(environments, "ensure", lambda group: tmp_path / "python")
    for name in [name for name in os.environ if name.startswith("UV_")]:
        monkeypatch.delenv(name)
    kept = {"UV_DEFAULT_INDEX": "https://index.example/simple", "UV_SYSTEM_CERTS": "1"}
    others = {"UV_CONSTRAINT": "c.txt", "UV_EXTRA_INDEX_URL": "https://other.example", "UV_CONFIG_FILE": "uv.toml"}
    for name, value in {**kept, **others, "HTTPS_PROXY": "http://proxy.example"}.items():
        monkeypatch.setenv(name, value)
    lock_dependencies.lock_group(tmp_path / "index.txt", requires, upgrade=False)
    arguments, variables = json.loads((tmp_path / "told").read_text())
    assert {name: value for name, value in variables.items() if name.startswith("UV_")} == kept
    assert variables["HTTPS_PROXY"] == "http://proxy.example"
    assert "--no-config" in arguments, "else uv reads the user's uv.toml"
