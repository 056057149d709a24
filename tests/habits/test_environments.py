"""The project's own environments: whole, writable by nobody else, and the same whatever the user has set."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.machine import environments
from scripts.machine.cache import cache_home, why_others_can_write
from scripts.machine.errors import SetupError
from tests.support import disk

NOBODY = 65534


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache folder of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def packages_of(interpreter: Path) -> set[str]:
    command = [str(interpreter), "-I", "-m", "pip", "list", "--format=freeze", "--disable-pip-version-check"]
    listed = subprocess.run(command, env={}, capture_output=True, text=True, check=True).stdout
    return {line.partition("==")[0].lower() for line in listed.splitlines()}


@pytest.mark.slow
def test_nothing_of_the_callers_reaches_an_environment(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither variables and configuration of pip, nor PYTHONPATH, nor what lies in the caller's folder."""
    folder, home = tmp_path / "folder", tmp_path / "home"
    (home / ".config" / "pip").mkdir(parents=True)
    (home / ".config" / "pip" / "pip.conf").write_text("[install]\nno-deps = true\ntarget = /nowhere\n")
    folder.mkdir()
    for name in ("build", "pip", "venv", "platform", "sitecustomize", "setuptools", "packaging", "subprocess"):
        marks = f"open({str(tmp_path / 'ran')!r}, 'a').write('{name} ')\nraise SystemExit(9)"
        (folder / f"{name}.py").write_text(marks)
    monkeypatch.chdir(folder)
    constraint = tmp_path / "constraints.txt"
    constraint.write_text("packaging<20\nbuild<1\n")
    for name, value in {
        "HOME": str(home),
        "PYTHONPATH": str(folder),
        "PYTHONHOME": str(tmp_path / "no-python"),
        "PIP_NO_DEPS": "1",
        "PIP_PLATFORM": "macosx_11_0_arm64",
        "PIP_TARGET": str(tmp_path / "target"),
        "PIP_PREFIX": str(tmp_path / "prefix"),
        "PIP_ROOT": str(tmp_path / "root"),
        "PIP_USER": "1",
        "PIP_DRY_RUN": "1",
        "PIP_REQUIRE_HASHES": "1",
        "PIP_CONSTRAINT": str(constraint),
    }.items():
        monkeypatch.setenv(name, value)
    interpreter = environments.ensure("build")
    monkeypatch.delenv("PYTHONHOME")
    assert packages_of(interpreter) >= {"build", "packaging", "pyproject_hooks", "setuptools", "requests", "urllib3"}
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "constraints.txt", "folder", "home"}


def test_pip_keeps_what_says_where_packages_come_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    configuration = tmp_path / "pip.conf"
    configuration.write_text(
        "[global]\nindex-url = https://configured.example/simple\nproxy = http://proxy.example\ntarget = /nowhere\n"
        "[install]\ntrusted-host = one.example\n  two.example\nno-deps = true\n"
    )
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(configuration))
    monkeypatch.setenv("PIP_INDEX_URL", "https://named.example/simple")
    monkeypatch.setenv("PIP_CERT", "/certificates.pem")
    monkeypatch.setenv("PIP_ONLY_BINARY", ":all:")
    monkeypatch.setenv("HTTPS_PROXY", "http://another.example")
    kept = environments.variables(Path(sys.executable))
    assert kept["PIP_INDEX_URL"] == "https://named.example/simple"
    assert kept["PIP_PROXY"] == "http://proxy.example"
    assert kept["PIP_CERT"] == "/certificates.pem"
    assert kept["PIP_TRUSTED_HOST"].split() == ["one.example", "two.example"]
    assert kept["HTTPS_PROXY"] == "http://another.example"
    assert kept["PIP_CONFIG_FILE"] == os.devnull
    assert not {"PIP_TARGET", "PIP_NO_DEPS", "PIP_ONLY_BINARY", "PYTHONPATH"} & kept.keys()


def without_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an environment be made without what takes long: without pip, and what pip would install."""
    run = environments._run
    monkeypatch.setattr(environments, "_VENV", ("-I", "-m", "venv", "--without-pip"))
    monkeypatch.setattr(environments, "_run", lambda command, *env: "" if "pip" in command else run(command, *env))


def test_an_environment_whose_python_has_gone_is_made_anew(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_packages(monkeypatch)
    interpreter = environments.ensure("module")
    old = interpreter.with_name("old")
    old.touch()
    assert environments.ensure("module") == interpreter and old.exists()
    interpreter.unlink()
    interpreter.symlink_to("/no/such/python")
    assert environments.ensure("module") == interpreter and not old.exists()
    subprocess.run([interpreter, "-I", "-c", ""], check=True)


def test_an_environment_to_which_others_can_write_is_made_anew(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_packages(monkeypatch)
    folder = environments.ensure("module").parents[1]
    planted = folder / "planted"
    for mode in (0o777, 0o775):
        planted.touch()
        folder.chmod(mode)
        os.chown(folder, -1, NOBODY)
        environments.ensure("module")
        assert not planted.exists() and folder.stat().st_mode & 0o022 == 0


def test_root_takes_no_environment_out_of_the_home_of_another(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disk.need_root("only root can give a folder away")
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, NOBODY, NOBODY)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_home() == Path(pwd.getpwuid(0).pw_dir) / ".cache" / "supermachine-kernel"
    assert f"is left alone, since {home} belongs to user id {NOBODY}" in capsys.readouterr().err


def test_a_cache_that_nobody_but_others_own_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    disk.need_root("only root can give a folder away")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "open"))
    monkeypatch.setattr("pwd.getpwuid", lambda user: (_ for _ in ()).throw(KeyError(user)))
    with pytest.raises(SetupError) as refused:
        cache_home()
    assert refused.value.found == f"everybody can write to {tmp_path / 'open'}"
    assert "XDG_CACHE_HOME" in refused.value.cure


@pytest.mark.parametrize(
    ("mode", "owner", "group", "reason"),
    [
        (0o755, 0, 0, None),
        (0o775, 0, 0, None),
        (0o1777, 0, 0, None),
        (0o777, 0, 0, "everybody can write to"),
        (0o775, 0, NOBODY, f"the group with id {NOBODY} can write to"),
        (0o755, NOBODY, 0, f"belongs to user id {NOBODY}"),
    ],
)
@pytest.mark.parametrize("link", [False, True], ids=["on the way", "behind a link"])
def test_every_folder_on_the_way_is_judged(
    link: bool, mode: int, owner: int, group: int, reason: str | None, tmp_path: Path
) -> None:
    disk.need_root("only root can give a folder away")
    way = tmp_path / "way"
    (way / "cache").mkdir(parents=True)
    os.chown(way, owner, group)
    way.chmod(mode)
    path = way / "cache"
    if link:
        path = tmp_path / "link"
        path.symlink_to(way / "cache")
    found = why_others_can_write(path)
    assert (found is None) if reason is None else (reason in str(found) and str(way) in str(found))


def test_a_cache_that_cannot_be_written_is_told_by_its_name(cache: Path) -> None:
    cache.touch()
    with pytest.raises(SetupError) as refused:
        environments.ensure("module")
    assert str(cache) in refused.value.subject or str(cache) in refused.value.found


@pytest.mark.parametrize("way", ["a link of another", "a link in the folder of another"])
def test_every_link_on_the_way_is_judged(way: str, tmp_path: Path) -> None:
    """Its owner can make it lead elsewhere, once it was judged."""
    disk.need_root("only root can give a link away")
    (tmp_path / "own").mkdir()
    (tmp_path / "folder").mkdir()
    link = tmp_path / "folder" / "link"
    link.symlink_to(tmp_path / "own")
    os.chown(link if way == "a link of another" else tmp_path / "folder", NOBODY, NOBODY, follow_symlinks=False)
    (tmp_path / "cache").symlink_to(link)
    assert f"belongs to user id {NOBODY}" in (why_others_can_write(tmp_path / "cache") or "")
