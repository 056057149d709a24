"""The root that init-oci makes: layers, what takes the writes, volumes and shares, in booted guests."""

from __future__ import annotations

import hashlib
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from scripts.guest import qemu
from scripts.machine.packages import install_commands, install_packages
from tests.support import guest
from tests.support.guest import LIMIT, Container, assert_ended_well, boot, configuration, disks, said
from tests.support.native_agent import is_listening

pytestmark = pytest.mark.slow

VIRTIOFSD = [Path("/usr/libexec/virtiofsd"), Path("/usr/lib/qemu/virtiofsd")]
"""Where Debian's packages have it: the newer, and QEMU's own of Debian 12."""


def files_in(folder: Path, contents: Mapping[str, str]) -> Path:
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content + "\n")
    return folder


def make_image(kind: str, folder: Path, *options: str) -> Path:
    """A file system of the files in `folder`, in a file beside it."""
    image = folder.with_suffix(f".{kind}")
    commands = {
        "squashfs": ["mksquashfs", str(folder), str(image), "-comp", "zstd", "-quiet", "-no-progress"],
        "erofs": ["mkfs.erofs", str(image), str(folder)],
        "ext4": ["mkfs.ext4", "-q", "-d", str(folder), str(image), "8m"],
        "xfs": ["mkfs.xfs", "-q", "-d", f"file,name={image},size=300m"],  # an empty one of the least size
    }
    install_commands([commands[kind][0]])
    subprocess.run([*commands[kind], *options], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    return image


@contextmanager
def shared(folder: Path, tag: str, scratch: Path) -> Iterator[list[str]]:
    """Arguments for QEMU: the folder as a virtio-fs share, served as long as this lasts."""
    if not any(path.exists() for path in VIRTIOFSD):
        install_packages(["virtiofsd"])
    program = next(path for path in VIRTIOFSD if path.exists())
    socket = scratch / f"{tag}.socket"
    options = [f"--socket-path={socket}", "-o", f"source={folder}", "-o", "sandbox=chroot"]
    with subprocess.Popen([program, *options], stderr=subprocess.DEVNULL) as process:
        try:
            while not is_listening(socket):
                assert process.poll() is None, "virtiofsd has ended"
                time.sleep(0.01)
            chardev = ["-chardev", f"socket,id={tag},path={socket}"]
            yield [*chardev, "-device", f"vhost-user-fs-device,chardev={tag},tag={tag}"]
        finally:
            process.terminate()


def clean(image: Path) -> bool:
    """Whether a file system needs neither its journal nor a repair, as after an unmount."""
    if image.suffix == ".xfs":
        return subprocess.run(["xfs_repair", "-n", "-f", image], capture_output=True, check=False).returncode == 0
    head = subprocess.run(["dumpe2fs", "-h", image], capture_output=True, text=True, check=True).stdout
    checked = subprocess.run(["e2fsck", "-f", "-n", image], capture_output=True, check=False)
    return "needs_recovery" not in head and checked.returncode == 0


def test_layers_volumes_and_shares_make_one_root(built_set: Path, tmp_path: Path) -> None:
    """In two boots on the same disks: the second finds what the first one wrote."""
    container = Container()
    container.file("bin/layered.sh", (guest.SOURCES / "layered.sh").read_bytes(), 0o755)
    container.links.update({"dev": "/real/dev", "proc": "/real/proc", "sys": "real-sys"})
    names = dict.fromkeys(
        ["from/lowest", "from/second", "from/third", "from/fourth", "from/gone-too", "gone"], "lowest"
    )
    container.into_folder(files_in(tmp_path / "lowest", names))
    second = files_in(tmp_path / "second", dict.fromkeys(["from/second", "from/third", "from/fourth"], "second"))
    fourth = files_in(tmp_path / "fourth", {"from/fourth": "fourth"})
    whiteouts = ["-p", "gone c 0 0 0 0 0", "-p", "from/gone-too c 0 0 0 0 0"]
    layers = [make_image("squashfs", tmp_path / "lowest"), make_image("erofs", second)]
    layers += [make_image("squashfs", fourth, *whiteouts)]
    upper, volume, read_only = (
        make_image("ext4", files_in(tmp_path / name, {"own": name})) for name in ("upper", "volume", "read-only")
    )
    xfs = make_image("xfs", tmp_path / "xfs")
    share = files_in(tmp_path / "share", {"own": "share"})
    config = configuration(
        "layered.sh",
        lower=["/dev/vda", "/dev/vdb", "/with : , in it", "/dev/vdc"],
        upper="/dev/vdd",
        mount=["/dev/vde:/data/deep/er", "/dev/vdf:/ro:ro", "share:/share:dax", "other:/share-ro:ro", "/dev/vdg:/xfs"],
    )
    third = Container.__new__(Container)
    third.files, third.links = {f"from/{name}": (b"third\n", 0o644) for name in ("third", "fourth")}, {}
    before = [hashlib.sha256(image.read_bytes()).digest() for image in [*layers, read_only]]
    # virtiofsd serves no legacy device
    memory = ["-global", "virtio-mmio.force-legacy=false", "-machine", "memory-backend=m"]
    memory += ["-object", f"memory-backend-memfd,id=m,size={qemu.MEMORY},share=on"]
    seen = []
    for _ in range(2):
        with shared(share, "share", tmp_path) as first, shared(share, "other", tmp_path) as other:
            extra = [*memory, *disks(*layers, upper, volume, read_only, xfs), *first, *other]
            folders = {"with : , in it": third}
            seen.append(boot(built_set, tmp_path, config, folders=folders, extra=extra, limit=3 * LIMIT))
        assert_ended_well(seen[-1])
        assert clean(upper) and clean(volume) and clean(xfs)
    assert [hashlib.sha256(image.read_bytes()).digest() for image in [*layers, read_only]] == before
    kinds = ["/dev/vda (squashfs)", "/dev/vdb (erofs)", "/with : , in it (folder)", "/dev/vdc (squashfs)"]
    assert said(seen[0], "init-oci: layer ") == kinds
    assert said(seen[0], "init-oci: overlay root on ") == ["4 layers, upper /dev/vdd"]
    volumes = ["/dev/vde at /data/deep/er (ext4)", "/dev/vdf at /ro (ext4, ro)", "share at /share (virtiofs)"]
    volumes += ["other at /share-ro (virtiofs, ro)", "/dev/vdg at /xfs (xfs)"]
    assert said(seen[0], "init-oci: volume ") == volumes
    # QEMU has no window for it
    assert said(seen[0], "init-oci: warning: ") == ["volume share: no DAX (Invalid argument); going on without it"]
    expected = {
        "lowest: ": "lowest",
        "second: ": "second",
        "third: ": "third",
        "fourth: ": "fourth",
        "links resolve in the image": "",
        "before: ": "",
        "volume: ": "volume read-only share share",
        "ro: ": "cannot be written",
        "share-ro: ": "cannot be written",
        "full: ": "sh: write error: No space left on device",
        "/dev/vde ": "/data/deep/er ext4 rw",
        "/dev/vdf ": "/ro ext4 ro",
        "share ": "/share virtiofs rw",
        "other ": "/share-ro virtiofs ro",
        "init-oci: exit status ": "1",
    }
    assert {prefix: said(seen[0], prefix) for prefix in expected} == {key: [text] for key, text in expected.items()}
    assert said(seen[0], "link: ") == ["dev to /real/dev", "proc to /real/proc", "sys to real-sys"]
    assert not said(seen[0], "/gone") and not said(seen[0], "/from")
    assert said(seen[1], "before: ") == ["on the upper on the volume on the share on XFS "]
    assert (said(seen[1], "lowest: "), said(seen[1], "second: ")) == (["changed"], [""])
    assert said(seen[1], "full: ") == [expected["full: "]], "a full disk does not make the root read-only"


def test_a_full_upper_is_no_space_for_the_image_and_no_panic(built_set: Path, tmp_path: Path) -> None:
    """With all the content and all the files that /dev/shm and /dev take too, in a guest of 128 MiB."""
    fill = "; ".join(
        [
            'fill() { cat /dev/zero 2>&1 > $1 | sed "s|.*: |$1: |"; }',
            "fill /big; fill /dev/shm/big; fill /dev/nul",
            'files() { echo "files in $1:" $(i=0; while : > $1/big$i$LONG; do i=$((i + 1)); done 2>&1); }',
            f"LONG={'x' * 200}; files ''; files /dev/shm; files /dev",
            "rm -r /big*; echo again > /more; cat /more",
        ]
    )
    seen = boot(built_set, tmp_path, configuration("sh", "-c", fill), Container(), memory="128M", limit=3 * LIMIT)
    assert_ended_well(seen)
    for path in ("/big", "/dev/shm/big", "/dev/nul"):
        assert said(seen, f"{path}: ") == ["No space left on device"]
    for folder in ("", "/dev/shm", "/dev"):
        (files,) = said(seen, f"files in {folder}: ")
        assert files.endswith("No space left on device")
    assert said(seen, "again") == [""], "there is room after something was removed"


def test_a_layer_that_is_not_of_the_named_type_is_refused(built_set: Path, tmp_path: Path) -> None:
    image = make_image("ext4", files_in(tmp_path / "layer", {"file": "content"}))
    config = configuration("a", lower="/dev/vda", fstype="squashfs")
    seen = boot(built_set, tmp_path, config, extra=disks(image), without=["supermachine-agent"])
    assert_ended_well(seen)
    assert said(seen, "init-oci: error: ") == ["lower /dev/vda is no squashfs that can be mounted: Invalid argument"]
