"""The error that an audit ends with."""

from __future__ import annotations

from supermachine_kernel import SupermachineKernelError

from ..errors import printable


class AuditError(SupermachineKernelError):
    """A statement that a wheel makes of itself does not hold; `link` names the link of the audit's chain."""

    def __init__(
        self, subject: str, expected: str = "", found: str = "", cure: str = "", *, link: str = "file"
    ) -> None:
        super().__init__(*map(printable, (subject, expected, found, cure)))
        self.link = link
