"""A guest without a network device uses AF_TSI: it resolves a name, fetches a page with curl, and serves one."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from scripts.guest import qemu
from scripts.guest.debian_root import debian_root
from scripts.guest.device import Device
from scripts.guest.services import ADDRESS, NAME, PAGE, Services
from scripts.guest.tsi import Host

PACKAGES = ("curl",)
_PORT = 8080
_SERVED = "a page of the guest"
_SCRIPT = f"""\
#!/bin/sh
busybox httpd -p {_PORT} -h /www
echo network: devices: $(ls /sys/class/net)
echo "network: resolved: $(getent ahosts {NAME} | head -n 1)"
echo "network: fetched: $(curl --silent --show-error --fail http://{NAME}/page)"
echo "network: served: $(curl --silent --show-error --fail http://{NAME}/served)"
"""
FILES = {"usr/bin/network": _SCRIPT, "www/index.html": _SERVED}
"""What the root of such a guest has beside PACKAGES; the program `network` does all that is checked."""
CONFIG = "lower=/dev/vda\narg=network\n"
PROOFS = {
    "no device": r"^network: devices: dummy0 lo$",
    "name resolved": rf"^network: resolved: {re.escape(ADDRESS)}\s.*",
    "page fetched": rf"^network: fetched: {PAGE}$",
    "page served": rf"^network: served: {_SERVED}$",
}
"""What each step is called, and the line of the console that proves it."""


def boot_network(
    kernel: Path,
    initramfs: Path,
    *,
    cpus: int,
    memory: str,
    limit: float,
    on_line: Callable[[qemu.Line], None],
    switch: str = "tsi_hijack",
) -> qemu.Boot:
    """Boot such a guest; `initramfs` has the assets and CONFIG, `switch` is a word of the kernel's command line.

    Raises SetupError where there is no root for it.
    """
    root = debian_root(PACKAGES, FILES)
    device = Device()
    with (
        served(Host(device.link)),
        device,
        qemu.Machine(
            kernel,
            initramfs,
            cpus=cpus,
            memory=memory,
            command_line=f"{qemu.HOST_COMMAND_LINE} {switch}",
            vsock=device,
            extra=qemu.root_disk(root),
            on_line=on_line,
        ) as machine,
    ):
        return machine.wait(limit)


@contextlib.contextmanager
def served(host: Host) -> Iterator[None]:
    """What PROOFS speak of, at this machine's loopback for the guest of `host`, while the context lasts."""
    with Services(lambda: host.wait_for_listener(_PORT, 20)) as services:
        host.redirects.update({80: services.web_port, 53: services.name_port})
        yield
