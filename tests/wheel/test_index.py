"""The pin between library and assets, held by a real index, real uploads and the resolvers of pip and uv.

`supermachine` (tests/fixtures/supermachine) depends on `supermachine-kernel` of its own version, on macOS arm64 only.

A limitation of pip: `--platform` chooses wheels, but environment markers are those of the Python that runs pip
(pypa/pip, issues 6117 and 10050). On Linux, `pip download --platform macosx_11_0_arm64 supermachine` leaves the kernel
out; `test_pip_elsewhere_wants_both_named` holds that. The tests that need pip's answer on a Mac run pip with the
markers of a Mac and nothing else changed. uv takes the markers of the platform it is asked for.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from scripts.machine import environments
from supermachine_kernel._version import VERSION
from tests.support import checkout, index, release
from tests.support.index import Done, good, pip, uv
from tests.support.mac import AS_ON_A_MAC
from tests.support.sets import PLATFORM_TAG

pytestmark = pytest.mark.slow  # a server, and uploads to it

NEXT = "{}.{}.{}".format(*VERSION.split(".")[:2], int(VERSION.split(".")[2]) + 1)
"""A version of the library whose assets nobody published."""

ASSETS = {"init-oci", "kernel", "smpark.ko", "supermachine-agent"}


@dataclass(frozen=True)
class Files:
    """What is published: the assets of VERSION, and the library of VERSION and of NEXT."""

    wheel: Path
    sdist: Path
    library: Path
    next_library: Path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, project: Path, installed: Path) -> Files:
    """The real assets, locked, so that the version is one an index takes: an index refuses local labels."""
    folder = tmp_path_factory.mktemp("files")
    copy = checkout.copy(project, folder / "checkout")
    assets = installed / "supermachine_kernel" / "assets"
    release.lock_set(copy, assets)
    wheel, sdist = release.build(copy, assets, folder / "dist")
    return Files(wheel, sdist, _library(project, folder, VERSION), _library(project, folder, NEXT))


def _library(project: Path, folder: Path, version: str) -> Path:
    source, out = folder / f"supermachine-{version}", folder / f"library-{version}"
    shutil.copytree(project / "tests" / "fixtures" / "supermachine", source)
    pyproject = source / "pyproject.toml"
    pyproject.write_text(pyproject.read_text().replace("0.0.0", version))
    command = [str(environments.ensure("build")), "-m", "build", "--no-isolation", "--wheel", "--outdir", str(out)]
    subprocess.run([*command, str(source)], capture_output=True, check=True)
    (wheel,) = out.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, files: Files) -> Iterator[str]:
    """The index of a release: the wheel, without an sdist, and both versions of the library."""
    folder = tmp_path_factory.mktemp("index")
    (folder / "packages").mkdir()
    with index.serve(folder / "packages", folder / "log") as url:
        index.upload(url, files.wheel, files.library, files.next_library)
        yield url


@pytest.fixture(scope="module")
def url_with_sdist(tmp_path_factory: pytest.TempPathFactory, files: Files) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("index-with-sdist")
    (folder / "packages").mkdir()
    with index.serve(folder / "packages", folder / "log") as url:
        index.upload(url, files.wheel, files.sdist, files.library)
        yield url


def works(target: Path) -> Done:
    """Run the library of the folder: it starts only with the assets of its own version."""
    program = "import os, supermachine; print(*sorted(os.listdir(supermachine.assets())))"
    return index.run([sys.executable, "-c", program], cwd=target)


def refused(done: Done) -> str:
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stdout
    return done.stdout


def installed_in(target: Path) -> list[str]:
    return [path.name for path in target.glob("supermachine*")]


def test_what_is_published_is_a_release(files: Files) -> None:
    """An index takes no local version; twine's own check finds nothing either."""
    assert files.wheel.name == f"supermachine_kernel-{VERSION}-py3-none-{PLATFORM_TAG}.whl"
    assert files.sdist.name == f"supermachine_kernel-{VERSION}.tar.gz"
    good(index.run([sys.executable, "-m", "twine", "check", "--strict", str(files.wheel), str(files.sdist)]))


def test_pip_downloads_the_wheel_for_a_mac(url: str, files: Files, tmp_path: Path) -> None:
    good(pip(url, "download", *AS_ON_A_MAC, "--dest", tmp_path, f"supermachine-kernel=={VERSION}"))
    (downloaded,) = tmp_path.iterdir()
    assert (downloaded.name, downloaded.read_bytes()) == (files.wheel.name, files.wheel.read_bytes())


def test_pip_on_a_mac_takes_both(url: str, tmp_path: Path) -> None:
    good(pip(url, "install", *AS_ON_A_MAC, "--target", tmp_path, f"supermachine=={VERSION}", on_a_mac=True))
    assert set(good(works(tmp_path)).split()) == ASSETS


def test_pip_elsewhere_wants_both_named(url: str, tmp_path: Path) -> None:
    """pip judges the marker by the Python it runs in, whatever `--platform` says: naming both is the way."""
    good(pip(url, "download", *AS_ON_A_MAC, "--dest", tmp_path / "one", f"supermachine=={VERSION}"))
    assert [path.name.partition("-")[0] for path in (tmp_path / "one").iterdir()] == ["supermachine"]
    both = (f"supermachine=={VERSION}", f"supermachine-kernel=={VERSION}")
    good(pip(url, "install", *AS_ON_A_MAC, "--target", tmp_path / "both", *both))
    assert set(good(works(tmp_path / "both")).split()) == ASSETS


def test_uv_takes_library_and_kernel_for_a_mac(url: str, tmp_path: Path) -> None:
    mac = ("--python-platform", "aarch64-apple-darwin")
    good(uv(url, "pip install", *mac, "--target", tmp_path, f"supermachine=={VERSION}"))
    assert set(good(works(tmp_path)).split()) == ASSETS


def test_a_library_without_its_kernel_is_refused_by_pip(url: str, tmp_path: Path) -> None:
    said = refused(pip(url, "install", *AS_ON_A_MAC, "--target", tmp_path, f"supermachine=={NEXT}", on_a_mac=True))
    assert f"Collecting supermachine=={NEXT}" in said
    assert f"requirement supermachine-kernel=={NEXT}" in said
    assert f"(from supermachine) (from versions: {VERSION})" in said
    assert installed_in(tmp_path) == []


def test_a_library_without_its_kernel_is_refused_by_uv(url: str, tmp_path: Path) -> None:
    mac = ("--python-platform", "aarch64-apple-darwin")
    said = refused(uv(url, "pip install", *mac, "--target", tmp_path, f"supermachine=={NEXT}"))
    assert "there is no version of supermachine-kernel" in said
    assert f"=={NEXT} and supermachine" in said
    assert f"you require supermachine=={NEXT}" in said
    assert installed_in(tmp_path) == []


def test_a_pair_forced_apart_does_not_start(url: str, tmp_path: Path) -> None:
    """What a resolver was kept from judging, `require_version` refuses, with both versions and the cure."""
    apart = (f"supermachine=={NEXT}", f"supermachine-kernel=={VERSION}")
    good(pip(url, "install", *AS_ON_A_MAC, "--no-deps", "--target", tmp_path, *apart))
    said = works(tmp_path).stdout
    assert "LockstepError" in said
    assert f"supermachine-kernel: expected version {NEXT}, found {VERSION}" in said
    assert f'pip install "supermachine-kernel=={NEXT}"' in said


@pytest.mark.parametrize("platform", ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu", "x86_64-apple-darwin"])
def test_uv_elsewhere_leaves_the_kernel_out_and_says_what_it_is_for(url: str, tmp_path: Path, platform: str) -> None:
    """The library installs without the assets; the assets themselves are refused with the platform they are for."""
    asked = ("--python-platform", platform, "--target", tmp_path)
    said = refused(uv(url, "pip install", *asked, "supermachine-kernel"))
    assert f"supermachine-kernel=={VERSION} has no wheels with a matching platform tag" in said
    assert f"on the following platform: `{PLATFORM_TAG}`" in said
    assert " + supermachine-kernel" not in good(uv(url, "pip install", *asked, f"supermachine=={VERSION}"))


@pytest.mark.parametrize("platform", ["manylinux_2_28_x86_64", "manylinux_2_28_aarch64", "macosx_11_0_x86_64"])
def test_pip_elsewhere_finds_no_version(url: str, tmp_path: Path, platform: str) -> None:
    """All that pip says of wheels for another platform is that there is no version; it names what was asked for."""
    said = refused(
        pip(url, "install", "--platform", platform, "--only-binary=:all:", "--target", tmp_path, "supermachine-kernel")
    )
    assert "No matching distribution found for supermachine-kernel" in said
    assert "(from versions: none)" in said


@pytest.mark.skipif(sys.platform == "darwin", reason="a Mac builds the sdist")
@pytest.mark.parametrize("tool", ["pip", "uv"])
def test_the_sdist_says_what_it_is_for(url_with_sdist: str, tmp_path: Path, tool: str) -> None:
    """A request from Linux for the set of a Mac reaches the sdist, and is told why there is no wheel for it."""
    python = environments.ensure("build")
    arguments = [
        "--no-build-isolation",
        "--no-binary=supermachine-kernel",
        "--target",
        str(tmp_path),
        "supermachine-kernel",
    ]
    start = [str(python), "-m", "pip", "install", "--index-url", f"{url_with_sdist}simple/", "--no-cache-dir"]
    if tool == "uv":
        start = [sys.executable, "-m", "uv", "pip", "install", "--default-index", f"{url_with_sdist}simple/"]
        start += ["--no-cache", "--python", str(python)]
    said = refused(index.run([*start, *arguments], SUPERMACHINE_SET="aarch64"))
    expected = "expected macOS on Apple Silicon (arm64), where the wheel can be installed"
    assert f"supermachine-kernel: {expected}, found Linux on {os.uname().machine}" in said
    assert installed_in(tmp_path) == []


def test_a_wheel_of_another_hash_is_refused(url: str, files: Files, tmp_path: Path) -> None:
    """uv writes the requirements with hashes on Linux, for the Mac; pip installs by them, and no other file."""
    wanted, locked = tmp_path / "requirements.in", tmp_path / "requirements.txt"
    wanted.write_text(f"supermachine=={VERSION}\n")
    mac = ("--python-platform", "aarch64-apple-darwin")
    good(uv(url, "pip compile", *mac, "--generate-hashes", "--output-file", locked, wanted))
    digest = hashlib.sha256(files.wheel.read_bytes()).hexdigest()
    assert f"supermachine-kernel=={VERSION} \\\n    --hash=sha256:{digest}" in locked.read_text()
    good(pip(url, "install", *AS_ON_A_MAC, "--target", tmp_path / "good", "--require-hashes", "-r", locked))
    assert set(good(works(tmp_path / "good")).split()) == ASSETS

    other = hashlib.sha256(b"another wheel").hexdigest()
    locked.write_text(locked.read_text().replace(digest, other))
    said = refused(pip(url, "install", *AS_ON_A_MAC, "--target", tmp_path / "bad", "--require-hashes", "-r", locked))
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in said
    assert other in said and digest in said
    assert not (tmp_path / "bad").exists()


def test_a_lock_of_uv_holds_the_wheel_for_macs_alone(url: str, files: Files, tmp_path: Path) -> None:
    """The lock of an application holds the kernel's wheel, its digest and the marker; a sync for the Mac takes it."""
    (tmp_path / "pyproject.toml").write_text(
        f'[project]\nname = "application"\nversion = "1"\nrequires-python = ">=3.9"\n'
        f'dependencies = ["supermachine=={VERSION}"]\n'
    )
    good(uv(url, "lock", "--project", tmp_path))
    locked = (tmp_path / "uv.lock").read_text()
    assert f'{files.wheel.name}", hash = "sha256:{hashlib.sha256(files.wheel.read_bytes()).hexdigest()}"' in locked
    assert "platform_machine == 'arm64' and sys_platform == 'darwin'" in locked
    sync = ("--project", tmp_path, "--frozen", "--python-platform")
    assert f" + supermachine-kernel=={VERSION}" in good(uv(url, "sync", *sync, "aarch64-apple-darwin"))
    assert f" - supermachine-kernel=={VERSION}" in good(uv(url, "sync", *sync, "x86_64-unknown-linux-gnu"))
