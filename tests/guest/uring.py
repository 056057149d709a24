"""Write a file and read it by io_uring, through Debian's liburing: uring.py FILE, in a guest."""

import ctypes
import os
import struct
import sys

SIZE = 4096
WRITE, READ = 23, 22  # IORING_OP_WRITE and IORING_OP_READ of linux/io_uring.h

uring = ctypes.CDLL("liburing.so.2", use_errno=True)
uring.io_uring_get_sqe.restype = ctypes.c_void_p
ring = ctypes.create_string_buffer(1024)  # struct io_uring is smaller
data, back = ctypes.create_string_buffer(os.urandom(SIZE), SIZE), ctypes.create_string_buffer(SIZE)
assert uring.io_uring_queue_init(8, ring, 0) == 0
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
done = ctypes.c_void_p()
for count, (operation, buffer) in enumerate(((WRITE, data), (READ, back)), 1):
    entry = struct.pack("<BBHiQQII", operation, 0, 0, file, 0, ctypes.addressof(buffer), SIZE, 0).ljust(64, b"\0")
    ctypes.memmove(uring.io_uring_get_sqe(ring), entry, len(entry))
    assert uring.io_uring_submit(ring) == 1
    # Nothing is taken from the queue: it has room for both, and the second completion stands behind the first.
    assert uring.__io_uring_get_cqe(ring, ctypes.byref(done), 0, count, None) == 0
assert done.value is not None
assert [struct.unpack("<Qi", ctypes.string_at(done.value + at, 12))[1] for at in (0, 16)] == [SIZE, SIZE]
same = sum(a == b for a, b in zip(data.raw, back.raw))
print(f"read {same} of {SIZE}")
