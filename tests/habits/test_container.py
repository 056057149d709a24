"""The container for those who have no Debian: its steps in a clean root, and the command that starts it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from scripts.machine.packages import LIST, PACKAGE_OF
from tests.support import clean_root, dockerfile

WHOLE = os.environ.get("SUPERMACHINE_TEST_CONTAINER") == "1"
"""Whether the packages are installed and the quick tests run: half an hour, and 3 GB. Else apt only simulates."""


def packages() -> list[str]:
    return [line.split()[0] for line in LIST.read_text().splitlines()]


@pytest.mark.slow
def test_the_steps_of_the_container_run_in_a_clean_root(project: Path, tmp_path: Path) -> None:
    def prepare(root: Path) -> None:
        """Give the root what the image has and a fresh root has not: a name server, and updates of the suite."""
        shutil.copy("/etc/resolv.conf", root / "etc" / "resolv.conf")
        wanted = ["--format", "deb $(REPO_URI) $(CODENAME) $(COMPONENT)", "Created-By: Packages", "Origin: Debian"]
        listed = subprocess.run(["apt-get", "indextargets", *wanted], capture_output=True, text=True, check=True).stdout
        sources = [line for line in listed.splitlines() if line.split()[2].startswith(clean_root.SUITE)]
        (root / "etc/apt/sources.list").write_text("\n".join(sorted({*sources})) + "\n")
        if not WHOLE:
            (root / "etc/apt/apt.conf.d/simulate").write_text('APT::Get::Simulate "true";\n')

    root = dockerfile.build(project / ".devcontainer" / "Dockerfile", LIST.parent, tmp_path, prepare=prepare)
    install = ["sh", "-c", "cut -d ' ' -f 1 /tmp/debian-packages.txt | xargs apt-get install --simulate"]
    simulated = clean_root.run_in(root, *install)
    missing = [name for name in packages() if f"Inst {name} " not in simulated]
    there = clean_root.run_in(root, "dpkg-query", "--show", "--showformat", "${Package}\n").split()
    assert set(missing) <= set(there)
    if WHOLE:
        subprocess.run(["cp", "-r", project, root / "src"], check=True)
        clean_root.run_in(root, "sh", "-c", "cd /src && python3 scripts/test.py --quick")


def test_the_list_is_sorted_and_names_each_package_and_command_once() -> None:
    names = packages()
    assert names == sorted(set(names))
    commands = [command for line in LIST.read_text().splitlines() for command in line.split()[1:]]
    assert len(commands) == len(PACKAGE_OF)


ENGINE = """\
#!/bin/sh
echo "$0 $*" >> "$CALLS"
"""


def run(project: Path, tmp_path: Path, *arguments: str, engine: str | None) -> subprocess.CompletedProcess[str]:
    """Run container.sh where the only container engine writes down how it was called."""
    for tool in ("bash", "dirname", "env"):
        (tmp_path / tool).symlink_to(f"/usr/bin/{tool}")
    if engine is not None:
        (tmp_path / engine).write_text(ENGINE)
        (tmp_path / engine).chmod(0o755)
    command = ["/bin/bash", str(project / "scripts" / "container.sh"), *arguments]
    inside = {"PATH": str(tmp_path), "CALLS": str(tmp_path / "calls")}
    return subprocess.run(command, cwd=tmp_path, env=inside, capture_output=True, text=True, check=False, stdin=-3)


@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_the_command_is_built_for_and_run_in_the_checkout_as_it_was_given(
    engine: str, project: Path, tmp_path: Path
) -> None:
    done = run(project, tmp_path, "python3", "scripts/wheel.py", "--out", "a folder", engine=engine)
    assert (done.returncode, done.stderr) == (0, "")
    build, start = (tmp_path / "calls").read_text().splitlines()
    assert build.startswith(f"{tmp_path}/{engine} build ")
    file, context = build.split()[-2:]
    assert (project / file).is_file() and (project / context / "debian-packages.txt").is_file()
    assert f"--volume {project}:/src --workdir /src" in start
    assert "--volume supermachine-kernel-cache:/cache " in start
    assert "ENV XDG_CACHE_HOME=/cache\n" in (project / file).read_text()
    assert "target=/cache," in (project / ".devcontainer" / "devcontainer.json").read_text()
    assert start.endswith("supermachine-kernel python3 scripts/wheel.py --out a folder")


def test_without_an_engine_or_a_command_one_line_says_what_to_do(project: Path, tmp_path: Path) -> None:
    done = run(project, tmp_path, "true", engine=None)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "expected docker or podman on the PATH, found neither; install one of them" in done.stderr
    usage = subprocess.run(["bash", project / "scripts" / "container.sh"], capture_output=True, text=True, check=False)
    assert (usage.returncode, usage.stderr) == (2, "usage: scripts/container.sh COMMAND [ARGUMENT...]\n")
