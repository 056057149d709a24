"""What can go wrong, each a line that says what was expected, what was found and what to do."""


class SupermachineKernelError(Exception):
    """Base of every error this package raises on purpose."""

    def __str__(self) -> str:
        # The subclasses that are also an OSError would print "[Errno N] ...: 'file'".
        return str(self.args[-1]) if self.args else ""


class AssetError(SupermachineKernelError):
    """An asset is not what the manifest says."""


class AssetMissingError(AssetError, FileNotFoundError):
    """An asset, or the manifest, is not there: an editable install without a tree, a broken copy."""


class AssetInArchiveError(AssetError):
    """The package lies in an archive, so the asset has no path; its bytes can still be read and extracted."""


class InspectionError(SupermachineKernelError, ValueError):
    """A file is not the kind of asset it is meant to be."""


class DestinationError(SupermachineKernelError, OSError):
    """A file cannot be put in its place; `errno` and `filename` are the system's where it raised, else None."""


class DestinationMissingError(DestinationError, FileNotFoundError):
    """The destination's parent folder does not exist."""


class DestinationIsDirectoryError(DestinationError, IsADirectoryError):
    """A folder is in the way."""


class LockstepError(SupermachineKernelError):
    """The library and the assets are of different versions."""
