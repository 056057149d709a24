"""An editable install: on any platform, with the tree's assets, or with word of what is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from supermachine_kernel._version import VERSION
from tests.support import odd_system

pytestmark = pytest.mark.slow


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """A place of its own to install into."""
    return tmp_path / "prefix"


def install(checkout: Path, prefix: Path, *options: str) -> None:
    done = pip_install(checkout, prefix, *options)
    assert done.returncode == 0, done.stderr


def pip_install(checkout: Path, prefix: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    command += options
    inside = {**clean(), **environment}
    return subprocess.run([*command, "--prefix", prefix, "-e", checkout], env=inside, capture_output=True, text=True)


def use(prefix: Path, program: str) -> subprocess.CompletedProcess[str]:
    """Run `program` with the installation's site-packages, whose .pth file leads to the checkout."""
    (site,) = prefix.glob("lib/python*/site-packages")
    found = f"import site; site.addsitedir({str(site)!r}); import supermachine_kernel as k; {program}"
    return subprocess.run([sys.executable, "-c", found], cwd="/", env=clean(), capture_output=True, text=True)


def clean() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def test_an_editable_install_has_the_assets_of_the_tree(copy_of_checkout: Path, built_set: Path, prefix: Path) -> None:
    shutil.copytree(built_set, copy_of_checkout / "kernel-build/out/aarch64")
    install(copy_of_checkout, prefix)
    done = use(prefix, "k.verify(); print(k.__version__, k.KERNEL_LEN, k.assets_dir())")
    assert done.returncode == 0, done.stderr
    version, size, folder = done.stdout.split()
    assert version.partition("+")[0] == VERSION
    assert int(size) == (built_set / "kernel").stat().st_size
    assert Path(folder) == copy_of_checkout / "supermachine_kernel/assets"
    modes = {path.name: path.stat().st_mode & 0o111 for path in Path(folder).iterdir()}
    assert modes == {"kernel": 0, "init-oci": 0o111, "supermachine-agent": 0o111, "smpark.ko": 0}


@pytest.mark.parametrize("mode", ["lenient", "strict", "compat"])
def test_every_editable_mode_of_setuptools_finds_the_assets(
    mode: str, copy_of_checkout: Path, built_set: Path, prefix: Path
) -> None:
    shutil.copytree(built_set, copy_of_checkout / "kernel-build/out/aarch64")
    install(copy_of_checkout, prefix, "--config-settings", f"editable_mode={mode}")
    program = (
        "k.verify(); print(k.assets_dir()); from supermachine_kernel._installation import installation_kind as kind"
    )
    done = use(prefix, f"{program}; print(kind())")
    assert done.returncode == 0, done.stderr
    folder, kind = done.stdout.split()
    assert Path(folder, "kernel").resolve() == copy_of_checkout / "supermachine_kernel/assets/kernel"
    assert kind == "editable"
    (copy_of_checkout / "supermachine_kernel/assets/kernel").unlink()
    done = use(prefix, "k.verify()")
    assert "build the assets (python3 scripts/wheel.py --from-source), then pip install -e . again" in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="LD_PRELOAD is Linux's")
@pytest.mark.parametrize("answer", ["refuse", "ignore"])
def test_the_assets_are_written_where_modes_cannot_be_changed(
    answer: str, project: Path, built_set: Path, tmp_path: Path
) -> None:
    """What an editable install does with a checkout on a file system that keeps its own modes (vfat, CIFS)."""
    program = (
        "import os, sys\nfrom pathlib import Path\nfrom scripts.asset_build.wheel import package_data\n"
        "from scripts.asset_build.wheel.sources import resolve\n"
        "from scripts.asset_build.wheel.verify import verify_set\n"
        "given = {**os.environ, 'SUPERMACHINE_ASSETS_DIR': sys.argv[2]}\n"
        "source = resolve(Path(sys.argv[1]), given, local_only=True)\n"
        "package_data.write(verify_set(source, None), Path(sys.argv[3]))"
    )
    package = tmp_path / "package"
    done = odd_system.python(program, project, built_set, package, site=project, path=package, chmod=answer)
    assert done.returncode == 0, done.stderr
    assert (package / "_manifest.py").is_file()
    for path in (package / "assets").iterdir():
        assert path.read_bytes() == (built_set / path.name).read_bytes()
    modes = {path.name: path.stat().st_mode & 0o111 for path in (package / "assets").iterdir()}
    assert modes == dict.fromkeys(("kernel", "init-oci", "supermachine-agent", "smpark.ko"), 0), "chmod was done"


def test_an_editable_install_without_a_tree_says_so_at_first_use(
    copy_of_checkout: Path, prefix: Path, built_set: Path
) -> None:
    install(copy_of_checkout, prefix)
    assert use(prefix, "print(k.__version__)").stdout == f"{VERSION}\n"
    done = use(prefix, "k.KERNEL.path")
    assert "expected the assets of an installed wheel, found none" in done.stderr
    assert "scripts/wheel.py --from-source" in done.stderr
    shutil.copytree(built_set, copy_of_checkout / "kernel-build/out/aarch64")
    install(copy_of_checkout, prefix)
    assert use(prefix, "k.verify()").returncode == 0


def test_a_source_that_is_not_right_stops_it(copy_of_checkout: Path, built_set: Path, prefix: Path) -> None:
    """A mistyped folder, a damaged file: said, and what worked before still does."""
    tree = copy_of_checkout / "kernel-build/out/aarch64"
    shutil.copytree(built_set, tree)
    install(copy_of_checkout, prefix)
    mistyped = pip_install(copy_of_checkout, prefix, SUPERMACHINE_ASSETS_DIR="/mistyped")
    (tree / "init-oci").write_text("#!/bin/sh\n")
    damaged = pip_install(copy_of_checkout, prefix)
    for done, message in (
        (mistyped, "expected a folder with the whole set, found nothing"),
        (damaged, "init-oci: expected"),
    ):
        assert done.returncode == 1
        assert message in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
    assert use(prefix, "k.verify()").returncode == 0


def test_several_installs_at_once_leave_one_whole_set(copy_of_checkout: Path, built_set: Path, tmp_path: Path) -> None:
    shutil.copytree(built_set, copy_of_checkout / "kernel-build/out/aarch64")
    (copy_of_checkout / "supermachine_kernel/assets").symlink_to(tmp_path)  # replaced, not followed
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(install, [copy_of_checkout] * 4, [tmp_path / f"prefix-{number}" for number in range(4)]))
    assert use(tmp_path / "prefix-0", "k.verify()").returncode == 0
    assert not (tmp_path / "kernel").exists()


def test_a_wheel_built_after_it_has_its_own_manifest(
    copy_of_checkout: Path, built_set: Path, prefix: Path, tmp_path: Path, wheel: Path
) -> None:
    """What the editable install staged into the checkout is no part of a later wheel."""
    shutil.copytree(built_set, copy_of_checkout / "kernel-build/out/aarch64")
    install(copy_of_checkout, prefix)
    (copy_of_checkout / "supermachine_kernel/assets/stray").write_text("stray")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "out")]
    subprocess.run([*command, str(copy_of_checkout)], check=True, env=clean(), capture_output=True)
    assert (tmp_path / "out" / wheel.name).read_bytes() == wheel.read_bytes()
