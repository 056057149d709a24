"""A caller of supermachine-agent over any connected stream socket; frames and fields as in docs/guest-contract.md."""

from __future__ import annotations

import contextlib
import secrets
import select
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any, Callable, NamedTuple

from scripts.guest.agent_frames import DATA_LIMIT, EXIT_RECORD, WINDOW, Kind, Tag, command, field, frame, hello, string


class AgentError(OSError):
    """The agent answered ERROR: a Linux errno and its line."""


class Outcome(NamedTuple):
    """How one command ended. `kind` is 0 for an exit status, 1 for a signal, and 2 for a command that did not start."""

    kind: int
    value: int
    timed_out: bool
    peak_kib: int
    duration_us: int
    user_us: int
    system_us: int


class Done(NamedTuple):
    """The end of an EXEC. `outcomes` has one entry for each command that was tried."""

    stdout: bytes
    stderr: bytes
    outcomes: list[Outcome]

    @property
    def status(self) -> tuple[int, int]:
        """Kind and value of the last command's outcome."""
        return self.outcomes[-1][:2]


class State(NamedTuple):
    """The answer to STATUS; `workload`: 0 starting, 1 held, 2 running, 3 ended, 4 unknown."""

    workload: int
    kind: int
    value: int
    pid: int
    parked: int
    served: int
    waiting: int


class Call:
    """One connection: HELLO and a request are sent, frames go and come. PING and CLOCK_ASK are answered by `frames`."""

    def __init__(self, connection: socket.socket, kind: int, payload: bytes = b"", *, window: int = WINDOW) -> None:
        self.socket = connection
        self.socket.settimeout(None)
        self.capabilities: int | None = None
        self.credit = 0
        self._pending = b""
        self.send(hello(window=window) + frame(kind, payload))

    def send(self, data: bytes) -> None:
        """Send bytes as they are. If the agent has closed, only reading its frames shows it."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(data)

    def hear_hello(self, timeout: float = 120.0) -> None:
        """Wait for the agent's HELLO, which says how much input it takes. Raises ConnectionError, TimeoutError."""
        while self.capabilities is None:
            found = self._take()
            if found is None:
                self._wait(timeout)
            elif found[0] != Kind.HELLO:
                raise ConnectionError(f"expected the agent's HELLO, found a frame of kind {found[0]}")
            else:
                self.capabilities, self.credit = struct.unpack_from("<QI", found[1], 8)

    def frames(self, timeout: float = 120.0) -> Iterator[tuple[int, bytes]]:
        """The agent's frames to its last, or until it closes.

        Raises AgentError for ERROR and TimeoutError after so many seconds of silence.
        """
        self.hear_hello(timeout)
        while True:
            found = self._take()
            if found is None:
                try:
                    self._wait(timeout)
                except ConnectionError:
                    return
                continue
            kind, payload = found
            if kind == Kind.ERROR:
                number = struct.unpack_from("<I", payload)[0]
                raise AgentError(number, payload[4:].decode())
            if kind == Kind.PING:
                self.send(frame(Kind.PONG))
            elif kind == Kind.CLOCK_ASK:
                self.send(frame(Kind.CLOCK, payload + struct.pack("<Q", time.time_ns())))
            elif kind == Kind.CREDIT:
                self.credit += struct.unpack("<II", payload)[1]
                yield kind, payload
            else:
                yield kind, payload
            if kind in (Kind.EXIT, Kind.DONE, Kind.STATE):
                return

    def grant(self, stream: int, size: int) -> None:
        """Tell the agent that `size` more bytes of a stream are welcome."""
        self.send(frame(Kind.CREDIT, struct.pack("<II", stream, size)))

    def close(self) -> None:
        """Let the agent close first, as the protocol asks, and then close."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)
            while select.select([self.socket], [], [], 2.0)[0] and self.socket.recv(65536):
                pass
        self.socket.close()

    def __enter__(self) -> Call:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    def _wait(self, timeout: float) -> None:
        if not select.select([self.socket], [], [], timeout)[0]:
            raise TimeoutError(f"the agent said nothing for {timeout:g} s")
        data = self.socket.recv(262144)
        if not data:
            raise ConnectionError("the agent closed the connection")
        self._pending += data

    def _take(self) -> tuple[int, bytes] | None:
        if len(self._pending) < 8:
            return None
        size, kind = struct.unpack_from("<II", self._pending)
        if len(self._pending) < 8 + size:
            return None
        payload, self._pending = self._pending[8 : 8 + size], self._pending[8 + size :]
        return kind, payload


class Agent:
    """Calls to one agent; `connect` makes a new connection for each."""

    def __init__(self, connect: Callable[[], socket.socket]) -> None:
        self.connect = connect

    def call(self, kind: int, payload: bytes = b"") -> Call:
        """Begin a call; the caller goes through its frames and closes it."""
        return Call(self.connect(), kind, payload)

    def exec(self, *argv: str, stdin: bytes = b"", timeout: float = 120.0, **fields: Any) -> Done:
        """Run a command to its end; `fields` are those of `command`. Raises AgentError, ConnectionError."""
        with self.call(Kind.EXEC, command(*argv, **fields)) as call:
            return finish(call, stdin, timeout)

    def read(self, path: str) -> tuple[bytes, tuple[int, int, int]]:
        """A file's content, and its mode, uid and gid. Raises AgentError, ConnectionError."""
        content = []
        with self.call(Kind.READ, string(Tag.PATH, path)) as call:
            owner = (0, 0, 0)
            for kind, payload in call.frames():
                if kind == Kind.FILE:
                    owner = struct.unpack_from("<III", payload)
                elif kind == Kind.DATA:
                    content.append(payload)
                    call.grant(Kind.DATA, len(payload))
                elif kind == Kind.DONE:
                    return b"".join(content), owner
        raise ConnectionError("the agent closed the connection before the file's end")

    def write(self, path: str, content: bytes, mode: int = 0o644, owner: tuple[int, int] = (0, 0)) -> int:
        """Write a file; how many bytes the agent says that it has. Raises AgentError, ConnectionError."""
        fields = string(Tag.PATH, path) + field(Tag.MODE, struct.pack("<I", mode))
        fields += field(Tag.OWNER, struct.pack("<II", *owner))
        with self.call(Kind.WRITE, fields) as call:
            for kind, payload in exchange(call, content, Kind.DATA, Kind.DATA_END):
                if kind == Kind.DONE:
                    return int(struct.unpack("<Q", payload)[0])
        raise AssertionError("exchange ends by an exception")

    def status(self) -> State:
        """What the workload does. Raises AgentError, ConnectionError."""
        return State(*struct.unpack_from("<7I", self._ask(Kind.STATUS, b"", Kind.STATE)))

    def go(self) -> None:
        """Let a held workload run. Raises AgentError, ConnectionError."""
        self._ask(Kind.GO)

    def signal(self, number: int) -> None:
        """Send the workload a signal. Raises AgentError, ConnectionError."""
        self._ask(Kind.SIGNAL, field(Tag.NOTICE_SIGNAL, struct.pack("<I", number)))

    def park(self) -> None:
        """Park every CPU but one. Raises AgentError, ConnectionError."""
        self._ask(Kind.PARK)

    def unpark(self) -> None:
        """Let the parked CPUs go. Raises AgentError, ConnectionError."""
        self._ask(Kind.UNPARK)

    def power_off(self) -> None:
        """End the guest. Raises AgentError, ConnectionError."""
        self._ask(Kind.POWER_OFF)

    def restored(
        self,
        entropy: bytes | None = None,
        *,
        clock: bool = True,
        hostname: str | None = None,
        machine_id: str | None = None,
        notice_signal: int | None = None,
        notice_file: str | None = None,
    ) -> int:
        """Tell a guest that it goes on from a snapshot; by how many ns its clock may be off. Raises as the others."""
        fields = field(Tag.ENTROPY, entropy or secrets.token_bytes(64))
        fields += field(Tag.CLOCK) if clock else b""
        fields += string(Tag.HOSTNAME, hostname) if hostname is not None else b""
        fields += string(Tag.MACHINE_ID, machine_id) if machine_id is not None else b""
        fields += field(Tag.NOTICE_SIGNAL, struct.pack("<I", notice_signal)) if notice_signal else b""
        fields += string(Tag.NOTICE_FILE, notice_file) if notice_file is not None else b""
        return int(struct.unpack("<Q", self._ask(Kind.RESTORED, fields))[0])

    def _ask(self, kind: int, payload: bytes = b"", answer: int = Kind.DONE) -> bytes:
        with self.call(kind, payload) as call:
            for found, content in call.frames():
                if found == answer:
                    return content
        raise ConnectionError(f"the agent closed the connection without an answer to {Kind(kind).name}")


def finish(call: Call, stdin: bytes = b"", timeout: float = 120.0) -> Done:
    """Send all of the input and take frames until EXIT. Raises AgentError, ConnectionError, TimeoutError."""
    output: dict[int, list[bytes]] = {Kind.STDOUT: [], Kind.STDERR: []}
    for kind, payload in exchange(call, stdin, Kind.STDIN, Kind.STDIN_END, timeout):
        if kind in output:
            output[kind].append(payload)
            call.grant(kind, len(payload))
        elif kind == Kind.EXIT:
            outcomes = [Outcome(*record) for record in EXIT_RECORD.iter_unpack(payload)]
            return Done(b"".join(output[Kind.STDOUT]), b"".join(output[Kind.STDERR]), outcomes)
    raise AssertionError("exchange ends by an exception")


def exchange(call: Call, content: bytes, kind: int, end: int, timeout: float = 120.0) -> Iterator[tuple[int, bytes]]:
    """The agent's frames, while `content` is sent as the agent grants it, and `end` after it.

    Raises AgentError, ConnectionError, TimeoutError.
    """
    call.hear_hello(timeout)
    frames = call.frames(timeout)
    left = memoryview(content)
    ended = False
    while True:
        while left and call.credit:
            size = min(len(left), call.credit, DATA_LIMIT)
            call.send(frame(kind, bytes(left[:size])))
            call.credit -= size
            left = left[size:]
        if not left and not ended:
            call.send(frame(end))
            ended = True
        found = next(frames, None)
        if found is None:
            raise ConnectionError("the agent closed the connection")
        yield found
