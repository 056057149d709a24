"""C of the guest that makes no system call, compiled for this machine with sanitizers, to run and fuzz in tests."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from scripts.machine.packages import install_commands, install_packages

FUZZ_SECONDS = int(os.environ.get("SUPERMACHINE_TEST_FUZZ_SECONDS", "5"))
"""For how long an ordinary run fuzzes each target; the variable makes it longer."""

FLAGS = ["-std=gnu11", "-g", "-O1", "-Wall", "-Wextra", "-Werror", "-fno-sanitize-recover=all"]


def compile_program(program: Path, sources: Sequence[Path], include: Path) -> None:
    """A program of `sources` that ends at the first error AddressSanitizer or UndefinedBehaviorSanitizer finds."""
    install_commands(["gcc"])
    _compile("gcc", ["-fsanitize=address,undefined"], program, sources, include)


def fuzz(scratch: Path, sources: Sequence[Path], include: Path, corpus: Path) -> None:
    """Run libFuzzer on the target in `sources`, which are compiled with FUZZER defined, from the files of `corpus`."""
    _install_clang()
    program, found = scratch / "fuzzer", scratch / "found"
    found.mkdir()
    _compile("clang", ["-DFUZZER", "-fsanitize=fuzzer,address,undefined"], program, sources, include)
    limits = [f"-max_total_time={FUZZ_SECONDS}", "-max_len=4096", f"-artifact_prefix={scratch}/"]
    done = subprocess.run([program, *limits, found, corpus], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "Done " in done.stderr


def _compile(compiler: str, flags: Sequence[str], program: Path, sources: Sequence[Path], include: Path) -> None:
    command = [compiler, *FLAGS, *flags, "-I", str(include), *map(str, sources), "-o", str(program)]
    subprocess.run(command, check=True)


def _install_clang() -> None:
    """The package clang only recommends the one with its fuzzer."""
    if shutil.which("clang") is not None:
        folder = subprocess.run(["clang", "--print-resource-dir"], capture_output=True, text=True, check=True)
        if list(Path(folder.stdout.strip()).glob("lib/*/libclang_rt.fuzzer*.a")):
            return
    install_packages(["clang", "libclang-rt-dev"])
