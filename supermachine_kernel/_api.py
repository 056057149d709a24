"""The public names of the package, which gets them when the first of them is used."""

import sys

from ._assets import (
    ASSETS,
    BUSYBOX,
    INIT_OCI,
    KERNEL,
    KNOWN_ASSETS,
    SMPARK_KO,
    SUPERMACHINE_AGENT,
    Asset,
    as_attribute,
    assets_dir,
    extract_all_to,
    manifest,
    verify,
)
from ._errors import (
    AssetAttributeError,
    AssetError,
    AssetInArchiveError,
    AssetMissingError,
    DestinationError,
    DestinationIsDirectoryError,
    DestinationMissingError,
    InspectionError,
    LockstepError,
    SupermachineKernelError,
)
from ._package import LOADING, SETS, installed_version

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any, Optional

    from ._write import StrPath

    KERNEL_BYTES: bytes
    KERNEL_LEN: int
    INIT_OCI_BYTES: bytes
    INIT_OCI_LEN: int
    BUSYBOX_BYTES: bytes
    BUSYBOX_LEN: int
    SUPERMACHINE_AGENT_BYTES: bytes
    SUPERMACHINE_AGENT_LEN: int
    SMPARK_KO_BYTES: bytes
    SMPARK_KO_LEN: int
    MANIFEST: dict[str, Any]

__version__ = installed_version()

__all__ = [
    "ASSETS",
    "BUSYBOX",
    "BUSYBOX_BYTES",
    "BUSYBOX_LEN",
    "INIT_OCI",
    "INIT_OCI_BYTES",
    "INIT_OCI_LEN",
    "KERNEL",
    "KERNEL_BYTES",
    "KERNEL_LEN",
    "MANIFEST",
    "SMPARK_KO",
    "SMPARK_KO_BYTES",
    "SMPARK_KO_LEN",
    "SUPERMACHINE_AGENT",
    "SUPERMACHINE_AGENT_BYTES",
    "SUPERMACHINE_AGENT_LEN",
    "Asset",
    "AssetAttributeError",
    "AssetError",
    "AssetInArchiveError",
    "AssetMissingError",
    "DestinationError",
    "DestinationIsDirectoryError",
    "DestinationMissingError",
    "InspectionError",
    "LockstepError",
    "SupermachineKernelError",
    "__version__",
    "assets_dir",
    "ensure_assets",
    "extract_all_to",
    "extract_busybox_to",
    "extract_busybox_to_with_parents",
    "extract_init_oci_to",
    "extract_init_oci_to_with_parents",
    "extract_kernel_to",
    "extract_kernel_to_with_parents",
    "extract_smpark_ko_to",
    "extract_smpark_ko_to_with_parents",
    "extract_supermachine_agent_to",
    "extract_supermachine_agent_to_with_parents",
    "extract_to",
    "extract_to_with_parents",
    "require_version",
    "verify",
]


_PACKAGE = sys.modules[__name__.rpartition(".")[0]]


def fill() -> None:
    """Give the package the names that are here, and what makes the others when they are used (PEP 562)."""
    here = {name: value for name, value in globals().items() if name in __all__ and name not in _ELSEWHERE}
    vars(_PACKAGE).update(here, __getattr__=_attribute, __dir__=_names)


def _attribute(name: str) -> object:
    """Make a name that costs something; bytes are then kept."""
    if name == "__all__":  # what `from supermachine_kernel import *` gives is what can be had
        return [each for each in __all__ if hasattr(_PACKAGE, each)]
    if name in _ELSEWHERE:
        raise AttributeError(as_attribute(lambda: _of_another_set(name)))
    if name not in __all__:
        raise AttributeError(f"module {_PACKAGE.__name__!r} has no attribute {name!r}")
    return as_attribute(lambda: _constant(name))


def _constant(name: str) -> object:
    if name == "MANIFEST":
        with LOADING:
            import copy
        return copy.deepcopy(manifest())  # the caller may change it: verify() compares with the one that is kept
    prefix, _, what = name.rpartition("_")
    asset = next(asset for asset in ASSETS if asset.prefix == prefix)
    return asset.size if what == "LEN" else vars(_PACKAGE).setdefault(name, asset.read_bytes())


def _names() -> "list[str]":
    return sorted({*vars(_PACKAGE), *__all__} - _ELSEWHERE.keys())


def ensure_assets(directory: "Optional[StrPath]" = None, *, check: str = "record") -> "Path":
    """Keep a complete, verified copy of the assets in the folder `directory`, and on disk; return that folder.

    Without `directory` it is `$XDG_DATA_HOME/supermachine/v<version>/`, or
    `~/.local/share/supermachine/v<version>/`, where the supermachine library keeps its own copy. A build of
    other than the released files has its label in that version, and so a folder of its own.

    A file that is right, by size and SHA-256, is kept; one that is missing or wrong is replaced in one step;
    a wrong mode (0o755 for the programs, 0o644 for the rest) is corrected. Any number of processes and threads
    may do this at once, and be killed while they do.

    What was proven is recorded beside the files, in `.supermachine-proof`, by what the system notes about a file
    whenever it is written to (device, inode, size, mode, and times in nanoseconds). Later calls compare that, and read
    no asset as long as it is the same. This cannot see bits that change on the disk itself, without a write; with
    `check="content"`, and wherever the record does not say enough, every file is read.

    Raises AssetMissingError or AssetError when an asset that is needed is not right itself, DestinationError when
    the folder cannot be used, and ValueError for any other `check`.
    """
    with LOADING:
        from . import _ensure
    return _ensure.ensure_assets(directory, check=check)


def require_version(version: str) -> None:
    """Pass when the installed assets are of the release `version` ("X.Y.Z"), or a build of it.

    Local labels and post-releases (PEP 440) of that release pass too; pre-releases do not.
    Raises LockstepError, with both versions and what to do, and ValueError when `version`
    is not of the form X.Y.Z.
    """
    with LOADING:
        from . import _lockstep
    _lockstep.require_version(version)


def extract_kernel_to(dest: "StrPath") -> None:
    """Put the kernel at `dest`, replacing a file there; the parent must exist. Errors: `Asset.extract_to`."""
    KERNEL.extract_to(dest)


def extract_kernel_to_with_parents(dest: "StrPath") -> None:
    """Like `extract_kernel_to`, making missing parent folders."""
    KERNEL.extract_to(dest, parents=True)


def extract_init_oci_to(dest: "StrPath") -> None:
    """Put init-oci at `dest` with mode 0o755; the parent must exist. Errors: `Asset.extract_to`."""
    INIT_OCI.extract_to(dest)


def extract_init_oci_to_with_parents(dest: "StrPath") -> None:
    """Like `extract_init_oci_to`, making missing parent folders."""
    INIT_OCI.extract_to(dest, parents=True)


def extract_busybox_to(dest: "StrPath") -> None:
    """Put busybox at `dest` with mode 0o755; the parent must exist. Errors: `Asset.extract_to`."""
    BUSYBOX.extract_to(dest)


def extract_busybox_to_with_parents(dest: "StrPath") -> None:
    """Like `extract_busybox_to`, making missing parent folders."""
    BUSYBOX.extract_to(dest, parents=True)


def extract_supermachine_agent_to(dest: "StrPath") -> None:
    """Put supermachine-agent at `dest` with mode 0o755; the parent must exist. Errors: `Asset.extract_to`."""
    SUPERMACHINE_AGENT.extract_to(dest)


def extract_supermachine_agent_to_with_parents(dest: "StrPath") -> None:
    """Like `extract_supermachine_agent_to`, making missing parent folders."""
    SUPERMACHINE_AGENT.extract_to(dest, parents=True)


def extract_smpark_ko_to(dest: "StrPath") -> None:
    """Put smpark.ko at `dest`, replacing a file there; the parent must exist. Errors: `Asset.extract_to`."""
    SMPARK_KO.extract_to(dest)


def extract_smpark_ko_to_with_parents(dest: "StrPath") -> None:
    """Like `extract_smpark_ko_to`, making missing parent folders."""
    SMPARK_KO.extract_to(dest, parents=True)


def extract_to(dest: "StrPath") -> None:
    """Deprecated: `extract_kernel_to`."""
    _warn_deprecated("extract_to", "extract_kernel_to")
    KERNEL.extract_to(dest)


def extract_to_with_parents(dest: "StrPath") -> None:
    """Deprecated: `extract_kernel_to_with_parents`."""
    _warn_deprecated("extract_to_with_parents", "extract_kernel_to_with_parents")
    KERNEL.extract_to(dest, parents=True)


def _warn_deprecated(old: str, new: str) -> None:
    with LOADING:
        import warnings

    warnings.warn(f"{old} is deprecated; use {new}", DeprecationWarning, stacklevel=3)


def _names_of(asset: Asset) -> "list[str]":
    """The public names of an asset; the deprecated ones, as in the crate, are of the sets that have an init-oci."""
    prefix = asset.prefix
    extract = f"extract_{prefix.lower()}_to"
    names = [prefix, f"{prefix}_BYTES", f"{prefix}_LEN", extract, f"{extract}_with_parents"]
    return [*names, "extract_to", "extract_to_with_parents"] if asset is INIT_OCI else names


def _of_another_set(name: str) -> str:
    asset = _ELSEWHERE[name].name
    having = " and ".join(guest_set for guest_set, names in SETS.items() if asset in names)
    where = f"the asset set {having}" if having else "no asset set that has a wheel"
    return f"module {_PACKAGE.__name__!r} has no {name!r}: {asset} is in {where}, and this is {manifest()['set']}"


_ELSEWHERE = {name: asset for asset in KNOWN_ASSETS if asset not in ASSETS for name in _names_of(asset)}
"""The names that another set's wheel has and this one has not."""
