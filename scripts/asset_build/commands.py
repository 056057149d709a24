"""The setuptools commands of this project, thin over the stages of the build."""

import contextlib
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Callable, Optional, TypeVar

from setuptools import Distribution
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build import build
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel
from setuptools.command.egg_info import egg_info
from setuptools.command.sdist import sdist

from supermachine_kernel._assets import SET

from .errors import BuildError
from .file_lock import file_lock
from .guest_sets import wheel_row
from .lock import LockedSet, read_lock
from .paths import PROJECT
from .wheel.archive import normalize_sdist, normalize_wheel
from .wheel.package_data import stage, unstage, version_of
from .wheel.sbom import write_sbom
from .wheel.sources import NothingFound, resolve
from .wheel.verify import ProvenSet, prove

PACKAGE = "supermachine_kernel"

T = TypeVar("T")


class AssetDistribution(Distribution):
    """A distribution whose version depends on the set it carries; the set is resolved and proven once."""

    editable = False

    def has_ext_modules(self) -> bool:
        """Files for one platform: they go to platlib, and `Root-Is-Purelib` is false."""
        return True

    @cached_property
    def locked(self) -> Optional[LockedSet]:
        return read_lock(PROJECT).set(SET)

    @cached_property
    def assets(self) -> ProvenSet:
        return self.settle(prove(resolve(PROJECT, os.environ), self.locked))

    def settle(self, proven: ProvenSet) -> ProvenSet:
        """Give the distribution the version of `proven`, before a command has written it anywhere."""
        self.metadata.version = version_of(proven, self.locked)
        return proven


class Build(build):
    """Builds outside the checkout: nothing of an earlier build is there, and builds do not meet."""

    def finalize_options(self) -> None:
        if self.build_base == "build":
            self._folder = tempfile.TemporaryDirectory(prefix="supermachine-kernel-build-")
            self.build_base = self._folder.name
        super().finalize_options()


class EggInfo(egg_info):
    """Metadata made anew: beside the build of a wheel, or in the checkout for an sdist, which ships it."""

    def finalize_options(self) -> None:
        if "bdist_wheel" in self.distribution.commands:
            base = Path(self.get_finalized_command("build").build_base)
            base.mkdir(parents=True, exist_ok=True)
            self.egg_base = str(base)
        super().finalize_options()

    def run(self) -> None:
        shutil.rmtree(self.egg_info, ignore_errors=True)  # an older SOURCES.txt would add its files to the sdist
        super().run()


class BuildPy(build_py):
    """The modules of the checkout, and the set: resolved, proven, staged."""

    distribution: AssetDistribution

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            assets = _or_stop(lambda: self.distribution.assets)
            stage(assets, Path(self.build_lib, PACKAGE), self.distribution.locked)


class BdistWheel(bdist_wheel):
    """The wheel, with its platform tag, the same bytes from the same files."""

    distribution: AssetDistribution

    def get_tag(self) -> tuple[str, str, str]:
        return ("py3", "none", "any" if self.distribution.editable else wheel_row().platform_tag)

    def finalize_options(self) -> None:
        """Settle the version first: it names the wheel and its .dist-info."""
        if not self.distribution.editable:
            _or_stop(_refuse_sdist_elsewhere)
            _or_stop(lambda: self.distribution.assets)
        super().finalize_options()

    def egg2dist(self, egginfo_path: str, distinfo_path: str) -> None:
        """Make .dist-info, with the bill of materials of the set."""
        super().egg2dist(egginfo_path, distinfo_path)
        if not self.distribution.editable:
            _or_stop(lambda: write_sbom(Path(distinfo_path), self.distribution.assets, self.distribution.locked))

    def run(self) -> None:
        super().run()
        for command, _, path in self.distribution.dist_files:
            if command == "bdist_wheel":
                normalize_wheel(Path(path))


class EditableWheel(editable_wheel):
    """An editable install, on any platform: with the assets of an override or the tree, or without any there."""

    distribution: AssetDistribution

    def run(self) -> None:
        with _alone_in_the_checkout():
            _or_stop(self._bring_assets)
            self.distribution.editable = True
            super().run()

    def _bring_assets(self) -> None:
        package, locked = PROJECT / PACKAGE, self.distribution.locked
        try:
            source = resolve(PROJECT, os.environ, local_only=True)
        except NothingFound as error:
            unstage(package)
            print(f"warning: installed without assets: {error}", file=sys.stderr)
        else:
            stage(self.distribution.settle(prove(source, locked)), package, locked)


class Sdist(sdist):
    """The sdist, the same bytes from the same files."""

    def run(self) -> None:
        with _alone_in_the_checkout():
            super().run()
        for path in self.archive_files or ():
            normalize_sdist(Path(path))


def _refuse_sdist_elsewhere() -> None:
    """An sdist on another platform would make a wheel that cannot be installed there, and a riddle of pip's error."""
    row, from_sdist = wheel_row(), (PROJECT / "PKG-INFO").is_file()
    at_home = (sys.platform, platform.machine()) in row.machines
    if from_sdist and not at_home and os.environ.get("SUPERMACHINE_CROSS_BUILD") != "1":
        raise BuildError(
            f"supermachine-kernel is for {row.machines_text}, and this is {platform.system()} on "
            f"{platform.machine()}: a wheel built here could not be installed here; to build the {row.platform_tag} "
            "wheel all the same, set SUPERMACHINE_CROSS_BUILD=1"
        )


@contextlib.contextmanager
def _alone_in_the_checkout() -> Iterator[None]:
    """Wait for another build that writes into the checkout, as an sdist and an editable install do."""
    path = (PROJECT / "setup.py").resolve()
    with file_lock(path) as not_held:
        if not_held:
            print(f"warning: {path}: cannot be locked ({not_held}); run one build at a time here", file=sys.stderr)
        yield


def _or_stop(stage_of_build: Callable[[], T]) -> T:
    """Stop the build with the message alone: frontends show what a hook printed, and a traceback helps nobody."""
    try:
        return stage_of_build()
    except BuildError as error:
        raise SystemExit(f"error: {error}") from None
    except OSError as error:
        raise SystemExit(f"error: {error.filename}: expected to be read and written, found: {error.strerror}") from None
