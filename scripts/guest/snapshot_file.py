"""A file with a guest that was saved: the machine it ran on, its layers, and its state as QEMU's `migrate` writes it.

The file begins with a line of JSON, which spaces fill to HEADER bytes. The layers follow, each at a multiple of 4096
bytes, and then QEMU's stream to the end of the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from scripts.asset_build.errors import BuildError
from scripts.guest import qemu
from scripts.guest.oci_run import Volume

HEADER = 1 << 16
FORMAT = 1
_PAGE = 4096


class SnapshotError(BuildError):
    """A guest cannot be saved, or not be restored from a file."""


@dataclass(frozen=True)
class SavedVolume:
    """A volume as it was when the guest was saved."""

    file: str
    path: str
    read_only: bool
    size: int
    changed_ns: int


@dataclass(frozen=True)
class Snapshot:
    """What a file says of its guest. `layers` are offsets and sizes, `stream` is where QEMU's begins, in bytes."""

    format: int
    qemu: str
    kernel: str
    cpus: int
    memory: str
    layers: Sequence[Sequence[int]]
    volumes: Sequence[SavedVolume]
    stream: int
    size: int


def begin(file: IO[bytes], layers: Sequence[Path]) -> list[tuple[int, int]]:
    """Write room for the header, and the layers; return where they are. QEMU's stream goes to the end of the file."""
    places: list[tuple[int, int]] = []
    file.seek(HEADER)
    for layer in layers:
        with layer.open("rb") as source:
            shutil.copyfileobj(source, file, 1 << 20)
        offset = HEADER if not places else sum(places[-1])
        size = -(-file.tell() // _PAGE) * _PAGE - offset
        file.truncate(offset + size)
        file.seek(offset + size)
        places.append((offset, size))
    file.flush()
    return places


def finish(file: IO[bytes], snapshot: Snapshot) -> None:
    """Write the header, and have all of the file on the disk. Raises SnapshotError."""
    header = json.dumps(asdict(snapshot)).encode()
    if len(header) >= HEADER:
        raise SnapshotError(
            "the saved guest", f"a header of less than {HEADER} bytes", str(len(header)), "use fewer layers"
        )
    file.seek(0)
    file.write(header.ljust(HEADER - 1) + b"\n")
    file.flush()
    os.fsync(file.fileno())


def as_it_is(volume: Volume) -> SavedVolume:
    """The volume, with the state of its file. Raises SnapshotError where that is no more."""
    try:
        status = volume.file.stat()
    except OSError as error:
        found = error.strerror or "nothing"
        raise SnapshotError(str(volume.file), "a volume of the guest", found, "put it back") from error
    return SavedVolume(str(volume.file), volume.path, volume.read_only, status.st_size, status.st_mtime_ns)


def read(path: Path, kernel: Path, volumes: Sequence[Volume]) -> Snapshot:
    """What the file says, once it is whole, and fits this kernel, this QEMU and these volumes. Raises SnapshotError."""
    try:
        with path.open("rb") as file:
            header = file.read(HEADER)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        found = error.strerror or "nothing"
        raise SnapshotError(str(path), "a saved guest", found, "name a file of --snapshot") from error
    saved = _parse(path, header)
    again = "save the guest again"
    if size != saved.size:
        raise SnapshotError(str(path), f"{saved.size} bytes", f"{size}: it was cut, or is not whole", again)
    for what, expected, here in (
        ("QEMU", saved.qemu, qemu_version()),
        ("the kernel", saved.kernel, kernel_digest(kernel)),
    ):
        if here != expected:
            raise SnapshotError(str(path), f"{what} that saved it: {expected}", here, f"use that one, or {again}")
    _compare_volumes(path, saved.volumes, [as_it_is(volume) for volume in volumes])
    return saved


def _compare_volumes(path: Path, saved: Sequence[SavedVolume], now: Sequence[SavedVolume]) -> None:
    def options(volumes: Sequence[SavedVolume]) -> str:
        given = [f"--volume {each.file}:{each.path}{':ro' if each.read_only else ''}" for each in volumes]
        return " ".join(given) or "no --volume"

    if options(saved) != options(now):
        raise SnapshotError(str(path), options(saved), options(now), "give the volumes with which it was saved")
    for before, after in zip(saved, now):
        if before != after:
            raise SnapshotError(after.file, "the volume as the guest left it", "a changed one", "save the guest again")


def qemu_version() -> str:
    """What QEMU calls itself."""
    said = subprocess.run([qemu.PROGRAM, "--version"], capture_output=True, text=True, check=True).stdout
    return said.partition("\n")[0]


def kernel_digest(kernel: Path) -> str:
    """The kernel's SHA-256."""
    return hashlib.sha256(kernel.read_bytes()).hexdigest()


def _parse(path: Path, header: bytes) -> Snapshot:
    cure = "name a file of --snapshot"
    try:
        found: Any = json.loads(header)
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise SnapshotError(str(path), f"a saved guest of format {FORMAT}", "another file", cure)
        made = Snapshot(**{**found, "volumes": [SavedVolume(**each) for each in found["volumes"]]})
        _check(made)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise SnapshotError(str(path), "a saved guest", "another file, or a damaged one", cure) from error
    return made


def _check(made: Snapshot) -> None:
    """Raises ValueError for a header that we have not written."""
    numbers = [made.cpus, made.stream, made.size, *(number for layer in made.layers for number in layer)]
    numbers += [number for volume in made.volumes for number in (volume.size, volume.changed_ns)]
    texts = [made.qemu, made.kernel, *(text for volume in made.volumes for text in (volume.file, volume.path))]
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError("a number")
    if not all(type(text) is str and text.isprintable() for text in texts):
        raise ValueError("a text")
    if not re.fullmatch(r"[1-9][0-9]{0,6}[MG]", made.memory) or not 1 <= made.cpus <= 8:
        raise ValueError("the machine")
    if any(len(layer) != 2 or sum(layer) > made.stream for layer in made.layers):
        raise ValueError("a layer")
