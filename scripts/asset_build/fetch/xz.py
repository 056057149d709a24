"""The `.xz` of a release: packed to the same bytes every time, unpacked in constant memory and never beyond a limit."""

import hashlib
import lzma
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO, Callable

from ..errors import WrongContent
from ..lock import LockedAsset, LockedFile

# The .xz file format, 2.1.1.1: Header Magic Bytes.
_MAGIC = b"\xfd7zXZ\0"
# Stated in full: a preset's meaning may change. The dictionary is what unpacking takes in memory.
_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 8 << 20}]
# Enough for every preset of xz (-9 takes 65 MiB), and no more for a header that asks for 4 GiB.
_MEMORY = 96 << 20
_PIECE = 1 << 20


def pack(content: bytes) -> bytes:
    """The `.xz` of `content`: with one release of liblzma the same bytes every time, on any machine."""
    return lzma.compress(content, lzma.FORMAT_XZ, check=lzma.CHECK_CRC64, filters=_FILTERS)


class Unpacker:
    """Takes an `.xz` as it arrives, writes what it unpacks to `out`, and measures both.

    At most `packed_limit` bytes are taken and `unpacked_limit` bytes written; `prove` is given the measures of
    the whole, and raises WrongContent. What was unpacked is hashed and written on a thread of its own, while the
    next piece is unpacked; no more than two pieces are in memory.
    """

    def __init__(
        self, out: BinaryIO, packed_limit: int, unpacked_limit: int, prove: Callable[[LockedAsset], None]
    ) -> None:
        self._out, self._prove = out, prove
        self._packed_limit, self._unpacked_limit = packed_limit, unpacked_limit
        self._behind = ThreadPoolExecutor(1, "unpacked")
        self._pending: Future[None] = Future()
        self._pending.set_result(None)
        self._begin()

    def __enter__(self) -> "Unpacker":
        return self

    def __exit__(self, *_: object) -> None:
        self._behind.shutdown()

    def restart(self) -> None:
        """Forget what was taken: the file comes again from its first byte."""
        self._pending.exception()
        self._begin()
        self._out.seek(0)
        self._out.truncate()

    def write(self, packed: bytes) -> None:
        """Take the next bytes. Raises WrongContent, or OSError when they cannot be written."""
        if self._packed.size < len(_MAGIC):
            self._head += packed[: len(_MAGIC)]
            if not _MAGIC.startswith(self._head[: len(_MAGIC)]):
                raise WrongContent("xz data", _kind(self._head + packed))
        self._packed.add(packed)
        if self._packed.size > self._packed_limit:
            raise WrongContent(f"{self._packed_limit} bytes", "more")
        try:
            self._unpack(packed)
        except lzma.LZMAError as error:
            if "Memory" in str(error):
                raise WrongContent(
                    f"xz data that unpack in {_MEMORY} bytes of memory", "some that want more"
                ) from error
            raise WrongContent("sound xz data", f"damage before byte {self._packed.size} ({error})") from error

    def finish(self) -> None:
        """All bytes have come. Raises WrongContent when the xz data are not whole, or `prove` does, and OSError."""
        self._pending.result()
        if not self._xz.eof:
            raise WrongContent("whole xz data", f"an end after {self._packed.size} bytes")
        self._out.flush()
        self._prove(LockedAsset(unpacked=self._unpacked.measure(), packed=self._packed.measure()))

    def _begin(self) -> None:
        self._xz = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY)
        self._head = b""
        self._packed, self._unpacked = _Meter(), _Meter()

    def _unpack(self, packed: bytes) -> None:
        while not self._xz.eof:
            piece = self._xz.decompress(packed, _PIECE)
            packed = b""
            self._keep(piece)
            if self._xz.needs_input:
                return
        if packed or self._xz.unused_data:
            raise WrongContent("the end of the xz data", "more bytes after it")

    def _keep(self, piece: bytes) -> None:
        self._pending.result()  # the piece before: it is written, or it raises here
        if self._unpacked.size + len(piece) > self._unpacked_limit:
            raise WrongContent(f"{self._unpacked_limit} bytes once unpacked", "more")
        self._pending = self._behind.submit(self._hash_and_write, piece)

    def _hash_and_write(self, piece: bytes) -> None:
        self._unpacked.add(piece)
        self._out.write(piece)


class _Meter:
    """Size and SHA-256 of what passes."""

    def __init__(self) -> None:
        self.size = 0
        self._sha256 = hashlib.sha256()

    def add(self, data: bytes) -> None:
        self.size += len(data)
        self._sha256.update(data)

    def measure(self) -> LockedFile:
        return LockedFile(self.size, self._sha256.hexdigest())


def _kind(head: bytes) -> str:
    """What people are sent for a file, by its first bytes."""
    if head[:2] == b"\x1f\x8b":
        return "gzip data"
    if head.lstrip()[:1] == b"<":
        return "a web page or XML (a login page, or a proxy's message?)"
    return f"{head[:6]!r} where {_MAGIC!r} should be"
