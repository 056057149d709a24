"""The error a build stops with."""

from supermachine_kernel import SupermachineKernelError


class BuildError(SupermachineKernelError):
    """The build stops: the file or URL, what was expected, what was found, and the cure."""


class ContentMismatchError(Exception):
    """The content of a file is not what it should be. Whoever knows the file's name turns it into a BuildError."""

    def __init__(self, expected: str, found: str) -> None:
        super().__init__(expected, found)
        self.expected = expected
        self.found = found


def printable(text: str) -> str:
    """The text on one line, with what a terminal would obey escaped: a stranger chose it, as a host or in a wheel."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def describe(error: Exception) -> str:
    """An error of a parser or of the system as words for a message's `found`."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, KeyError):
        return f"no {error}"
    return " ".join(str(error).split()) or type(error).__name__
