"""The boot of a guest in instructions, stage by stage, and its memory, beside the kernel of a peer's wheel.

QEMU counts the instructions of one CPU (`-icount`), so that the load of this machine changes no figure. A line of the
console stands for a moment: QEMU's replay log has the number of instructions before each of its bytes.
"""

from __future__ import annotations

import gzip
import re
import statistics
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from scripts.benchmarks.figure import BenchError, Figure, built_set
from scripts.benchmarks.peer_kernel import peer_kernel
from scripts.benchmarks.replay_log import instructions_of_console
from scripts.guest import qemu
from scripts.guest.initramfs import guest_initramfs
from scripts.machine.packages import install_commands
from scripts.machine.program import log

BOOTS_A_ROUND = 5
MILLIONS = "M instructions"
SMALL = 128
"""MiB of the guest whose memory in use is promised."""
LIMIT = 300.0
"""Seconds for a boot that takes one or two, so that only one that hangs is ended."""

_PROBE = Path(__file__).with_name("boot_probe.c")
_PROBE_FLAGS = ["-std=gnu11", "-Os", "-Wall", "-Wextra", "-Werror", "-ffreestanding", "-fno-stack-protector"]
_PROBE_FLAGS += ["-static", "-nostdlib", "-s", "-Wl,--build-id=none", "-Wl,-z,max-page-size=4096"]
_CONFIG = "lower=/container\narg=/boot_probe\n"
_TELL_MEMORY = "arg=memory\n"
"""To read that takes instructions of its own, so the boots that are counted go without."""
_STAMP = re.compile(r"^\[ *(\d+)\.(\d{6})\] (.*)")

_PID_1 = r"^Run /init as init process"
_ENTRYPOINT = r"^boot_probe: entrypoint"
_AGENT = r"^boot_probe: agent ready"
_STAGES = {
    "kernel, before its clock": r"^$",
    "kernel, before the initcalls": r"^the kernel's clock starts$",
    "kernel, initcalls and initramfs": r"^SMP: Total of ",
    "kernel, to PID 1": r"^Freeing unused kernel memory",
    "init-oci, its start": _PID_1,
    "init-oci, the module": r"^init-oci: guest contract",
    "init-oci, the layers": r"^init-oci: /supermachine-smpark\.ko",
    "init-oci, the image's root and the agent": r"^init-oci: overlay root on",
    "init-oci, the process": r"^init-oci: entrypoint ",
    "until the agent answers": _ENTRYPOINT,
}
"""Each stage and the line of the console that begins it. It ends where the next one begins, the last with _AGENT."""


@dataclass(frozen=True)
class Moment:
    """A line of the console, the number of instructions before it, and for how many the guest only waited till then."""

    instructions: float
    text: str
    waited: float = 0.0


@dataclass(frozen=True)
class Guest:
    """What is booted: an Image as QEMU loads it where the real host does, the initramfs, and the device tree."""

    kernel: Path
    initramfs: Path
    initramfs_of_memory: Path
    """Its probe also says how much memory is in use."""
    tree: Path


def boot(rounds: int) -> list[Figure]:
    """A guest's boot in instructions, by stage, and the memory it uses, beside the kernel of a peer's wheel."""
    install_commands([qemu.PROGRAM, "aarch64-linux-gnu-gcc"])
    assets = built_set()
    with tempfile.TemporaryDirectory(prefix="supermachine-kernel-bench-") as folder:
        scratch = Path(folder)
        probe = _compile_probe(scratch)
        ours = _guest(assets / "kernel", assets, probe, scratch / "ours", module=True)
        peer = _guest(peer_kernel(), assets, probe, scratch / "peer", module=False)
        boots: list[list[Moment]] = []
        peers: list[list[Moment]] = []
        for turn in range(BOOTS_A_ROUND * rounds):
            log(f"boot {turn + 1} of {BOOTS_A_ROUND * rounds}")
            boots.append(recorded_boot(ours, scratch))
            peers.append(recorded_boot(peer, scratch))
        used = [memory_in_use(console(guest, f"{SMALL}M", memory_told=True), SMALL) for guest in (ours, peer)]
        slow = slow_initcalls(console(ours, qemu.HOST_MEMORY, "initcall_debug", "loglevel=8", "initramfs_async=0"))
    return [*_stages(boots), *_initcalls(slow), *_beside_the_peer(boots, peers), *_memory(*used)]


# --- the guest ---


def _compile_probe(scratch: Path) -> bytes:
    program = scratch / "boot_probe"
    subprocess.run(["aarch64-linux-gnu-gcc", *_PROBE_FLAGS, str(_PROBE), "-o", str(program)], check=True)
    return program.read_bytes()


def _guest(kernel: Path, assets: Path, probe: bytes, folder: Path, *, module: bool) -> Guest:
    folder.mkdir()
    paths = [folder / "initramfs.cpio", folder / "initramfs-memory.cpio"]
    for path, config in zip(paths, (_CONFIG, _CONFIG + _TELL_MEMORY)):
        initramfs = guest_initramfs(assets, config, module=module)
        initramfs.file("container/boot_probe", probe, 0o755)
        path.write_bytes(gzip.decompress(initramfs.pack()))
    tree = folder / "tree.dtb"
    command = [qemu.PROGRAM, *qemu.MACHINE, "-machine", f"dumpdtb={tree}", "-display", "none"]
    subprocess.run(command, check=True, capture_output=True)
    tree.write_bytes(without_padding(tree.read_bytes()))
    return Guest(qemu.as_host_loads(kernel, folder), paths[0], paths[1], tree)


def without_padding(tree: bytes) -> bytes:
    """A device tree (format: the Devicetree Specification, version 17) without what lies behind its last block.

    QEMU makes one of 1 MiB, of which a kernel would take a checksum; those of other hosts are a few KiB.
    """
    structure, strings = struct.unpack_from(">2I", tree, 8)
    strings_size, structure_size = struct.unpack_from(">2I", tree, 32)
    end = max(structure + structure_size, strings + strings_size)
    return tree[:4] + struct.pack(">I", end) + tree[8:end]


def console(
    guest: Guest, memory: str, *words: str, icount: str = "shift=0,sleep=off", memory_told: bool = False
) -> bytes:
    """What the console shows of a boot with one CPU; `words` are added to the kernel's command line."""
    initramfs = guest.initramfs_of_memory if memory_told else guest.initramfs
    command = [*qemu.END_WITH_US, qemu.PROGRAM, *qemu.MACHINE, *qemu.CONSOLE, "-m", memory, "-icount", icount]
    command += ["-kernel", str(guest.kernel), "-initrd", str(initramfs), "-dtb", str(guest.tree)]
    command += ["-append", " ".join([qemu.HOST_COMMAND_LINE, *words])]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    try:
        done = subprocess.run(command, timeout=LIMIT, check=False, **pipes)  # type: ignore[call-overload]
    except subprocess.TimeoutExpired as error:
        raise BenchError(str(guest.kernel), "to power off", f"that it still ran after {LIMIT:g} s") from error
    if done.returncode:
        last = (done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no message"])[-1]
        raise BenchError(qemu.PROGRAM, "to end with 0", f"{done.returncode}: {last}")
    output: bytes = done.stdout
    return output


def recorded_boot(guest: Guest, scratch: Path) -> list[Moment]:
    """The lines of a boot, each with the number of instructions before it."""
    replay = scratch / "replay"
    output = console(guest, qemu.HOST_MEMORY, icount=f"shift=0,rr=record,rrfile={replay}")
    counted = instructions_of_console(replay, len(output))
    replay.unlink()
    return moments(output, counted)


# --- what a console says ---


def moments(output: bytes, counted: list[int]) -> list[Moment]:
    """The lines of `output`; `counted` has the number of instructions before each of its bytes.

    The kernel's first lines wait for the console. The time stamp of a line says when it was made, in nanoseconds of a
    clock that an instruction moves by one; the line in which PID 1 starts says at which instruction that clock began.
    """
    lines: list[tuple[int, float | None, str]] = []
    at = 0
    for raw in output.splitlines(keepends=True):
        text = raw.decode("utf-8", "replace").strip()
        stamp = _STAMP.match(text)
        made = 1e9 * int(stamp[1]) + 1e3 * int(stamp[2]) if stamp else None
        lines.append((counted[at], made, stamp[3] if stamp else text))
        at += len(raw)
    first = next((line for line in lines if re.search(_PID_1, line[2])), None)
    if first is None or first[1] is None:
        raise BenchError("the guest's console", "PID 1 to start", repr(output[-500:].decode("utf-8", "replace")))
    clock = first[0] - first[1]
    return [
        Moment(0, ""),
        Moment(clock, "the kernel's clock starts"),
        *(
            Moment(written, text) if made is None else Moment(min(written, clock + made), text, clock + made - written)
            for written, made, text in lines
        ),
    ]


def first(boot: list[Moment], pattern: str) -> Moment:
    """The first moment of whose line the expression is found. Raises BenchError."""
    for moment in boot:
        if re.search(pattern, moment.text):
            return moment
    raise BenchError("the guest's console", f"a line like {pattern!r}", "none")


def memory_in_use(output: bytes, memory: int) -> float:
    """MiB of a guest with `memory` MiB that are not free when the entrypoint runs. Raises BenchError.

    Free is what MemFree says, and the pages of 4 KiB that lie in the CPUs' own lists of free pages.
    """
    free = re.search(rb"boot_probe: MemTotal: +\d+ kB MemFree: +(\d+) kB", output)
    listed = re.search(rb"boot_probe: listed pages: +(\d+)", output)
    if free is None or listed is None:
        raise BenchError("the guest's console", "MemFree and the listed pages", "none")
    return memory - int(free[1]) / 1024 - int(listed[1]) / 256


def slow_initcalls(output: bytes, least: float = 1.0) -> dict[str, float]:
    """Million instructions of each initcall that takes at least so many, the longest first.

    The console is that of a boot with initcall_debug. Its own times are not taken: until the kernel has switched to a
    better clock they count ticks of 10 ms.
    """
    began: dict[str, float] = {}
    took: dict[str, float] = {}
    for line in output.decode("utf-8", "replace").splitlines():
        stamp = _STAMP.match(line.strip())
        words = stamp[3].replace("+", " ").split() if stamp else []
        if stamp and len(words) > 1 and words[0] in ("calling", "initcall"):
            at = 1e3 * int(stamp[1]) + int(stamp[2]) / 1e3
            if words[0] == "calling":
                began[words[1]] = at
            elif words[1] in began:
                took[words[1]] = at - began.pop(words[1])
    return dict(sorted(((name, each) for name, each in took.items() if each >= least), key=lambda item: -item[1]))


# --- figures ---


def _stages(boots: list[list[Moment]]) -> list[Figure]:
    figures = []
    for (name, start), end in zip(_STAGES.items(), [*list(_STAGES.values())[1:], _AGENT]):
        took = [first(boot, end).instructions - first(boot, start).instructions for boot in boots]
        figures.append(Figure(name, statistics.median(took) / 1e6, MILLIONS))
    whole = [first(boot, _ENTRYPOINT) for boot in boots]
    guests = [first(boot, _AGENT).instructions - first(boot, _PID_1).instructions for boot in boots]
    shares = [guest / total.instructions for guest, total in zip(guests, whole)]
    return [
        *figures,
        Figure("from the first instruction to the entrypoint", _median(whole), MILLIONS),
        Figure("of that, init-oci and agent", statistics.median(guests) / 1e6, MILLIONS),
        Figure("the guest's waits until then", max(0.0, statistics.median(each.waited for each in whole)) / 1e6, "ms"),
        Figure.ratio("init-oci and agent / the whole boot", shares, 0.03),
    ]


def _median(those: list[Moment]) -> float:
    return statistics.median(each.instructions for each in those) / 1e6


def _initcalls(slow: dict[str, float]) -> list[Figure]:
    return [Figure(f"initcall {name}", millions, MILLIONS) for name, millions in slow.items()]


def _beside_the_peer(boots: list[list[Moment]], peers: list[list[Moment]]) -> list[Figure]:
    whole, theirs = ([first(boot, _ENTRYPOINT) for boot in each] for each in (boots, peers))
    ratios = [a.instructions / b.instructions for a, b in zip(whole, theirs)]
    return [
        Figure("the peer's kernel: to the entrypoint", _median(theirs), MILLIONS),
        Figure.ratio("to the entrypoint / the peer's", ratios, 0.5),
    ]


def _memory(ours: float, peer: float) -> list[Figure]:
    return [
        Figure.at_most(f"memory in use of {SMALL} MiB at the entrypoint", ours, "MiB", 24),
        Figure("the peer's kernel: the same", peer, "MiB"),
        Figure.ratio("memory in use / the peer's", [ours / peer]),
    ]
