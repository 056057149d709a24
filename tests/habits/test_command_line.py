"""What scripts and shells see of the command line: its JSON by the schema, and completion by the real argcomplete."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from supermachine_kernel import _output
from supermachine_kernel._assets import ASSETS, KNOWN_ASSETS
from supermachine_kernel._doctor import examine
from supermachine_kernel._installation import DESCRIPTIONS
from tests.support import child


@pytest.fixture(scope="session")
def published(project: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((project / "docs" / "cli.schema.json").read_text())
    return document


@pytest.fixture(scope="session")
def jsonschema(published: dict[str, Any]) -> ModuleType:
    """The library, whose import takes seconds: a test that needs it is slow."""
    import jsonschema

    jsonschema.Draft202012Validator.check_schema(published)
    return jsonschema


@pytest.fixture(scope="session")
def schema(published: dict[str, Any]) -> dict[str, Any]:
    """The published one, which lets a later version add fields, without that: this version has what it describes."""
    strict: dict[str, Any] = json.loads(json.dumps(published))
    for definition in strict["$defs"].values():
        forbid_more(definition)
    return strict


def forbid_more(schema: Any) -> None:
    if isinstance(schema, dict):
        if "required" in schema:
            schema["additionalProperties"] = False
        for each in schema.values():
            forbid_more(each)


@pytest.fixture
def damaged(installed: Path, tmp_path: Path) -> Path:
    site = child.copy_of(installed, tmp_path)
    (site / "supermachine_kernel" / "assets" / "kernel").write_bytes(b"")
    (site / "supermachine_kernel" / "assets" / "init-oci").unlink()
    return site


COMMANDS = [
    ["info"],
    ["path"],
    ["path", "smpark.ko"],
    ["extract", "{folder}/all"],
    ["extract", "kernel", "{folder}/one"],
    ["verify"],
    ["bundle", "{folder}/bundled"],
    ["verify", "{folder}"],
    ["doctor"],
]


@pytest.mark.slow
@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_json_is_as_its_schema_says(
    arguments: list[str], schema: dict[str, Any], jsonschema: ModuleType, tmp_path: Path
) -> None:
    done = child.command_line(*(each.format(folder=tmp_path) for each in arguments), "--json")
    document = json.loads(done.stdout)
    jsonschema.validate(document, schema)
    assert document["command"] == arguments[0]
    assert done.returncode == (0 if document.get("ok", True) else 1)


@pytest.mark.slow
def test_json_of_what_is_wrong_too(damaged: Path, schema: dict[str, Any], jsonschema: ModuleType) -> None:
    for command in ("verify", "doctor"):
        done = child.command_line(command, "--json", site=damaged)
        document = json.loads(done.stdout)
        jsonschema.validate(document, schema)
        assert (done.returncode, document["ok"]) == (1, False)


@pytest.mark.slow
def test_the_receipt_is_as_its_schema_says(schema: dict[str, Any], jsonschema: ModuleType, tmp_path: Path) -> None:
    assert child.command_line("bundle", tmp_path).returncode == 0
    receipt = json.loads((tmp_path / "manifest.json").read_text())
    jsonschema.validate(receipt, {"$ref": "#/$defs/receipt", "$defs": schema["$defs"]})


def test_the_schema_knows_every_command_form_and_finding(schema: dict[str, Any]) -> None:
    commands = {definition["$ref"].rpartition("/")[2] for definition in schema["oneOf"]}
    assert commands - {"failure"} == {arguments[0] for arguments in COMMANDS}
    assert set(schema["$defs"]["installation"]["enum"]) == set(DESCRIPTIONS)
    finding = schema["$defs"]["doctor"]["properties"]["findings"]["items"]["properties"]
    of_other_sets = {asset.name for asset in KNOWN_ASSETS} - {asset.name for asset in ASSETS}
    assert set(finding["subject"]["enum"]) == {found.subject for found in examine()} | of_other_sets
    assert schema["$defs"]["name"]["enum"] == [asset.name for asset in KNOWN_ASSETS]
    assert schema["properties"]["format"]["const"] == _output.FORMAT


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"format": 2}, {"command": "infos"}, {"path": 1}])
def test_the_schema_refuses_what_it_does_not_describe(
    change: dict[str, Any], published: dict[str, Any], jsonschema: ModuleType
) -> None:
    document = {**json.loads(child.command_line("path", "--json").stdout), **change}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, published)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["info"], ["path"], ["verify"], ["doctor"]], ids=" ".join)
def test_a_field_more_is_of_the_same_format(
    arguments: list[str], published: dict[str, Any], schema: dict[str, Any], jsonschema: ModuleType
) -> None:
    document = json.loads(child.command_line(*arguments, "--json").stdout)
    inner = {"info": ("assets", "kernel"), "verify": ("files", 0), "doctor": ("findings", 0)}.get(arguments[0])
    for parent in (document, *([document[inner[0]][inner[1]]] if inner else [])):
        parent["more"] = 1
        jsonschema.validate(document, published)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(document, schema)
        del parent["more"]


class TestCompletion:
    """As `eval "$(register-python-argcomplete supermachine-kernel)"` in a shell's start-up file sets it up."""

    SCRIPT = """\
eval "$(register-python-argcomplete supermachine-kernel)"
COMP_LINE=$1 COMP_POINT=${#1} COMP_TYPE=9
read -ra COMP_WORDS <<<"$1"
[[ $1 != *' ' ]] || COMP_WORDS+=('')
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_python_argcomplete supermachine-kernel "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""

    def complete(self, line: str, installed: Path, folder: Path) -> list[str]:
        bash = shutil.which("bash")
        assert bash, "bash is missing"
        programs = folder / "programs"
        programs.mkdir(exist_ok=True)
        (programs / "supermachine-kernel").write_text(
            f"#!{sys.executable}\n" + (installed / "bin" / "supermachine-kernel").read_text().partition("\n")[2]
        )
        (programs / "supermachine-kernel").chmod(0o755)
        path = os.pathsep.join((str(programs), str(Path(sys.executable).parent), os.environ["PATH"]))
        environment = child.environment_with(None, {"PATH": path, "IFS": ""})
        command = [bash, "--norc", "-c", self.SCRIPT, "bash", line]
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return sorted(done.stdout.split())

    @pytest.mark.parametrize(
        ("line", "expected"),
        [
            ("supermachine-kernel ver", ["verify"]),
            ("supermachine-kernel b", ["bundle"]),
            ("supermachine-kernel path ke", ["kernel"]),
            ("supermachine-kernel path s", ["smpark.ko", "supermachine-agent"]),
            ("supermachine-kernel extract init", ["init-oci"]),
            ("supermachine-kernel extract kernel sm", ["smpark.ko"]),
            ("supermachine-kernel doctor --j", ["--json"]),
        ],
    )
    def test_commands_options_and_assets_are_completed(
        self, line: str, expected: list[str], installed: Path, tmp_path: Path
    ) -> None:
        assert self.complete(line, installed, tmp_path) == expected

    def test_folders_are_completed(self, installed: Path, tmp_path: Path) -> None:
        (tmp_path / "MyApp.app").mkdir()
        assert self.complete("supermachine-kernel bundle My", installed, tmp_path) == ["MyApp.app/"]

    def test_global_completion_finds_the_mark(self, installed: Path) -> None:
        """Global completion reads the first 1024 bytes of the module that a console script or `-m` names."""
        module = installed / "supermachine_kernel" / "__main__.py"
        assert b"PYTHON_ARGCOMPLETE_OK" in module.read_bytes()[:1024]
        done = subprocess.run(
            [sys.executable, "-m", "argcomplete._check_console_script", installed / "bin" / "supermachine-kernel"],
            env=child.environment_with(None, {}),
            check=False,
        )
        assert done.returncode == 0

    def test_without_argcomplete_the_shell_gets_nothing_and_no_traceback(self, tmp_path: Path) -> None:
        (tmp_path / "argcomplete.py").write_text("raise ImportError")
        site = f"{tmp_path}{os.pathsep}{os.environ['PYTHONPATH']}"
        done = child.command_line("--version", _ARGCOMPLETE="1", PYTHONPATH=site)
        assert (done.returncode, done.stderr) == (0, "")
