"""The examples that freeze or zip an app, built and run for real: the files that come out are the wheel's."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.examples import MODES, assert_is_the_set, author, digests_in, run, run_example, user

pytestmark = pytest.mark.slow


class Frozen(NamedTuple):
    """An example with its options; the file or folder that is the app, the program in it; and the form that is."""

    example: str
    options: tuple[str, ...]
    app: str
    program: str
    form: str


FORMS = [
    Frozen("nuitka", (), "app.dist", "app.bin", "nuitka-standalone"),  # the longest: begun first
    Frozen("pyinstaller", (), "dist/app", "app", "pyinstaller-onedir"),
    Frozen("cx_freeze", (), "dist", "app", "cx_freeze"),
    Frozen("pex", (), "app.pex", "", "pex"),
    Frozen("pex", ("--venv",), "app.pex", "", "pex"),
    Frozen("shiv", (), "app.pyz", "", "shiv"),
    Frozen("zipapp", (), "app.pyz", "", "zipapp"),
]
MORE_FORMS = [
    Frozen("pyinstaller", ("--onefile",), "dist/app", "", "pyinstaller-onefile"),
    Frozen("pex", ("--layout", "packed"), "app.pex", "", "pex"),
    Frozen("pex", ("--layout", "loose"), "app.pex", "", "pex"),
]
"""Run on demand: each takes as long as one of the above, to which it is alike."""


@pytest.mark.parametrize(
    "frozen",
    [*FORMS, *(pytest.param(form, marks=pytest.mark.ondemand) for form in MORE_FORMS)],
    ids=lambda frozen: "-".join((frozen.example, *frozen.options)),
)
def test_a_frozen_app_runs_without_another_copy_of_the_module(frozen: Frozen, wheel: Path, tmp_path: Path) -> None:
    """Built, moved, and run by a user who has no other copy of the module or the assets."""
    build = tmp_path / "build"
    run_example(frozen.example, build, *frozen.options, wheel=wheel, home=tmp_path)
    assert_is_the_set(build / "guest", wheel)
    home = tmp_path / "user"
    home.mkdir()
    app = _moved(build, frozen, home)

    report = json.loads(run([*app, "guest"], user(home), home))

    assert_is_the_set(home / "guest", wheel)
    assert report["view"] == digests_in(wheel)
    _check_path(report["path"], frozen.form, wheel)
    assert json.loads(run([*app, "info", "--json"], user(home), home))["installation"] == frozen.form
    for usage in ([], ["--help"]):
        done = subprocess.run([*app, *usage], env=user(home), cwd=home, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert "app FOLDER " in done.stderr
    doctor = json.loads(run([*app, "doctor", "--json"], user(home), home))
    assert doctor["ok"]
    assert _form_in_words(frozen.form) in {f["subject"]: f["found"] for f in doctor["findings"]}["installation"]
    if frozen.form not in ("zipapp", "pyinstaller-onefile"):  # tests/module/test_in_a_zip.py; a folder of each start
        _check_cure(Path(report["path"]), frozen, app, home)


def _check_cure(kernel: Path, frozen: Frozen, app: list[str], home: Path) -> None:
    """What doctor says of a damaged file mends it, where that can be done without the app's author."""
    kernel.unlink()  # a link to the app's own file, in a packed PEX
    kernel.write_bytes(b"damaged")
    done = subprocess.run(
        [*app, "doctor", "--json"], env=user(home), cwd=home, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (1, "")
    cure = {f["subject"]: f["cure"] for f in json.loads(done.stdout)["findings"]}["kernel"]
    unpacked = {"shiv": home / ".shiv", "pex": home / ".cache/pex"}.get(frozen.form)
    if unpacked is None or "loose" in frozen.options:
        assert cure == "build the app again, with the data files of the package supermachine_kernel"
        return
    if frozen.form == "shiv":
        (folder,) = re.findall("^remove (.*), and start the app again", cure)
        assert Path(folder).parent == unpacked
    else:
        assert cure.startswith("remove the cache that this lies in (PEX_ROOT), and start the app again")
        folder = unpacked
    shutil.rmtree(folder)
    assert json.loads(run([*app, "doctor", "--json"], user(home), home))["ok"]


def _moved(build: Path, frozen: Frozen, home: Path) -> list[str]:
    """The command, in `home`, of the app alone; its programs have lost their modes, as in a careless copy."""
    alone = build.with_name("elsewhere")
    (build / frozen.app).rename(alone)
    shutil.rmtree(build)
    for name in MODES:
        for file in alone.rglob(f"assets/{name}"):
            file.chmod(0o400)
    program = str(alone / frozen.program if frozen.program else alone)
    if not frozen.app.endswith((".pex", ".pyz")):
        return [program]
    # As people write it, and not as the import system would.
    return [sys.executable, f"./{os.path.relpath(program, home)}"]


def _check_path(path: str, form: str, wheel: Path) -> None:
    if form == "zipapp":
        assert path.startswith("none: ")
        assert "read_bytes(), extract_to() and ensure_assets() work from here" in path
    elif form == "pyinstaller-onefile":
        assert not Path(path).exists()  # its folder lives as long as the app
    else:
        assert hashlib.sha256(Path(path).read_bytes()).hexdigest() == digests_in(wheel)["kernel"]


def _form_in_words(form: str) -> str:
    from supermachine_kernel._installation import DESCRIPTIONS

    return DESCRIPTIONS[form]


def test_pyinstaller_takes_assets_and_metadata_by_itself(wheel: Path, tmp_path: Path) -> None:
    """Without any option: the hook is found by its entry point, and a program is not stripped or changed."""
    app = tmp_path / "app.py"
    app.write_text("import importlib.metadata as m, supermachine_kernel as s; s.verify(); print(m.version(s.__name__))")
    environment = {**author(wheel, tmp_path), "PYTHONPATH": os.environ["PYTHONPATH"]}
    run([sys.executable, "-m", "PyInstaller", "--strip", "--log-level", "ERROR", str(app)], environment, tmp_path)
    version = run([str(tmp_path / "dist/app/app")], user(tmp_path), tmp_path).strip()
    assert wheel.name.startswith(f"supermachine_kernel-{version}-")


def test_cx_freeze_with_the_code_in_a_zip_says_what_to_do(wheel: Path, tmp_path: Path) -> None:
    """library.zip takes code, and leaves the assets behind: an error with a cure, not a short read."""
    environment = {**author(wheel, tmp_path), "PYTHONPATH": os.environ["PYTHONPATH"]}
    script = str(Path(__file__).parents[2] / "examples" / "app.py")
    zipped = ["--packages", "supermachine_kernel", "--zip-include-packages", "supermachine_kernel"]
    freeze = [sys.executable, "-m", "cx_Freeze", "build_exe", "--script", script, "--build-exe", "dist", *zipped]
    run(freeze, environment, tmp_path)
    with pytest.raises(AssertionError, match="build the app again, with the data files"):
        run([str(tmp_path / "dist/app"), "guest"], user(tmp_path), tmp_path)
    assert not (tmp_path / "guest").exists()
