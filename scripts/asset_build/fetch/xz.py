"""The `.xz` of a release: packed to the same bytes every time, unpacked in constant memory and never beyond a limit."""

import hashlib
import lzma
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO

from ..errors import ContentMismatchError
from ..lock import LockedFile

# Stated in full: a preset's meaning may change. The dictionary is what unpacking takes in memory.
_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 8 << 20}]
# Enough for every preset of xz (-9 takes 65 MiB), and no more for a header that asks for 4 GiB.
_MEMORY = 96 << 20
_PIECE = 1 << 20


def pack(content: bytes) -> bytes:
    """The `.xz` of `content`: with one release of liblzma the same bytes every time, on any machine."""
    return lzma.compress(content, lzma.FORMAT_XZ, check=lzma.CHECK_CRC64, filters=_FILTERS)


def unpack(packed: BinaryIO, out: BinaryIO, limit: int) -> LockedFile:
    """Write to `out` what the `.xz` in `packed` holds: its size and SHA-256.

    Raises ContentMismatchError if it is not one whole `.xz` or holds more than `limit` bytes, and OSError.
    """
    decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY)
    size, digest = 0, hashlib.sha256()

    def keep(piece: bytes) -> None:
        digest.update(piece)
        out.write(piece)

    with ThreadPoolExecutor(1) as background:  # it keeps one piece while the next is unpacked
        kept: Future[None] = background.submit(keep, b"")
        while not decompressor.eof:
            data = packed.read(_PIECE) if decompressor.needs_input else b""
            if decompressor.needs_input and not data:
                raise ContentMismatchError("whole xz data", f"an end after {packed.tell()} bytes")
            try:
                piece = decompressor.decompress(data, _PIECE)
            except lzma.LZMAError as error:
                raise ContentMismatchError("sound xz data", f"{error} before byte {packed.tell()}".lower()) from error
            size += len(piece)
            if size > limit:
                raise ContentMismatchError(f"at most {limit} bytes once unpacked", "more")
            kept.result()
            kept = background.submit(keep, piece)
        kept.result()
    if decompressor.unused_data or packed.read(1):
        raise ContentMismatchError("the end of the xz data", "more bytes after it")
    out.flush()
    return LockedFile(size, digest.hexdigest())
