"""The error that an audit ends with."""

from __future__ import annotations

from supermachine_kernel import SupermachineKernelError


class AuditError(SupermachineKernelError):
    """A statement that a wheel makes of itself does not hold; `link` names the link of the audit's chain."""

    def __init__(
        self, subject: str, expected: str = "", found: str = "", cure: str = "", *, link: str = "file"
    ) -> None:
        super().__init__(*map(printable, (subject, expected, found, cure)))
        self.link = link


def printable(text: str) -> str:
    """The text on one line, without what a terminal would act on: the names in it are those of a stranger's wheel."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
