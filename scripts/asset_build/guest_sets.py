"""The wheels of a version, one row for each guest set: its platform tags, and the machines that may build it."""

from dataclasses import dataclass

from supermachine_kernel._assets import SET


@dataclass(frozen=True)
class WheelRow:
    """One wheel: the guest set in it, its platform tags (PEP 425), and where an sdist may build it.

    `machines` has pairs of `sys.platform` and `platform.machine()`; `machines_text` names them in a message.
    """

    guest_set: str
    platform_tags: tuple[str, ...]
    machines: frozenset[tuple[str, str]]
    machines_text: str

    @property
    def platform_tag(self) -> str:
        """The platform in the file name of the wheel: the tags, sorted, with dots between (PEP 425)."""
        return ".".join(sorted(self.platform_tags))

    @property
    def tags(self) -> tuple[str, ...]:
        """The `Tag` fields of the wheel's `WHEEL` file."""
        return tuple(f"py3-none-{tag}" for tag in sorted(self.platform_tags))


WHEEL_ROWS = (
    WheelRow(
        guest_set="aarch64",
        platform_tags=("macosx_11_0_arm64",),
        machines=frozenset({("darwin", "arm64")}),
        machines_text="macOS on Apple Silicon (arm64)",
    ),
)


def wheel_row(guest_set: str = SET) -> WheelRow:
    """The row of a guest set. Raises KeyError for a set that no wheel carries."""
    for row in WHEEL_ROWS:
        if row.guest_set == guest_set:
            return row
    raise KeyError(guest_set)
