"""The frames and fields of the agent's protocol, as docs/guest-contract.md has them."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from enum import IntEnum

PORT = 777
PROTOCOL = 2
WINDOW = 262144
DATA_LIMIT = 65536
EXIT_RECORD = struct.Struct("<IIIIQQQ")


class Kind(IntEnum):
    """Kinds of frames."""

    HELLO = 32
    EXEC = 33
    READ = 34
    WRITE = 35
    SIGNAL = 36
    STATUS = 37
    GO = 38
    PARK = 39
    UNPARK = 40
    RESTORED = 41
    POWER_OFF = 42
    STDIN = 48
    STDIN_END = 49
    COMMAND_SIGNAL = 50
    RESIZE = 51
    CLOCK = 52
    DATA = 56
    DATA_END = 57
    CREDIT = 58
    PING = 59
    PONG = 60
    STDOUT = 64
    STDERR = 65
    EXIT = 66
    FILE = 67
    DONE = 68
    STATE = 69
    ERROR = 70
    CLOCK_ASK = 71


class Tag(IntEnum):
    """Fields of requests."""

    ARG = 1
    ENV = 2
    ENV_ALONE = 3
    CWD = 4
    USER = 5
    GROUP = 6
    TTY = 7
    LIMIT = 8
    FILE = 9
    NEXT = 10
    PATH = 16
    MODE = 17
    OWNER = 18
    ENTROPY = 32
    CLOCK = 33
    HOSTNAME = 34
    MACHINE_ID = 35
    NOTICE_SIGNAL = 36
    NOTICE_FILE = 37


def frame(kind: int, payload: bytes = b"") -> bytes:
    """A frame as it goes over the socket."""
    return struct.pack("<II", len(payload), kind) + payload


def field(tag: int, data: bytes = b"") -> bytes:
    """A field of a request."""
    return struct.pack("<II", tag, len(data)) + data


def string(tag: int, text: str) -> bytes:
    """A field that is a string."""
    return field(tag, text.encode() + b"\0")


def hello(version: int = PROTOCOL, oldest: int = PROTOCOL, capabilities: int = 1, window: int = WINDOW) -> bytes:
    """The frame that begins a connection."""
    return frame(Kind.HELLO, struct.pack("<IIQI", version, oldest, capabilities, window))


def command(
    *argv: str,
    env: Mapping[str, str] | None = None,
    env_alone: bool = False,
    cwd: str | None = None,
    user: str | None = None,
    groups: Sequence[str] = (),
    tty: tuple[int, int] | None = None,
    limit_ms: int | None = None,
    files: Sequence[tuple[str, bytes, int, int, int]] = (),
    then: Sequence[tuple[bool, Sequence[str]]] = (),
) -> bytes:
    """The payload of EXEC.

    `tty` is rows and columns; `files` are path, content, mode, uid and gid; `then` are further commands, each with
    whether it runs also when the one before it failed.
    """
    parts = [string(Tag.ENV, f"{name}={value}") for name, value in (env or {}).items()]
    parts += [field(Tag.ENV_ALONE)] if env_alone else []
    parts += [string(Tag.CWD, cwd)] if cwd is not None else []
    parts += [string(Tag.USER, user)] if user is not None else []
    parts += [string(Tag.GROUP, group) for group in groups]
    parts += [field(Tag.TTY, struct.pack("<II", *tty))] if tty else []
    parts += [field(Tag.LIMIT, struct.pack("<I", limit_ms))] if limit_ms is not None else []
    for path, content, mode, uid, gid in files:
        name = path.encode() + b"\0"
        parts.append(field(Tag.FILE, struct.pack("<IIII", mode, uid, gid, len(name)) + name + content))
    parts += [string(Tag.ARG, word) for word in argv]
    for always, words in then:
        parts.append(field(Tag.NEXT, struct.pack("<I", always)))
        parts += [string(Tag.ARG, word) for word in words]
    return b"".join(parts)
