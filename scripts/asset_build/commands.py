"""The setuptools commands of this project, thin over the stages of the build."""

import contextlib
import json
import logging
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, MutableMapping
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn, Optional

from setuptools import Distribution
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build import build
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel
from setuptools.command.egg_info import egg_info
from setuptools.command.sdist import sdist

from .audit.expected import licence_files, module_files
from .errors import BuildError
from .file_lock import file_lock
from .frontend import ERROR_FILE
from .guest_sets import chosen_set, wheel_row
from .lock import read_lock
from .paths import PROJECT, refuse_link_outside
from .wheel import package_data
from .wheel.archive import normalize_sdist, normalize_wheel
from .wheel.sbom import write_sbom
from .wheel.sources import NoSourceError, Source, resolve
from .wheel.verify import VerifiedSet, verify_set

PACKAGE = "supermachine_kernel"


class AssetDistribution(Distribution):
    """A distribution whose version depends on the set it carries; the set is resolved and verified once."""

    editable = False

    def __init__(self, attrs: Optional[MutableMapping[str, Any]] = None) -> None:
        os.environ.pop("SOURCE_DATE_EPOCH", None)  # the wheel keeps no date, so a senseless one is no reason to fail
        super().__init__(attrs)

    def find_config_files(self) -> list[str]:
        """The project's settings alone: the user's (~/.pydistutils.cfg, DIST_EXTRA_CONFIG) would change the wheel."""
        return [str(PROJECT / "setup.cfg")]

    def has_ext_modules(self) -> bool:
        """Files for one platform: they go to platlib, and `Root-Is-Purelib` is false."""
        return True

    @cached_property
    def assets(self) -> VerifiedSet:
        """The set for a wheel. Raises BuildError."""
        return self.verify(resolve(PROJECT, os.environ))

    def verify(self, source: Source) -> VerifiedSet:
        """Verify `source`, and take its version before a command has written one anywhere. Raises BuildError."""
        print(f"assets: the {source.kind} in {source.folders}", file=sys.stderr)
        verified = verify_set(source, read_lock(PROJECT).set(source.guest_set.name))
        self.metadata.version = verified.version
        return verified


class Build(build):
    """Builds outside the checkout: nothing of an earlier build is there, and builds do not meet."""

    def finalize_options(self) -> None:
        if self.build_base == "build":
            self._folder = tempfile.TemporaryDirectory(prefix="supermachine-kernel-build-")
            self.build_base = self._folder.name
        super().finalize_options()


class EggInfo(egg_info):
    """Metadata made anew: beside the build of a wheel, or in the checkout for an sdist, which ships it."""

    distribution: AssetDistribution

    def finalize_options(self) -> None:
        if "bdist_wheel" in self.distribution.commands:
            with _stopping_at_an_error():
                if "sdist" in self.distribution.commands:
                    expected = (
                        "one kind of archive in a call: a wheel may have a custom version, an sdist has the clean one"
                    )
                    raise BuildError("setup.py", expected, "sdist and bdist_wheel", "run python -m build, or two calls")
                _ = self.distribution.assets  # they give the version
            base = Path(self.get_finalized_command("build").build_base)
            base.mkdir(parents=True, exist_ok=True)
            self.egg_base = str(base)
        super().finalize_options()

    def run(self) -> None:
        shutil.rmtree(self.egg_info, ignore_errors=True)  # an older SOURCES.txt would add its files to the sdist
        # MANIFEST.in keeps out what may lie there another time: that it is not there now is nothing to warn of.
        logging.root.addFilter(lambda record: "no previously-included" not in str(record.msg))
        super().run()


class BuildPy(build_py):
    """The modules of the checkout, and the set."""

    distribution: AssetDistribution

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            with _stopping_at_an_error():
                package_data.write(self.distribution.assets, Path(self.build_lib, PACKAGE))

    def get_output_mapping(self) -> dict[str, str]:
        """Name the assets in the checkout too: a strict editable install is made of links to what is named here."""
        mapping: dict[str, str] = super().get_output_mapping()
        if self.editable_mode:
            for path in sorted(Path(PACKAGE, package_data.ASSETS_FOLDER).glob("*")):
                mapping[str(Path(self.build_lib, path))] = str(path)
        return mapping


class BdistWheel(bdist_wheel):
    """The wheel, with its platform tag, the same bytes from the same files."""

    distribution: AssetDistribution

    def get_tag(self) -> tuple[str, str, str]:
        if self.distribution.editable:
            return ("py3", "none", "any")
        return ("py3", "none", wheel_row(self.distribution.assets.guest_set.name).platform_tag)

    def finalize_options(self) -> None:
        """Verify the set first: its version names the wheel and its .dist-info."""
        if not self.distribution.editable:
            with _stopping_at_an_error():
                _refuse_sdist_elsewhere()
                _refuse_links_out([*module_files(PROJECT), *licence_files(PROJECT), "README.md"])
                _ = self.distribution.assets
        self.compression = "stored"  # normalize_wheel deflates
        super().finalize_options()

    def egg2dist(self, egginfo_path: str, distinfo_path: str) -> None:
        """Make .dist-info, with the bill of materials of the set."""
        super().egg2dist(egginfo_path, distinfo_path)
        if not self.distribution.editable:
            with _stopping_at_an_error():
                write_sbom(Path(distinfo_path), self.distribution.assets)

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
            with _stopping_at_an_error():
                self._stage_assets()
            self.distribution.editable = True
            super().run()

    def _stage_assets(self) -> None:
        package = PROJECT / PACKAGE
        try:
            source = resolve(PROJECT, os.environ, local_only=True)
        except NoSourceError as error:
            package_data.remove(package)
            print(f"warning: installed without assets: {error}", file=sys.stderr)
        else:
            package_data.write(self.distribution.verify(source), package)


class Sdist(sdist):
    """The sdist, the same bytes from the same files, and of this checkout alone."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        """Copy the files, once it is certain that no link among them leads elsewhere: its end would be given away."""
        with _stopping_at_an_error():
            _refuse_links_out(files)
        super().make_release_tree(base_dir, files)

    def run(self) -> None:
        with _alone_in_the_checkout():
            super().run()
        for path in self.archive_files or ():
            normalize_sdist(Path(path))


def _refuse_links_out(names: Iterable[str]) -> None:
    """Raise BuildError for a file whose content lies outside of the checkout."""
    for name in names:
        refuse_link_outside(name)


def _refuse_sdist_elsewhere() -> None:
    """Refuse to build on another platform: pip could not install the wheel there, and its error would not say why."""
    row, from_sdist = wheel_row(chosen_set(os.environ).name), (PROJECT / "PKG-INFO").is_file()
    at_home = (sys.platform, platform.machine()) in row.machines
    if from_sdist and not at_home and os.environ.get("SUPERMACHINE_CROSS_BUILD") != "1":
        expected = f"{row.machines_text}, where the wheel can be installed"
        found = f"{platform.system()} on {platform.machine()}"
        cure = f"to build the {row.platform_tag} wheel all the same, set SUPERMACHINE_CROSS_BUILD=1"
        raise BuildError("supermachine-kernel", expected, found, cure)


@contextlib.contextmanager
def _alone_in_the_checkout() -> Iterator[None]:
    """Wait for another build that writes into the checkout, as an sdist and an editable install do."""
    path = (PROJECT / "setup.py").resolve()
    with file_lock(path) as not_held:
        if not_held:
            print(f"warning: {path}: cannot be locked ({not_held}); run one build at a time here", file=sys.stderr)
        yield


@contextlib.contextmanager
def _stopping_at_an_error() -> Iterator[None]:
    """Stop the build with the message alone: frontends show what a hook printed, and a traceback helps nobody."""
    try:
        yield
    except BuildError as error:
        _stop(error)
    except OSError as error:
        # A full disk names no file.
        place = error.filename or f"{tempfile.gettempdir()}, or {PROJECT}"
        _stop(BuildError(str(place), "to be read and written", error.strerror or str(error)))


def _stop(error: BuildError) -> NoReturn:
    """End with the error on standard error, or in the file that `frontend` asked for."""
    if ERROR_FILE not in os.environ:
        raise SystemExit(f"error: {error}")
    try:
        Path(os.environ[ERROR_FILE]).write_text(json.dumps(error.fields()), encoding="utf-8")
    except OSError as other:
        raise SystemExit(f"error: {error}\nerror: {ERROR_FILE}={os.environ[ERROR_FILE]}: {other.strerror}") from None
    raise SystemExit(1)
