"""The verifiers for the files of the aarch64 set, real files to change, and what a refusal says."""

from __future__ import annotations

import struct
from typing import Callable, Union

import pytest

from scripts.asset_build.wheel import verifiers
from scripts.asset_build.wheel.verifiers import KernelFacts
from supermachine_kernel import INIT_OCI, KERNEL, SMPARK_KO, InspectionError

Verifier = Callable[[bytes], Union[KernelFacts, str, None]]


def verify_kernel(data: bytes) -> KernelFacts:
    return verifiers.verify_kernel(data, "arm64-image")


def verify_program(data: bytes, name: str) -> None:
    verifiers.verify_program(data, "AArch64", name)


def verify_module(data: bytes) -> str:
    return verifiers.verify_module(data, "AArch64")


VERIFIERS: dict[str, Verifier] = {
    "kernel": verify_kernel,
    "program": lambda data: verify_program(data, "program"),
    "module": verify_module,
}
PROGRAM = INIT_OCI.read_bytes()
MODULE = SMPARK_KO.read_bytes()
KERNEL_HEADER = KERNEL.read_bytes()[:4096]
BANNER = b"Linux version 6.12.1 (a@b) (gcc) #1 SMP\n"
SMALL_KERNEL = KERNEL_HEADER[:16] + struct.pack("<Q", 4096) + KERNEL_HEADER[24:4000] + BANNER


def refused(verify: Verifier, data: bytes) -> str:
    with pytest.raises(InspectionError) as caught:
        verify(data)
    return str(caught.value)


def patched(data: bytes, offset: int, value: bytes) -> bytes:
    return data[:offset] + value + data[offset + len(value) :]
