"""What a limit of the process (ulimit) keeps the module from doing is said to be that."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.support import child

LIMITED = """
import resource, sys, supermachine_kernel as k
k.extract_all_to(sys.argv[1] + "/loaded")  # what a call imports is there by now
try:
    k.KERNEL.extract_to(sys.argv[1])
except k.SupermachineKernelError:
    pass
limit = getattr(resource, sys.argv[2])
resource.setrlimit(limit, (int(sys.argv[3]), resource.getrlimit(limit)[1]))
try:
    exec(sys.argv[4])
except (k.SupermachineKernelError, MemoryError) as error:
    resource.setrlimit(limit, (resource.getrlimit(limit)[1], resource.getrlimit(limit)[1]))
    print(type(error).__name__, error)
"""


@pytest.mark.skipif(
    sys.platform != "linux",
    reason="file counts of Linux; macOS has no limit of the address space",
)
@pytest.mark.parametrize(
    ("limit", "value", "use", "said"),
    [
        ("RLIMIT_NOFILE", 3, "k.KERNEL.read_bytes()", "AssetError .*Too many open files.*; close files"),
        (
            "RLIMIT_NOFILE",
            5,
            "k.extract_all_to(sys.argv[1])",
            "AssetError .*/assets/.*Too many open files.*; close files",
        ),
        ("RLIMIT_NOFILE", 9, "k.extract_all_to(sys.argv[1])", "DestinationError .*Too many open files.*; close files"),
        ("RLIMIT_FSIZE", 4096, "k.extract_all_to(sys.argv[1])", "DestinationError .*File too large.*; raise the limit"),
        ("RLIMIT_AS", 4096, "k.KERNEL.read_bytes()", "MemoryError"),
        ("RLIMIT_AS", 4096, "k.KERNEL.view()", "MemoryError"),
    ],
)
def test_a_limit_of_the_process_is_not_called_a_damaged_installation(
    limit: str, value: int, use: str, said: str, tmp_path: Path
) -> None:
    done = child.python(LIMITED, tmp_path, limit, value, use)
    assert re.match(said, done.stdout), done.stdout + done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["loaded"]
