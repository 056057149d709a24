"""Look at everything that has to be right, and name the cure for what is not."""

import os
import shutil
import sys
from typing import TYPE_CHECKING, NamedTuple, Optional

from ._assets import ASSETS, KERNEL, Asset, manifest
from ._bundle import mismatch
from ._ensure import default_directory
from ._errors import AssetError, DestinationError, LockstepError, SupermachineKernelError
from ._folder import open_folder
from ._host import look_at_host
from ._installation import DESCRIPTIONS, how_to_install, installation_kind
from ._lockstep import release_of, require_version
from ._package import DIRECTORY, installed_version

if TYPE_CHECKING:
    from collections.abc import Iterator

OK, WARN, BAD = "ok", "warn", "bad"


class Finding(NamedTuple):
    """One thing that was looked at; what is not "ok" has a cure."""

    subject: str
    status: str
    found: str
    cure: Optional[str] = None


def examine() -> "Iterator[Finding]":
    """Every finding; the cause of another comes before it."""
    yield _platform()
    yield _python()
    yield _how_installed()
    assets = {asset: _asset(asset) for asset in ASSETS}
    yield from assets.values()
    if assets[KERNEL].status == OK:
        yield _kernel()
    yield _lockstep()
    yield _data_folder()


def _platform() -> Finding:
    try:
        guest_set = manifest()["set"]
    except AssetError:  # the assets' own findings say so
        guest_set = None
    return Finding("platform", *look_at_host(guest_set))


def _python() -> Finding:
    import platform

    return Finding("python", OK, f"{platform.python_implementation()} {platform.python_version()}, {sys.executable}")


def _how_installed() -> Finding:
    kind = DESCRIPTIONS[installation_kind()]
    return Finding("installation", OK, f"{installed_version()}, {kind}, {DIRECTORY}")


def _asset(asset: Asset) -> Finding:
    try:
        asset.verify()
    except AssetError as error:
        return _of_error(asset.name, error)
    return Finding(asset.name, OK, f"{asset.size} bytes, SHA-256 {asset.sha256[:16]}...")


def _of_error(subject: str, error: SupermachineKernelError) -> Finding:
    """The finding that an error makes: its statement and, apart from it, its cure."""
    return Finding(subject, BAD, error.statement, error.cure)


def _kernel() -> Finding:
    """What the manifest says of the kernel, whose file has been compared with it."""
    subject, release = "kernel release", manifest()["kernel_release"]
    if manifest()["af_tsi"]:
        return Finding(subject, OK, f"Linux {release}, with AF_TSI")
    cure = "install a released wheel, or build with the AF_TSI series (kernel-build/README.md), if guests need it"
    return Finding(subject, WARN, f"Linux {release}, without AF_TSI", cure)


def _lockstep() -> Finding:
    from importlib import metadata

    subject, mine = "library", f"supermachine-kernel {installed_version()}"
    try:
        version = metadata.version("supermachine")
    except metadata.PackageNotFoundError:
        return Finding(subject, OK, "no distribution supermachine beside this one: nothing to be in step with")
    except UnicodeDecodeError:
        found = f"a distribution supermachine whose metadata is damaged, {mine}"
        return Finding(subject, BAD, found, "install supermachine again (pip install --force-reinstall supermachine)")
    release = release_of(version or "")  # metadata may be without one
    if release is None:
        return Finding(subject, BAD, f"supermachine {version}, {mine}", "install a released version of supermachine")
    try:
        require_version(release)
    except LockstepError:
        return Finding(subject, BAD, f"supermachine {version}, {mine}", how_to_install(release))
    return Finding(subject, OK, f"in step: supermachine {version}, {mine}")


def _data_folder() -> Finding:
    """Whether ensure_assets() finds, or can make, its own folder."""
    subject = "ensure_assets"
    try:
        folder = default_directory()
    except DestinationError as error:
        return _of_error(subject, error)
    try:
        wrong = _wrong_assets(str(folder))
        needed = sum(asset.size for asset in wrong)
    except AssetError:  # no manifest to compare with; the assets' own findings say so
        wrong, needed = list(ASSETS), 0
    if not wrong:
        return Finding(subject, OK, f"{folder}: complete")
    for path in (folder / asset.name for asset in wrong):
        if os.path.lexists(path) and not os.path.islink(path) and not os.path.isfile(path):
            return Finding(subject, BAD, f"{path}: not a file, and so not replaced", "move it away")
    there = next(each for each in (folder, *folder.parents) if os.path.lexists(each))
    cure = "set HOME or XDG_DATA_HOME to a place you may write to, or pass a directory"
    if not (os.path.isdir(there) and os.access(there, os.W_OK | os.X_OK)):
        return Finding(subject, BAD, f"{folder}: {there} is not a folder that may be written to", cure)
    free = shutil.disk_usage(there).free
    if free < needed:
        return Finding(subject, BAD, f"{folder}: needs {needed} bytes, and {free} are free", "make room on that disk")
    return Finding(subject, OK, f"{folder}: to be {'completed' if there == folder else 'made'} on the first call")


def _wrong_assets(folder: str) -> "list[Asset]":
    """The assets that are missing in the folder, or are not right there. Raises AssetError without a manifest."""
    manifest()
    try:
        with open_folder(folder, folder) as opened:
            return [asset for asset in ASSETS if mismatch(opened, asset, asset.size, asset.sha256)]
    except DestinationError:
        return list(ASSETS)
