"""The tests' common ground: one real wheel, built once, installed as on the Mac, first on the path.

scripts/test.py prepares it and names it in the environment; pytest alone prepares it the same way.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is no fault of what is tested.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

PROJECT = Path(__file__).resolve().parents[1]
SET = "aarch64"
"""The set that a test is run with which would say the same of any: tests/support/sets.py has it for the tests."""


def pytest_configure(config: pytest.Config) -> None:
    """Have the wheel's module, not the checkout's, be what tests import, here and in what they start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what it runs in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if "SUPERMACHINE_TEST_INSTALLED" not in os.environ:
        _prepare(config)
    for variable in [name for name in os.environ if name.startswith("SUPERMACHINE_") and "_TEST_" not in name]:
        if variable != "SUPERMACHINE_BUILD_CACHE":
            del os.environ[variable]
    os.environ["SUPERMACHINE_SET"] = SET
    installed = os.environ["SUPERMACHINE_TEST_INSTALLED"]
    os.environ["PYTHONPATH"] = installed
    sys.path[:0] = [installed, str(PROJECT)]


SHARE_MUCH = {"test_audit", "test_clean_root", "test_index", "test_patches", "test_release", "test_sdist"}
"""Files of tests whose fixtures take long to make."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each file of tests/guest to one worker: its tests share a guest, and some go through its life in order."""
    for item in items:
        if item.path.parent.name == "guest" or item.path.stem in SHARE_MUCH:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


def _prepare(config: pytest.Config) -> None:
    folder = tempfile.TemporaryDirectory(prefix="supermachine-kernel-test-")
    config.add_cleanup(folder.cleanup)
    wheels, site = Path(folder.name) / "wheels", Path(folder.name) / "site"
    command = [sys.executable, str(PROJECT / "scripts" / "wheel.py"), "--set", SET, "--out", str(wheels)]
    if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode:
        pytest.exit("there is no wheel to test; python3 scripts/test.py makes what it needs", returncode=1)
    (wheel,) = wheels.glob("*.whl")
    # In a process of its own: here the import would take the checkout's module, before the wheel's is on the path.
    install = "import sys; from pathlib import Path; from scripts.machine.install import install; "
    install += "install(Path(sys.executable), *map(Path, sys.argv[1:]))"
    subprocess.run([sys.executable, "-c", install, str(wheel), str(site)], cwd=PROJECT, check=True)
    os.environ.update(SUPERMACHINE_TEST_WHEEL=str(wheel), SUPERMACHINE_TEST_INSTALLED=str(site))


@pytest.fixture(scope="session")
def project() -> Path:
    """The checkout."""
    return PROJECT


@pytest.fixture(scope="session")
def wheel() -> Path:
    """The finished wheel."""
    return Path(os.environ["SUPERMACHINE_TEST_WHEEL"])


@pytest.fixture(scope="session")
def installed() -> Path:
    """The folder pip installed that wheel into, as for macOS on Apple Silicon."""
    return Path(os.environ["SUPERMACHINE_TEST_INSTALLED"])


@pytest.fixture(scope="session")
def built_set() -> Path:
    """The folder with the four files as the kernel build left them, and their build-info.json."""
    from tests.support.sets import set_folder  # on the path since pytest_configure

    return set_folder(SET)


@pytest.fixture(scope="session")
def x86_64_set() -> Path:
    """The folder with the three files of the x86_64 set as the kernel build left them, and their build-info.json."""
    from tests.support.sets import set_folder

    return set_folder("x86_64")


@pytest.fixture(scope="session")
def native_wheel(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished wheel of this machine's own set, which pip takes here unasked."""
    from scripts.asset_build.guest_sets import set_of_this_machine

    if (guest_set := set_of_this_machine()) == SET:
        return wheel
    if prepared := os.environ.get("SUPERMACHINE_TEST_NATIVE_WHEEL"):
        return Path(prepared)
    out = tmp_path_factory.mktemp("native")
    command = [sys.executable, str(PROJECT / "scripts" / "wheel.py"), "--set", guest_set, "--out", str(out)]
    subprocess.run(command, capture_output=True, check=True)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def custom_wheel(wheel: Path, built_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the same files as long as they are not locked: once they are, `wheel` is that of the release."""
    from tests.support import checkout, release

    if "+custom." in wheel.name:
        return wheel
    folder = tmp_path_factory.mktemp("custom")
    return release.build(checkout.unlock(checkout.copy(PROJECT, folder / "checkout")), built_set, folder)[0]


@pytest.fixture(scope="session")
def sdist(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished sdist."""
    out = tmp_path_factory.mktemp("sdist")
    command = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(out), str(project)]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = out.glob("*.tar.gz")
    return built


@pytest.fixture
def copy_of_checkout(tmp_path: Path) -> Path:
    """A fresh copy of the files git knows, as they are in the working tree, to build from and to change."""
    from tests.support import checkout  # on the path since pytest_configure

    return checkout.copy(PROJECT, tmp_path / "checkout")


@pytest.fixture
def unlocked_checkout(copy_of_checkout: Path) -> Path:
    """The same before its version is released."""
    from tests.support import checkout

    return checkout.unlock(copy_of_checkout)
