"""The examples that need no freezer, run as README.md says; those that need a Mac, as far as that goes elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import disk
from tests.support.examples import EXAMPLES, assert_is_the_set, author, run, run_example

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def test_an_app_that_carries_the_assets_finds_them_where_it_was_moved(wheel: Path, tmp_path: Path) -> None:
    """The app carries the assets, and finds them where it was moved to."""
    run_example("build_time", tmp_path / "out", wheel=wheel, home=tmp_path)
    app = (tmp_path / "out" / "Hello.app").rename(tmp_path / "Moved.app")
    assert_is_the_set(app / "Contents" / "Resources", wheel)
    found = subprocess.run([app / "Contents/MacOS/hello"], capture_output=True, text=True, check=True).stdout
    assert found.strip() == str(app / "Contents" / "Resources")
    (app / "Contents/Resources/kernel").unlink()
    lost = subprocess.run([app / "Contents/MacOS/hello"], capture_output=True, text=True, check=False)
    assert lost.returncode == 1 and "kernel: missing; build the app again" in lost.stderr


def test_an_app_that_extracts_at_its_start_does_so_once(wheel: Path, tmp_path: Path) -> None:
    """The first start puts the assets in place; the next one keeps them."""
    out = tmp_path / "out"
    assert run_example("run_time", out, wheel=wheel, home=tmp_path).split() == [str(out / "guest")] * 2
    assert_is_the_set(out / "guest", wheel)
    before = (out / "guest" / "kernel").stat()
    run_example("run_time", out, wheel=wheel, home=tmp_path)
    assert (out / "guest" / "kernel").stat().st_ino == before.st_ino
    (out / "guest" / "smpark.ko").write_bytes(b"torn")
    run_example("run_time", out, wheel=wheel, home=tmp_path)
    assert_is_the_set(out / "guest", wheel)


def test_run_time_by_default_shares_the_library_s_folder(wheel: Path, tmp_path: Path) -> None:
    environment = {**author(wheel, tmp_path), "PYTHONPATH": os.environ["PYTHONPATH"]}
    folder = Path(run(["python3", str(EXAMPLES / "run_time" / "main.py")], environment, tmp_path).strip())
    assert folder.parent == tmp_path / ".local" / "share" / "supermachine"
    assert_is_the_set(folder, wheel)


def test_run_time_says_why_it_cannot_start(wheel: Path, tmp_path: Path) -> None:
    (tmp_path / "guest").write_text("a file in the way")
    with pytest.raises(AssertionError, match="the app cannot start: ") as failure:
        run_example("run_time", tmp_path, wheel=wheel, home=tmp_path)
    assert "Traceback" not in str(failure.value)


def test_a_vmm_has_the_kernel_s_bytes_in_guest_memory(wheel: Path, installed: Path, tmp_path: Path) -> None:
    """The guest's memory holds the kernel's bytes where the header wants them."""
    printed = run_example("vmm_view", tmp_path / "out", wheel=wheel, home=tmp_path)
    kernel = (installed / "supermachine_kernel/assets/kernel").read_bytes()
    memory = (tmp_path / "out" / "memory").read_bytes()
    text_offset, image_size = (int.from_bytes(kernel[start : start + 8], "little") for start in (8, 16))
    entry = (2 << 20) + text_offset
    assert memory == bytes(entry) + kernel.ljust(image_size, b"\0")
    assert printed.strip().endswith(f"jump to {entry:#x}")


def test_assets_in_a_read_only_store_are_used_in_place(wheel: Path, installed: Path, tmp_path: Path) -> None:
    """Nobody may write to the package, root neither; its files are used in place, and copied out."""
    store, out = tmp_path / "store", tmp_path / "out"
    shutil.copytree(installed, store)
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    disk.tool("unshare", "util-linux")
    mount = 'mount --bind "$0" "$0"; mount -o remount,bind,ro "$0"; ! touch "$0/x" 2>/dev/null; exec "$@"'
    example = ["bash", str(EXAMPLES / "read_only_store" / "run.sh"), str(out)]
    command = ["unshare", *user, "--mount", "sh", "-ec", mount, str(store), *example]

    printed = run(command, {**author(wheel, tmp_path), "PYTHONPATH": str(store)}, tmp_path)

    assert printed.splitlines() == [f"{store}/supermachine_kernel/assets read-only", str(out / "guest")]
    assert_is_the_set(out / "guest", wheel)


@pytest.mark.parametrize("name", ["py2app", "briefcase"])
def test_what_needs_a_mac_is_bash(name: str) -> None:
    subprocess.run(["bash", "-n", EXAMPLES / name / "run.sh"], check=True)


def test_py2app_is_told_of_the_package(tmp_path: Path) -> None:
    """setup.py is run, with setuptools, up to where py2app would begin."""
    show = (
        "import sys, setuptools; from distutils.core import run_setup; "
        "print(run_setup(sys.argv[1], stop_after='init').get_option_dict('py2app')['packages'][1])"
    )
    command = [sys.executable, "-c", show, str(EXAMPLES / "py2app" / "setup.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "['supermachine_kernel']\n"


def test_briefcase_starts_the_app(wheel: Path, installed: Path, tmp_path: Path) -> None:
    """The sources that pyproject.toml names, laid out and started as Briefcase does."""
    shutil.copytree(EXAMPLES / "briefcase" / "src", tmp_path / "src")
    shutil.copy(EXAMPLES / "app.py", tmp_path / "src")  # as run.sh does
    app = _briefcase_app()
    assert app["macOS"] == {"requires": ["supermachine-kernel"], "universal_build": False}
    (tmp_path / "app").mkdir()
    for source in app["sources"]:
        (tmp_path / source).rename(tmp_path / "app" / Path(source).name)
    shutil.copytree(installed, tmp_path / "app_packages")
    environment = {**author(wheel, tmp_path), "PYTHONPATH": f"{tmp_path}/app:{tmp_path}/app_packages"}

    run(["python3", "-m", "embed", str(tmp_path / "guest")], environment, tmp_path)

    assert_is_the_set(tmp_path / "guest", wheel)
    assert (
        json.loads(run(["python3", "-m", "embed", "info", "--json"], environment, tmp_path))["installation"]
        == "briefcase"
    )


def _briefcase_app() -> dict[str, Any]:
    app: dict[str, Any] = tomllib.loads((EXAMPLES / "briefcase" / "pyproject.toml").read_text())["tool"]["briefcase"]
    return dict(app["app"]["embed"])
