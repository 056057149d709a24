"""The errors of this package. Each has four fields, and its text is the one line that they make."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Optional


class SupermachineKernelError(Exception):
    """Base of every error that this package and its build raise on purpose.

    `subject` is the file, the URL or the thing that is not right, `expected` and `found` say how it differs, and
    `cure` says what to do. `str()` is "SUBJECT: expected EXPECTED, found FOUND; CURE", without the fields that
    are empty.
    """

    def __init__(self, subject: str, expected: str = "", found: str = "", cure: str = "") -> None:
        # Not super(): OSError would take the first two for errno and strerror.
        Exception.__init__(self, subject, expected, found, cure)
        self.subject = subject
        self.expected = expected
        self.found = found
        self.cure = cure

    @property
    def statement(self) -> str:
        """What is not right, in one line without the cure."""
        difference = ", ".join(
            f"{word} {field}" for word, field in (("expected", self.expected), ("found", self.found)) if field
        )
        return ": ".join(part for part in (self.subject, difference) if part)

    def __str__(self) -> str:
        return "; ".join(part for part in (self.statement, self.cure) if part)

    def __reduce__(self) -> "tuple[Any, ...]":
        """Pickle and copy with the fields, and with what else was set on the error."""
        return type(self), (self.subject, self.expected, self.found, self.cure), self.__dict__

    def fields(self) -> "dict[str, str]":
        """The four fields by name, as the programs print them with `--json`."""
        return {"subject": self.subject, "expected": self.expected, "found": self.found, "cure": self.cure}


class _SystemError(SupermachineKernelError, OSError):
    """An error that is an OSError too; `errno` and `filename` are set where the system gave a number."""

    def __init__(
        self, subject: str, expected: str = "", found: str = "", cure: str = "", *, errno: "Optional[int]" = None
    ) -> None:
        super().__init__(subject, expected, found, cure)
        if errno is not None:
            import os

            self.errno = errno
            self.strerror = os.strerror(errno)
            self.filename = subject

    def __reduce__(self) -> "tuple[Any, ...]":
        system = {"errno": self.errno, "strerror": self.strerror, "filename": self.filename}
        make, fields, state = super().__reduce__()
        return make, fields, {**state, **system}


class AssetError(SupermachineKernelError):
    """An asset is not what the manifest says."""


class AssetMissingError(AssetError, _SystemError, FileNotFoundError):
    """An asset, or the manifest, is not there: an editable install without a tree, a broken copy."""


class AssetAttributeError(AssetError, AttributeError):
    """An attribute of the package or of an asset, such as KERNEL_BYTES or KERNEL.path, cannot be had.

    The asset or the manifest is missing or damaged; `__cause__` is the error that says so for a call.
    """


class AssetInArchiveError(AssetAttributeError):
    """The package lies in an archive, so the asset has no path; its bytes can still be read and extracted."""


class InspectionError(SupermachineKernelError, ValueError):
    """A file is not the kind of asset it is meant to be."""


class DestinationError(_SystemError):
    """A file cannot be put in its place. `errno` is the system's number where it gave one, else None."""


class DestinationMissingError(DestinationError, FileNotFoundError):
    """The destination's parent folder does not exist."""


class DestinationIsDirectoryError(DestinationError, IsADirectoryError):
    """A folder is where the file would go."""


class LockstepError(SupermachineKernelError):
    """The library and the assets are of different versions."""
