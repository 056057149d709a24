"""scripts/boot.py --oci --snapshot and --restore, as their users run them."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scripts.guest import snapshot_file
from scripts.guest.oci_run import Run, Volume
from scripts.guest.oci_snapshot import _save
from scripts.guest.snapshot_file import Snapshot, SnapshotError
from tests.support.oci_layout import busybox_layer, write

LIMIT = 300
"""Seconds for one command, on a machine that does many things at once."""
AWAY = 4
"""Seconds for which the guest is a file, at least."""
SCRIPT = f"""
clocks() {{ echo $(($(date +%s) - $(cut -d. -f1 /proc/uptime))); }}
start=$(clocks) i=0
while [ $(clocks) -lt $((start + {AWAY} - 1)) ]; do echo tick $i; i=$((i + 1)); sleep 0.3; done
cat /data/file
exit 5
"""
"""The clock jumps when the guest is told that it was restored, and the time since its boot does not."""


def boot(project: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(project / "scripts" / "boot.py"), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_guest_goes_on_from_a_file_where_it_was_saved(project: Path, built_set: Path, tmp_path: Path) -> None:
    """Its output, its clock, its volume and its exit status, in a new QEMU; the image is no more."""
    layout = write(tmp_path / "layout", [busybox_layer()], {"Cmd": ["sh", "-c", SCRIPT], "Env": ["PATH=/bin"]})
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume" / "file").write_text("went on\n")
    volume, saved = tmp_path / "volume.ext4", tmp_path / "guest with a space"
    subprocess.run(["mkfs.ext4", "-q", "-d", tmp_path / "volume", volume, "8M"], check=True, capture_output=True)
    options = ["--volume", f"{volume}:/data", str(built_set)]
    machine = ["--cpus", "2", "--memory", "128M"]

    with boot(project, "--oci", str(layout), "--snapshot", str(saved), *machine, *options) as first:
        assert first.stdout is not None
        before = [first.stdout.readline() for _ in range(3)]
        first.send_signal(signal.SIGINT)
        rest, errors = first.communicate(timeout=LIMIT)
    assert first.returncode == 0, errors
    layout.rename(tmp_path / "away")
    time.sleep(AWAY)
    with boot(project, "--restore", str(saved), *options) as second:
        after, errors = second.communicate(timeout=LIMIT)
    assert second.returncode == 5, errors
    assert after.endswith("went on\n")
    # A line that was on its way when the guest was saved comes in two parts, and is none of these.
    ticks = [int(number) for number in re.findall(r"^tick (\d+)$", "".join(before) + rest + after, re.MULTILINE)]
    assert ticks == sorted(set(ticks)) and len(ticks) >= ticks[-1]

    again = boot(project, "--restore", str(saved), *options)
    _, errors = again.communicate(timeout=LIMIT)
    assert again.returncode == 125
    assert errors == (
        f"boot.py: {volume}: expected the volume as the guest left it, found a changed one; save the guest again\n"
    )


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    (tmp_path / "kernel").write_bytes(b"kernel")
    return tmp_path / "kernel"


@pytest.fixture
def saved(tmp_path: Path, kernel: Path) -> Path:
    """A file as --snapshot writes it, with a layer, and a few bytes in place of QEMU's stream."""
    (tmp_path / "layer").write_bytes(b"layer")
    with (tmp_path / "saved").open("wb") as file:
        places = snapshot_file.begin(file, [tmp_path / "layer", tmp_path / "layer"])
        stream = file.tell()
        file.write(b"stream")
        digest, version = snapshot_file.kernel_digest(kernel), snapshot_file.qemu_version()
        found = Snapshot(snapshot_file.FORMAT, version, digest, 2, "128M", places, [], stream, file.tell())
        snapshot_file.finish(file, found)
    return tmp_path / "saved"


def test_what_was_written_is_read(saved: Path, kernel: Path) -> None:
    found = snapshot_file.read(saved, kernel, [])
    content = saved.read_bytes()
    assert (found.cpus, found.memory, content[found.stream :]) == (2, "128M", b"stream")
    for offset, size in found.layers:
        assert (offset % 4096, size) == (0, 4096)
        assert content[offset : offset + size].rstrip(b"\0") == b"layer"


def change(**fields: Any) -> Callable[[Path], None]:
    """A change of the file's header."""

    def do(saved: Path) -> None:
        content = saved.read_bytes()
        header = {**json.loads(content[: snapshot_file.HEADER]), **fields}
        saved.write_bytes(json.dumps(header).encode().ljust(snapshot_file.HEADER) + content[snapshot_file.HEADER :])

    return do


OTHER = "found another file, or a damaged one"


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (Path.unlink, "found No such file or directory"),
        (lambda saved: saved.write_bytes(b""), OTHER),
        (lambda saved: saved.write_bytes(b"\xff" * 9999), OTHER),
        (lambda saved: saved.write_text("[" * 60000), OTHER),
        (lambda saved: os.truncate(saved, saved.stat().st_size - 1), "it was cut, or is not whole"),
        (change(format=2), "expected a saved guest of format 1, found another file"),
        (change(qemu="QEMU emulator version 1"), "expected QEMU that saved it: QEMU emulator version 1, found QEMU"),
        (change(kernel="0" * 64), f"expected the kernel that saved it: {'0' * 64}, found"),
        (change(cpus=True), OTHER),
        (change(memory="1G,slots=2"), OTHER),
        (change(layers=[[1 << 16, 1 << 40]]), OTHER),
        (change(layers=[["a", "b"]]), OTHER),
        (change(volumes=[["a"]]), OTHER),
        (
            change(volumes=[{"file": "/etc/shadow", "path": "/x", "read_only": True, "size": 1, "changed_ns": 1}]),
            "expected --volume /etc/shadow:/x:ro, found no --volume",
        ),
        (change(more=1), OTHER),
    ],
)
def test_a_file_that_is_no_guest_for_here_is_one_line(
    saved: Path, kernel: Path, damage: Callable[[Path], None], found: str
) -> None:
    damage(saved)
    with pytest.raises(SnapshotError) as refused:
        snapshot_file.read(saved, kernel, [])
    assert found in str(refused.value)
    assert "\n" not in str(refused.value)


def test_volumes_that_were_not_there_are_refused(saved: Path, kernel: Path) -> None:
    with pytest.raises(SnapshotError, match=r"expected no --volume, found --volume .*kernel:/data"):
        snapshot_file.read(saved, kernel, [Volume(kernel, "/data")])


class Quiet:
    """In the place of a guest that can be told everything; `migrate` runs its command as QEMU does."""

    def __init__(self, folder: Path, precious: Path) -> None:
        self._folder, self._precious = folder, precious

    def __call__(self, command: str) -> None:
        pass

    def park(self) -> None:
        pass

    def wait(self, limit: float) -> None:
        pass

    def migrate(self, uri: str) -> None:
        """Write a stream of a few bytes, while somebody else puts links into the place of all that is there."""
        for path in self._folder.iterdir():
            path.unlink()
            path.symlink_to(self._precious)
        command = ["sh", "-c", uri.removeprefix("exec:")]
        subprocess.run(command, input=b"memory", check=True)


def test_the_memory_of_a_guest_goes_through_no_link_and_is_its_owners_alone(kernel: Path, tmp_path: Path) -> None:
    """The name was NAME.PID.new, opened by everybody who wrote, and the file could be read by all."""
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    for name in ("shared", "own"):
        (tmp_path / name).mkdir()
        attacked: Any = Quiet(tmp_path / "shared", precious)
        _save(attacked, attacked, attacked, kernel.parent, Run(), [kernel], tmp_path / name / "guest")
    file = tmp_path / "own" / "guest"
    assert precious.read_bytes() == b"precious"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_bytes().endswith(b"memory")
    assert os.listdir(file.parent) == ["guest"]
