"""A vsock device's transport reset, which QEMU itself only does for a guest that was restored.

The event queue is QEMU's. It never uses it here, so the device of the tests takes it over; QEMU says where it is.
"""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from scripts.guest.device import Device

EVENT_QUEUE = 2
TRANSPORT_RESET = bytes(4)


def arguments(path: Path) -> list[str]:
    """QEMU's, to be asked at the socket `path`."""
    return ["-qmp", f"unix:{path},server=on,wait=off"]


def reset_transport(device: Device, path: Path) -> None:
    """Tell the guest that its host knows no stream any more."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(30)
        sock.connect(str(path))
        stream = sock.makefile("rw")
        stream.readline()
        _ask(stream, "qmp_capabilities")
        (vsock,) = [found for found in _ask(stream, "x-query-virtio") if "vsock" in found["name"]]
        status = _ask(stream, "x-query-virtio-queue-status", path=vsock["path"], queue=EVENT_QUEUE)
    places = (status["vring-desc"], status["vring-avail"], status["vring-used"])
    queue = device.other_queue(status["vring-num"], places)
    chain = queue.peek()
    assert chain is not None, "the guest waits for no event"
    chain.writable[0][:4] = TRANSPORT_RESET
    queue.use(chain, len(TRANSPORT_RESET))
    queue.notify()


def _ask(stream: Any, command: str, **arguments: object) -> Any:
    stream.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
    stream.flush()
    while "event" in (answer := json.loads(stream.readline())):
        pass
    assert "return" in answer, answer
    return answer["return"]
