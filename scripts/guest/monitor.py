"""QEMU's machine protocol (QMP, docs/interop/qmp-spec.txt of QEMU), on a Unix socket."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TIMEOUT = 300.0
"""Seconds for one command."""


class MonitorError(Exception):
    """QEMU refused a command, or has ended."""


class Monitor:
    """A connection to the monitor of a QEMU that was started with `-qmp unix:PATH,server=on,wait=off`."""

    def __init__(self, path: Path, runs: Callable[[], bool] = lambda: True) -> None:
        """Connect, and wait for the socket as long as QEMU `runs`. Raises MonitorError."""
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(TIMEOUT)
        end = time.monotonic() + TIMEOUT
        while True:
            try:
                self._socket.connect(str(path))
                break
            except (FileNotFoundError, ConnectionRefusedError) as error:
                if time.monotonic() > end or not runs():
                    raise MonitorError(f"no monitor at {path}") from error
                time.sleep(0.02)
        self._stream = self._socket.makefile("rw")
        self._read()
        self("qmp_capabilities")

    def __call__(self, command: str, **arguments: Any) -> Any:
        """Run a command; what it returns. Raises MonitorError with QEMU's word if it fails."""
        try:
            self._stream.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
            self._stream.flush()
        except OSError as error:
            raise MonitorError(f"{command}: QEMU has ended") from error
        while True:
            answer = self._read()
            if "error" in answer:
                raise MonitorError(f"{command}: {answer['error'].get('desc', answer['error'])}")
            if "return" in answer:
                return answer["return"]

    def human(self, line: str) -> str:
        """A line of the human monitor, and what it says. Raises MonitorError."""
        return str(self("human-monitor-command", **{"command-line": line}))

    def migrate(self, uri: str) -> None:
        """Write the machine's state to `uri`, to the end. Raises MonitorError."""
        self("migrate", uri=uri)
        while (found := self("query-migrate"))["status"] != "completed":
            if found["status"] not in ("setup", "active", "device"):
                raise MonitorError(f"migrate: {found.get('error-desc', found['status'])}")
            time.sleep(0.05)

    def wait_for_incoming(self) -> None:
        """Return once a QEMU with `-incoming` has taken all of the state. Raises MonitorError if it ends instead."""
        while self("query-status")["status"] == "inmigrate":
            time.sleep(0.02)

    def close(self) -> None:
        """Close the connection; QEMU runs on."""
        with contextlib.suppress(OSError):
            self._stream.close()
        self._socket.close()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self) -> dict[str, Any]:
        try:
            line = self._stream.readline()
        except OSError as error:
            raise MonitorError(f"QEMU's monitor: {error.strerror or error}") from error
        if not line:
            raise MonitorError("QEMU has ended")
        return dict(json.loads(line))
