"""A guest that finds a generation number (VMGENID) in its device tree, and what its host does with it.

QEMU 7.2 has no such device for `virt`. So the number lies in memory of the guest that its kernel leaves alone, and the
test is the host: it writes there, and makes the interrupt pending in the interrupt controller, by way of QEMU's qtest
(docs/devel/qtest.rst of QEMU), which works beside any accelerator.
"""

from __future__ import annotations

import secrets
import socket
import subprocess
from pathlib import Path

from scripts.guest import qemu
from scripts.machine.packages import install_commands

ADDRESS = (1 << 30) + (int(qemu.MEMORY.removesuffix("M")) << 20) - 0x1000
"""Guest-physical address of the number: the beginning of the last page. `virt` has its memory from 1 GiB on."""
SIZE = 16
INTERRUPT = 32 + 100
"""The number that GICv3 has for the device's interrupt, the shared one 100, which no device of `virt` has."""
RESCHEDULE = 0
"""The number of the interrupt by which Linux has another CPU look for a task."""
TIMEOUT = 300.0
# Where `virt` has the GICv3, and the offsets in it: Arm IHI 0069, 12.8 and 12.10.
_DISTRIBUTOR, _REDISTRIBUTORS, _REDISTRIBUTOR_SIZE = 0x08000000, 0x080A0000, 0x20000
_SET_PENDING, _ROUTER, _PRIVATE_FRAME = 0x200, 0x6000, 0x10000


def device_tree(scratch: Path, cpus: int) -> Path:
    """QEMU's own device tree for so many CPUs, with a node "microsoft,vmgenid" and its page of reserved memory."""
    install_commands([qemu.PROGRAM, "fdtput"])
    tree = scratch / "tree.dtb"
    dump = ["-m", qemu.MEMORY, "-smp", str(cpus), "-display", "none", "-machine", f"dumpdtb={tree}"]
    subprocess.run([qemu.PROGRAM, *qemu.MACHINE, *dump], check=True, capture_output=True)

    def put(node: str, name: str, kind: str = "x", *values: str) -> None:
        subprocess.run(["fdtput", "-p", "-t", kind, str(tree), node, name, *values], check=True)

    page, node = f"/reserved-memory/vmgenid@{ADDRESS:x}", f"/vmgenid@{ADDRESS:x}"
    put("/reserved-memory", "#address-cells", "x", "2")
    put("/reserved-memory", "#size-cells", "x", "2")
    put("/reserved-memory", "ranges")
    put(page, "reg", "x", "0", f"{ADDRESS:x}", "0", "1000")
    put(page, "no-map")
    put(node, "compatible", "s", "microsoft,vmgenid")
    put(node, "reg", "x", "0", f"{ADDRESS:x}", "0", f"{SIZE:x}")
    put(node, "interrupts", "x", "0", f"{INTERRUPT - 32:x}", "1")  # shared, at an edge
    return tree


class Host:
    """What the host of such a guest can do, whether the guest runs or stands still."""

    def __init__(self, scratch: Path, cpus: int) -> None:
        self._path = scratch / "qtest"
        self._path.unlink(missing_ok=True)
        self.arguments = ["-dtb", str(device_tree(scratch, cpus)), "-qtest-log", "none"]
        self.arguments += ["-qtest", f"unix:{self._path},server=on,wait=off"]

    def change_number(self) -> None:
        """Write another number at random."""
        self._ask(f"write {ADDRESS:#x} {SIZE} 0x{secrets.token_hex(SIZE)}")

    def interrupt(self, number: int = INTERRUPT, cpu: int = 0) -> None:
        """Make an interrupt pending at a CPU. A shared one goes to that CPU from now on."""
        if number >= 32:
            self.route(number, cpu)
        self._ask(f"writel {_pending_at(number, cpu):#x} {1 << number % 32:#x}")

    def route(self, number: int, cpu: int) -> None:
        """Have a shared interrupt go to that CPU.

        QEMU 7.2 looks for who has a pending one before it has loaded where each goes (arm_gicv3_post_load), and then
        gives it to CPU 0 if that asks first. So whoever restores a guest says it again.
        """
        self._ask(f"writeq {_DISTRIBUTOR + _ROUTER + 8 * number:#x} {cpu:#x}")

    def is_pending(self, number: int = INTERRUPT, cpu: int = 0) -> bool:
        """Whether the CPU has not taken it yet."""
        return int(self._ask(f"readl {_pending_at(number, cpu):#x}"), 16) >> number % 32 & 1 == 1

    def _ask(self, line: str) -> str:
        with socket.socket(socket.AF_UNIX) as connection, connection.makefile("rw") as stream:
            connection.settimeout(TIMEOUT)
            connection.connect(str(self._path))
            stream.write(line + "\n")
            stream.flush()
            done, _, value = stream.readline().strip().partition(" ")
            assert done == "OK", (line, done, value)
            return value


def _pending_at(number: int, cpu: int) -> int:
    """The address of the register by which the interrupt is made pending."""
    if number >= 32:
        return _DISTRIBUTOR + _SET_PENDING + 4 * (number // 32)
    return _REDISTRIBUTORS + _REDISTRIBUTOR_SIZE * cpu + _PRIVATE_FRAME + _SET_PENDING
