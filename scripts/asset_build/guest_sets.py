"""The guest sets, as kernel-build/guest-sets.json has them, and the wheels of a version: one row for each set."""

import json
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from supermachine_kernel._assets import KNOWN_ASSETS, Asset

from .errors import BuildError
from .paths import PROJECT

TABLE = PROJECT / "kernel-build" / "guest-sets.json"


@dataclass(frozen=True)
class GuestSet:
    """One asset set: its architecture, what is in it, and what it is built with.

    `kernel_architecture` is what the kernel's Makefile calls ARCH, `kernel_image` what it builds, and `kernel_format`
    which verifier proves it. `elf_machine` is the machine of programs and modules. `compiler` and `musl` are the
    triplets of the compiler and of the C library, `debian_architecture` is that of Debian's packages.
    """

    name: str
    assets: tuple[Asset, ...]
    kernel_architecture: str
    kernel_image: str
    kernel_format: str
    elf_machine: str
    compiler: str
    musl: str
    debian_architecture: str


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


def _read_table() -> dict[str, GuestSet]:
    rows = json.loads(TABLE.read_text(encoding="utf-8"))
    return {name: _guest_set(name, row) for name, row in rows.items()}


def _guest_set(name: str, row: dict[str, str]) -> GuestSet:
    known = [asset.name for asset in KNOWN_ASSETS]
    unknown = [asset for asset in row["assets"] if asset not in known]
    if unknown:
        raise BuildError(f"{TABLE}: {name}", f"assets among {', '.join(known)}", ", ".join(unknown), "correct the row")
    assets = tuple(asset for asset in KNOWN_ASSETS if asset.name in row["assets"])
    return GuestSet(name, **{**row, "assets": assets})  # type: ignore[arg-type]


WHEEL_ROWS = (
    WheelRow(
        guest_set="aarch64",
        platform_tags=("macosx_11_0_arm64",),
        machines=frozenset({("darwin", "arm64")}),
        machines_text="macOS on Apple Silicon (arm64)",
    ),
    WheelRow(
        guest_set="x86_64",
        platform_tags=("manylinux_2_17_x86_64", "manylinux2014_x86_64", "musllinux_1_1_x86_64"),
        machines=frozenset({("linux", "x86_64")}),
        machines_text="Linux on x86_64",
    ),
)
GUEST_SETS = {name: row for name, row in _read_table().items() if name in {wheel.guest_set for wheel in WHEEL_ROWS}}
"""The sets that have a wheel, by name."""


def wheel_row(guest_set: str) -> WheelRow:
    """The row of a guest set. Raises KeyError for a set that no wheel carries."""
    for row in WHEEL_ROWS:
        if row.guest_set == guest_set:
            return row
    raise KeyError(guest_set)


def chosen_set(environ: Mapping[str, str]) -> GuestSet:
    """The set that SUPERMACHINE_SET names, else this machine's. Raises BuildError for a name that no set has."""
    name = environ.get("SUPERMACHINE_SET") or set_of_this_machine()
    if name not in GUEST_SETS:
        raise BuildError("SUPERMACHINE_SET", f"one of {', '.join(GUEST_SETS)}", name, "name one of these, or unset it")
    return GUEST_SETS[name]


def set_of_this_machine() -> str:
    """The name of the set whose wheel this machine can use; where it can use none, of the first."""
    here = (sys.platform, platform.machine())
    return next((row.guest_set for row in WHEEL_ROWS if here in row.machines), WHEEL_ROWS[0].guest_set)


def named_sets(name: str) -> list[GuestSet]:
    """The set of that name, or every one for "all"."""
    return list(GUEST_SETS.values()) if name == "all" else [GUEST_SETS[name]]
