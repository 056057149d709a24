"""The arithmetic of scripts/bench.py, on logs and consoles that are written here, and its comparison with a record."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from scripts import bench
from scripts.benchmarks import boot, recorded, replay_log
from scripts.benchmarks.figure import BenchError, Figure
from scripts.benchmarks.peer_kernel import image_of_library
from scripts.benchmarks.recorded import read_recorded, record, worse_than_recorded

HEADER = struct.pack(">I8x", replay_log.VERSION)
END = bytes([39])


def ran(instructions: int) -> bytes:
    return b"\0" + struct.pack(">I", instructions)


def wrote(count: int = 1) -> bytes:
    return bytes([22]) + struct.pack(">II", count, count)


def random_bytes(count: int) -> bytes:
    return bytes([27]) + struct.pack(">II", 0, count) + bytes(range(count))


def as_log(path: Path, *events: bytes) -> Path:
    path.write_bytes(HEADER + b"".join(events) + END)
    return path


# --- the replay log ---


def test_the_instructions_before_each_byte_of_the_console_are_added_up(tmp_path: Path) -> None:
    clock, checkpoint, interrupt = bytes([28]) + bytes(8), bytes([31]), b"\1"
    events = [random_bytes(40), ran(100), wrote(), clock, ran(7), interrupt, checkpoint, wrote(2), ran(1)]
    assert replay_log.instructions_of_console(as_log(tmp_path / "log", *events), 3) == [100, 107, 107]


@pytest.mark.parametrize(
    ("events", "console"),
    [([ran(1), wrote()], 2), ([ran(1), wrote(2)], 1), ([ran(1), b"\x05", wrote()], 1), ([ran(1), END, wrote()], 1)],
    ids=["the console has more", "the console has less", "an event of another device", "something behind the end"],
)
def test_a_replay_log_that_is_not_understood_gives_no_figure(events: list[bytes], console: int, tmp_path: Path) -> None:
    with pytest.raises(BenchError):
        replay_log.instructions_of_console(as_log(tmp_path / "log", *events), console)


def test_a_replay_log_of_another_version_is_refused(tmp_path: Path) -> None:
    log = as_log(tmp_path / "log", ran(1), wrote())
    log.write_bytes(struct.pack(">I", replay_log.VERSION + 1) + log.read_bytes()[4:])
    with pytest.raises(BenchError, match="a replay log of version 0xe0200c, found 0xe0200d"):
        replay_log.instructions_of_console(log, 1)


# --- the console ---

CONSOLE = b"".join(
    [
        b"[    0.000000] Booting Linux\r\n",  # waits for the console
        b"[    0.001000] SMP: Total of 1 processors activated\r\n",  # so does this
        b"[    0.002000] Run /init as init process\r\n",
        b"init-oci: guest contract 2\r\n",
        b"[    0.004000] boot_probe: entrypoint\r\n",
        b"[    0.004100] boot_probe: MemTotal:  242060 kB MemFree:  104448 kB\r\n",
        b"[    0.004200] boot_probe: listed pages:     512\r\n",
    ]
)
WRITTEN = (5_000_000, 5_100_000, 5_200_000, 5_300_000, 6_700_000, 6_800_000, 6_900_000)


@pytest.fixture
def moments() -> list[boot.Moment]:
    lines = CONSOLE.splitlines(keepends=True)
    counted = [count for line, count in zip(lines, WRITTEN) for _ in line]
    return boot.moments(CONSOLE, counted)


def test_a_line_that_waited_for_the_console_counts_when_it_was_made(moments: list[boot.Moment]) -> None:
    # PID 1 starts at 2 ms of the kernel's clock and after 5.2 million instructions: the clock began after 3.2 million.
    assert boot.first(moments, "the kernel's clock starts").instructions == 3_200_000
    assert boot.first(moments, "^Booting Linux").instructions == 3_200_000
    assert boot.first(moments, "^SMP: Total of ").instructions == 4_200_000
    assert boot.first(moments, "^Run /init").instructions == 5_200_000


def test_a_line_without_a_time_counts_when_it_was_written(moments: list[boot.Moment]) -> None:
    assert boot.first(moments, "^init-oci: ").instructions == 5_300_000


def test_a_clock_that_moved_without_instructions_is_a_wait(moments: list[boot.Moment]) -> None:
    entrypoint = boot.first(moments, "^boot_probe: entrypoint")
    assert (entrypoint.instructions, entrypoint.waited) == (6_700_000, 500_000)


def test_a_line_that_is_missing_is_no_figure(moments: list[boot.Moment]) -> None:
    with pytest.raises(BenchError, match="agent ready"):
        boot.first(moments, "^boot_probe: agent ready")
    with pytest.raises(BenchError, match="PID 1 to start"):
        boot.moments(b"Kernel panic\r\n", [1] * 14)


def test_memory_in_use_is_what_is_not_free() -> None:
    assert boot.memory_in_use(CONSOLE, 128) == 128 - 102 - 2
    with pytest.raises(BenchError):
        boot.memory_in_use(CONSOLE[: CONSOLE.index(b"listed")], 128)


def test_initcalls_are_timed_by_the_stamps_of_their_lines() -> None:
    console = b"".join(
        [
            b"[    0.001000] calling  outer+0x0/0x10 @ 1\r\n",
            b"[    0.002000] calling  inner+0x0/0x10 @ 1\r\n",
            b"[    0.005500] initcall inner+0x0/0x10 returned 0 after 0 usecs\r\n",
            b"[    0.006000] initcall outer+0x0/0x10 returned 0 after 10000 usecs\r\n",
            b"[    0.006000] calling  short+0x0/0x10 @ 1\r\n",
            b"[    0.006999] initcall short+0x0/0x10 returned -19 after 0 usecs\r\n",
        ]
    )
    assert boot.slow_initcalls(console) == pytest.approx({"outer": 5.0, "inner": 3.5})


def test_a_device_tree_keeps_its_blocks_and_loses_what_is_behind_them() -> None:
    blocks = b"structure" + b"strings"
    tree = b"\xd0\x0d\xfe\xed" + struct.pack(">9I", 1 << 20, 40, 49, 40, 17, 16, 0, 7, 9) + blocks
    cut = boot.without_padding(tree.ljust(1 << 20, b"\0"))
    assert cut == tree[:4] + struct.pack(">I", 56) + tree[8:]


# --- the peer's kernel ---


def mach_o(content: bytes, section: bytes = b"__data") -> bytes:
    start = 32 + 72 + 80
    header = struct.pack("<8I", 0xFEEDFACF, 0, 0, 6, 1, 152, 0, 0)
    segment = struct.pack("<2I16s4Q4I", 0x19, 152, b"__DATA", 0, 0, start, len(content), 0, 0, 1, 0)
    return header + segment + struct.pack("<16s16s2Q8I", section, b"__DATA", 0, len(content), start, *[0] * 7) + content


def test_an_image_is_taken_out_of_the_data_of_a_library() -> None:
    image = bytes(56) + b"ARM\x64" + b"the rest"
    assert image_of_library(mach_o(image)) == image


@pytest.mark.parametrize(
    "library", [b"", mach_o(bytes(100)), mach_o(bytes(56) + b"ARM\x64", b"__text")], ids=["empty", "zeros", "__text"]
)
def test_a_library_without_an_image_is_refused(library: bytes) -> None:
    with pytest.raises(BenchError):
        image_of_library(library)


# --- ratios, and the record of them ---


def test_a_ratio_is_the_median_of_its_turns_and_spreads_over_the_middle_half() -> None:
    figure = Figure.ratio("name", [1.0, 1.1, 1.2, 1.3, 9.0], 1.25)
    assert figure.value == 1.2 and figure.good
    assert figure.spread == pytest.approx(0.2)
    assert not Figure.ratio("name", [1.3], 1.25).good


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "recorded.json"
    record(path, {"boot": [Figure.ratio("steady", [0.5, 0.5, 0.5]), Figure("time", 3.0, "s")]})
    return path


def test_only_ratios_are_recorded_and_other_benchmarks_kept(file: Path) -> None:
    record(file, {"fetch": [Figure.ratio("other", [1.0, 1.2])]})
    assert set(read_recorded(file)) == {"boot", "fetch"}
    assert read_recorded(file)["boot"] == {"steady": {"value": 0.5, "spread": 0.0}}


@pytest.mark.parametrize(("value", "worse"), [(0.2, 0), (0.5, 0), (0.509, 0), (0.511, 1)])
def test_a_ratio_beyond_the_recorded_one_is_worse(value: float, worse: int, file: Path) -> None:
    assert len(worse_than_recorded({"boot": [Figure.ratio("steady", [value])]}, read_recorded(file))) == worse


def test_the_larger_of_both_spreads_is_allowed(file: Path) -> None:
    assert not worse_than_recorded({"boot": [Figure.ratio("steady", [0.49, 0.59, 0.69])]}, read_recorded(file))
    record(file, {"boot": [Figure.ratio("steady", [0.4, 0.5, 0.6])]})
    assert not worse_than_recorded({"boot": [Figure.ratio("steady", [0.59])]}, read_recorded(file))
    assert worse_than_recorded({"boot": [Figure.ratio("steady", [0.61])]}, read_recorded(file))


def test_a_difference_of_two_tiny_ratios_is_nothing(file: Path) -> None:
    record(file, {"boot": [Figure.ratio("steady", [0.001])]})
    assert not worse_than_recorded({"boot": [Figure.ratio("steady", [0.004])]}, read_recorded(file))
    assert worse_than_recorded({"boot": [Figure.ratio("steady", [0.007])]}, read_recorded(file))


def test_a_ratio_that_only_one_side_has_is_told(file: Path) -> None:
    (new, gone) = worse_than_recorded({"boot": [Figure.ratio("new", [1.0])]}, read_recorded(file))
    assert "new: expected a recorded ratio" in new and "steady: expected this run to measure it" in gone


def test_a_record_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    for content in ("{", "[]", '{"boot": {"steady": {"value": "much"}}}'):
        (tmp_path / "recorded.json").write_text(content)
        with pytest.raises(BenchError, match="record them anew with --record"):
            read_recorded(tmp_path / "recorded.json")


def test_check_fails_when_a_recorded_ratio_is_exceeded(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "RECORDED", file)
    measured = 0.5

    def measure(rounds: int) -> list[Figure]:
        """As if it had been measured."""
        return [Figure.ratio("steady", [measured] * rounds)]

    monkeypatch.setitem(bench.BENCHMARKS, "boot", measure)
    assert bench.main(["boot", "--check"]) == 0
    measured = 0.6
    assert bench.main(["boot", "--check"]) == 1
    assert bench.main(["--check"]) == 1, "without a name, what is recorded is measured, and nothing else"
    assert "steady: expected at most 0.5100, found 0.6000; recorded is 0.5000" in capsys.readouterr().err


def test_what_is_recorded_is_of_these_benchmarks_and_can_be_read() -> None:
    kept = read_recorded(recorded.RECORDED)
    assert set(kept) <= set(bench.BENCHMARKS)
    assert json.loads(recorded.RECORDED.read_text()) == kept
