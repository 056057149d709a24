"""The guest side of the supermachine microVM runtime: kernel, init-oci, supermachine-agent and smpark.ko."""

from ._assets import (
    ASSETS,
    INIT_OCI,
    KERNEL,
    SMPARK_KO,
    SUPERMACHINE_AGENT,
    Asset,
    assets_dir,
    extract_all_to,
    installed_version,
    manifest,
    verify,
)
from ._ensure import ensure_assets
from ._errors import (
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
from ._lockstep import require_version

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._write import StrPath

    KERNEL_BYTES: bytes
    KERNEL_LEN: int
    INIT_OCI_BYTES: bytes
    INIT_OCI_LEN: int
    SUPERMACHINE_AGENT_BYTES: bytes
    SUPERMACHINE_AGENT_LEN: int
    SMPARK_KO_BYTES: bytes
    SMPARK_KO_LEN: int
    MANIFEST: dict[str, Any]

__version__ = installed_version()

__all__ = [
    "ASSETS",
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


if not TYPE_CHECKING:  # to a type checker it would say that every name is there

    def __getattr__(name: str) -> object:
        """The names that cost something, made on use (PEP 562); the bytes are then kept."""
        if name == "MANIFEST":
            import copy

            return copy.deepcopy(manifest())  # the caller's own: ours is what verify() compares with
        for asset in ASSETS:
            if name == f"{asset.prefix}_LEN":
                return asset.size
            if name == f"{asset.prefix}_BYTES":
                return globals().setdefault(name, asset.read_bytes())
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> "list[str]":
    return sorted({*globals(), *__all__})


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
    import warnings

    warnings.warn(f"{old} is deprecated; use {new}", DeprecationWarning, stacklevel=3)
