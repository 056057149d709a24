"""A file that lost what makes it load: what strip and objcopy take away, and damaged tables of symbols."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest

from tests.support.verifiers import (
    MODULE,
    PROGRAM,
    SMALL_KERNEL,
    VERIFIERS,
    patched,
    refused,
    verify_kernel,
    verify_module,
    verify_program,
)


def tool(command: list[str], content: bytes, folder: Path) -> bytes:
    """The file after a tool of binutils for AArch64 has changed it."""
    (folder / "file").write_bytes(content)
    subprocess.run([f"aarch64-linux-gnu-{command[0]}", *command[1:], folder / "file"], check=True)
    return (folder / "file").read_bytes()


class TestStripped:
    """What strip and objcopy leave of a file that was right."""

    @pytest.mark.parametrize(
        ("command", "found"),
        [
            (["strip"], "expected one symbol table, found none; it was stripped"),
            (["strip", "--strip-all"], "expected one symbol table, found none; it was stripped"),
            (["objcopy", "--strip-all"], "expected one symbol table, found none; it was stripped"),
            (
                ["objcopy", "--remove-section=.rela.gnu.linkonce.this_module"],
                "expected relocations for .gnu.linkonce.this_module, found none; it was stripped",
            ),
            (["objcopy", "--remove-relocations=.text"], "expected a relocation that uses the kernel's "),
            (["objcopy", "--remove-relocations=*"], "expected relocations for .gnu.linkonce.this_module, found none"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else "",
    )
    def test_a_module_that_no_kernel_loads_is_refused(self, command: list[str], found: str, tmp_path: Path) -> None:
        assert found in refused(verify_module, tool(command, MODULE, tmp_path))

    @pytest.mark.parametrize("option", ["--strip-debug", "--strip-unneeded"])
    def test_a_module_that_kept_its_symbols_and_relocations_is_good(self, option: str, tmp_path: Path) -> None:
        assert verify_module(tool(["strip", option], MODULE, tmp_path)) == verify_module(MODULE)

    def test_a_program_without_symbols_runs_and_is_good(self, tmp_path: Path) -> None:
        verify_program(tool(["strip", "--strip-all"], PROGRAM, tmp_path), "program")

    def test_a_program_of_debugging_symbols_alone_is_refused(self, tmp_path: Path) -> None:
        refused(VERIFIERS["program"], tool(["strip", "--only-keep-debug"], PROGRAM, tmp_path))

    def test_a_program_whose_code_is_not_in_the_file_is_refused(self) -> None:
        """The segment is there, and all but its first 64 bytes would be zeros."""
        emptied = patched(PROGRAM, 64 + 32, struct.pack("<Q", 64))  # p_filesz of the first segment
        message = refused(VERIFIERS["program"], emptied)
        assert "expected code at the entry point, found nothing in the file for 0x" in message

    def test_a_program_whose_code_was_moved_in_the_file_is_refused(self) -> None:
        """Its code is one byte further on: the kernel maps whole pages, and answers EINVAL."""
        offset = struct.unpack_from("<Q", PROGRAM, 64 + 8)[0]
        moved = patched(PROGRAM, 64 + 8, struct.pack("<Q", offset + 1))
        assert "expected segments that can be mapped in pages of 4096 bytes" in refused(VERIFIERS["program"], moved)

    def test_a_kernel_without_its_first_instructions_is_refused(self) -> None:
        assert "expected an instruction to start at, found zeros" in refused(verify_kernel, bytes(8) + SMALL_KERNEL[8:])


class TestDamagedSymbols:
    def test_a_symbol_table_whose_string_table_is_another_section(self) -> None:
        number, at = section_of(2)
        changed = patched(MODULE, at + 40, struct.pack("<I", number))  # sh_link: itself
        assert "expected a string table of its symbols, found none" in refused(verify_module, changed)

    def test_two_symbol_tables_are_refused(self) -> None:
        _, at = section_of(1)
        assert "expected one symbol table, found 2" in refused(verify_module, patched(MODULE, at + 4, b"\2"))

    def test_a_string_table_without_its_end(self) -> None:
        number = struct.unpack_from("<I", MODULE, section_of(2)[1] + 40)[0]
        at = struct.unpack_from("<Q", MODULE, 40)[0] + 64 * number
        offset, size = struct.unpack_from("<QQ", MODULE, at + 24)
        assert "begins and ends with a zero byte" in refused(verify_module, patched(MODULE, offset + size - 1, b"x"))

    def test_a_name_beyond_the_string_table(self) -> None:
        offset = struct.unpack_from("<Q", MODULE, section_of(2)[1] + 24)[0]
        changed = patched(MODULE, offset + 24, b"\xff\xff\xff\x7f")
        assert "symbols with names in their string table" in refused(verify_module, changed)

    def test_a_relocation_outside_its_section(self) -> None:
        offset = struct.unpack_from("<Q", MODULE, section_of(4)[1] + 24)[0]
        changed = patched(MODULE, offset, struct.pack("<Q", 1 << 40))
        assert "expected relocations inside a section, found one at 0x10000000000" in refused(verify_module, changed)

    def test_relocations_that_all_claim_the_whole_file_take_no_time(self) -> None:
        start, count = struct.unpack_from("<Q", MODULE, 40)[0], struct.unpack_from("<H", MODULE, 60)[0]
        changed = bytearray(MODULE)
        for at in range(start, start + 64 * count, 64):
            if changed[at + 4] == 4:
                struct.pack_into("<QQ", changed, at + 24, 0, len(MODULE))
        assert "expected relocations that lie side by side" in refused(verify_module, bytes(changed))


def section_of(kind: int) -> tuple[int, int]:
    """The number of the module's first section of that type, and the offset of its header."""
    start, count = struct.unpack_from("<Q", MODULE, 40)[0], struct.unpack_from("<H", MODULE, 60)[0]
    return next((n, start + 64 * n) for n in range(count) if MODULE[start + 64 * n + 4] == kind)
