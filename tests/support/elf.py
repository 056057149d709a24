"""Real ELF files of every kind that is not wanted, made by the toolchains of the kernel build and of Debian."""

from __future__ import annotations

import subprocess
from pathlib import Path

# As large as a small real program, so that the size is not what they are refused for.
_SOURCE = "const char ballast[16384] = {1}; void _start(void) { for (;;) ; }\n"
_ARM_ASSEMBLY = ".global _start\n_start: b _start\n.data\n.fill 16384, 1, 1\n"
_CROSS = "aarch64-linux-gnu-gcc"


def static_program(folder: Path) -> Path:
    """A right one: static, for AArch64."""
    return _compile(folder, [_CROSS, "-static", "-nostdlib"])


def static_pie(folder: Path) -> Path:
    """A right one too: static and position-independent, as Rust's musl targets link."""
    return _compile(folder, [_CROSS, "-static-pie", "-fPIE", "-nostdlib"])


def x86_64_program(folder: Path) -> Path:
    return _compile(folder, ["gcc", "-static", "-nostdlib"])


def dynamic_program(folder: Path) -> Path:
    loader = "-Wl,--dynamic-linker=/lib/ld-linux-aarch64.so.1"
    return _compile(folder, [_CROSS, "-nostdlib", "-pie", "-fPIE", loader, str(shared_library(folder))])


def shared_library(folder: Path) -> Path:
    return _compile(folder, [_CROSS, "-shared", "-fPIC", "-nostdlib"], "libballast.so")


def relocatable(folder: Path) -> Path:
    return _compile(folder, [_CROSS, "-c"])


def arm32_program(folder: Path) -> Path:
    (folder / "arm.s").write_text(_ARM_ASSEMBLY)
    program = folder / "arm32"
    subprocess.run(["arm-linux-gnueabi-as", "-o", f"{program}.o", folder / "arm.s"], check=True)
    subprocess.run(["arm-linux-gnueabi-ld", "-o", program, f"{program}.o"], check=True)
    return program


def with_vermagic(module: Path, vermagic: str, folder: Path) -> Path:
    """A copy of `module` whose .modinfo names another vermagic, as another kernel's own modules do."""
    information = folder / "modinfo"
    subprocess.run(
        ["aarch64-linux-gnu-objcopy", "--dump-section", f".modinfo={information}", module, folder / "x"], check=True
    )
    items = [item for item in information.read_bytes().split(b"\0") if item and not item.startswith(b"vermagic=")]
    if vermagic:
        items.append(b"vermagic=" + vermagic.encode())
    information.write_bytes(b"\0".join(items) + b"\0")
    changed = folder / "changed.ko"
    subprocess.run(
        ["aarch64-linux-gnu-objcopy", "--update-section", f".modinfo={information}", module, changed], check=True
    )
    return changed


def _compile(folder: Path, command: list[str], name: str = "program") -> Path:
    source, output = folder / "source.c", folder / name
    source.write_text(_SOURCE)
    subprocess.run([*command, "-o", output, source], check=True)
    return output
