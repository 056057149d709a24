"""The layers of an OCI image: what they become for the guest, and what is refused."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scripts.guest import bounded_tar, oci_layers
from scripts.guest.bounded_tar import LARGEST_READ, BoundedTar
from scripts.guest.oci_image import MOST_LAYERS, ImageError, read_image
from scripts.guest.oci_layers import write_layers
from scripts.machine.packages import install_commands
from tests.support import disk
from tests.support.oci_layout import TAG, entry, layer, write

D, LINK, SYMBOLIC, CHARACTER = tarfile.DIRTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE
CAPABILITY = b"\x01\x00\x00\x02\x00\x20\x00\x00".ljust(20, b"\0").decode("utf-8", "surrogateescape")
"""vfs_cap_data with CAP_NET_RAW, permitted and effective (linux/capability.h)."""
LOWER = layer(
    entry("./", D, mode=0o755),
    entry("./etc", D, mode=0o711, uid=5),
    entry("etc/keep", data=b"keep", mode=0o640, uid=1000, gid=50),
    entry("etc/gone", data=b"gone"),
    entry("etc/hard", LINK, linkname="./etc/keep"),
    entry("null", CHARACTER, devmajor=1, devminor=3, mode=0o666),
    entry("cap", data=b"p", mode=0o755, pax_headers={"SCHILY.xattr.security.capability": CAPABILITY}),
    entry("opaque", D),
    entry("opaque/old", data=b"old"),
    entry("again", D),
    entry("again/old", data=b"old"),
    entry("link", SYMBOLIC, linkname="etc/keep"),
)
UPPER = layer(
    entry("etc/.wh.gone"),
    entry("opaque/.wh..wh..opq"),
    entry("opaque", D),
    entry("opaque/new", data=b"new"),
    entry(".wh.again"),
    entry("again", D),
    entry("again/new", data=b"new"),
)


@pytest.fixture
def merged(tmp_path: Path) -> Iterator[Path]:
    """The two layers as overlayfs shows them, one on the other."""
    disk.need_root()
    layers = write_layers(read_image(str(write(tmp_path / "layout", [LOWER, UPPER], {}))), tmp_path, lambda line: None)
    mounted = [tmp_path / "lower", tmp_path / "upper", tmp_path / "merged"]
    for folder in mounted:
        folder.mkdir()
    lower = f"lowerdir={mounted[1]}:{mounted[0]}"
    mounts = [
        ["-o", "loop,ro", str(layers[0])],
        ["-o", "loop,ro", str(layers[1])],
        ["-t", "overlay", "overlay", "-o", lower],
    ]
    with contextlib.ExitStack() as stack:
        for words, folder in zip(mounts, mounted):
            subprocess.run(["mount", *words, folder], check=True)
            stack.callback(lambda mounted: subprocess.run(["umount", mounted], check=True), folder)
        yield mounted[2]


@pytest.mark.slow
def test_overlayfs_shows_what_the_layers_say(merged: Path) -> None:
    listed = ["find", str(merged), "-mindepth", "1", "-printf", "%P %M %U:%G %n\n"]
    found = subprocess.run(listed, capture_output=True, text=True, check=True).stdout
    assert sorted(found.splitlines()) == [
        "again drwxr-xr-x 0:0 2",
        "again/new -rw-r--r-- 0:0 1",
        "cap -rwxr-xr-x 0:0 1",
        "etc drwx--x--x 5:0 1",
        "etc/hard -rw-r----- 1000:50 2",
        "etc/keep -rw-r----- 1000:50 2",
        "link lrwxrwxrwx 0:0 1",
        "null crw-rw-rw- 0:0 1",
        "opaque drwxr-xr-x 0:0 2",
        "opaque/new -rw-r--r-- 0:0 1",
    ]
    assert (merged / "etc/keep").read_bytes() == b"keep"
    assert subprocess.run(["getcap", merged / "cap"], capture_output=True, text=True, check=True).stdout.endswith(
        "cap_net_raw=ep\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["docker-archive", "oci-archive"])
def test_an_archive_that_skopeo_writes_has_the_layers_of_the_layout(kind: str, tmp_path: Path) -> None:
    install_commands(["skopeo"])
    layout = write(tmp_path / "layout", [LOWER, UPPER], {"Cmd": ["/bin/true"]})
    archive = tmp_path / "image.tar"
    copy = ["skopeo", "--insecure-policy", "copy", "--override-os", "linux", "--override-arch", "arm64"]
    subprocess.run([*copy, f"oci:{layout}:{TAG}", f"{kind}:{archive}:example:1"], check=True, capture_output=True)
    with read_image(str(archive)) as image:
        assert [each.diff_id for each in image.layers] == [each.diff_id for each in read_image(str(layout)).layers]
        assert image.config["Cmd"] == ["/bin/true"]
        assert len(write_layers(image, tmp_path, lambda line: None)) == 2


def test_a_layer_compressed_by_zstd_is_read(tmp_path: Path) -> None:
    install_commands(["zstd", "mksquashfs"])
    layout = write(tmp_path / "layout", [LOWER], {})
    packed = subprocess.run(["zstd", "-c"], input=LOWER, stdout=subprocess.PIPE, check=True).stdout
    _replace_layer(layout, packed)
    assert [path.name for path in write_layers(read_image(str(layout)), tmp_path, lambda line: None)] == [
        "layer-0.squashfs"
    ]


def _replace_layer(layout: Path, packed: bytes) -> None:
    """Have the layout's only layer be these bytes, with descriptors that fit."""
    index = json.loads((layout / "index.json").read_text())
    blobs = layout / "blobs" / "sha256"
    manifest = json.loads((blobs / index["manifests"][0]["digest"].partition(":")[2]).read_text())
    digest = hashlib.sha256(packed).hexdigest()
    (blobs / digest).write_bytes(packed)
    manifest["layers"][0]["digest"] = f"sha256:{digest}"
    content = json.dumps(manifest).encode()
    name = hashlib.sha256(content).hexdigest()
    (blobs / name).write_bytes(content)
    index["manifests"][0]["digest"] = f"sha256:{name}"
    (layout / "index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("members", "found"),
    [
        ([entry("../evil", data=b"x")], r"\.\./evil: expected a name below the root, found \.\."),
        ([entry("a", LINK, linkname="elsewhere")], "a: expected a file of the layer, found a hard link to elsewhere"),
        ([entry("a", LINK, linkname="a")], "a: expected a file of the layer, found a hard link to a, which is no file"),
        (
            [entry("a", LINK, linkname="b"), entry("b", LINK, linkname="a")],
            "a: expected a file of the layer, found a hard link to b, which is no file in the layer",
        ),
        (
            [entry("d", tarfile.DIRTYPE), entry("a", LINK, linkname="d")],
            "a: expected a file of the layer, found a hard link to d, which is no file in the layer",
        ),
        ([entry("n" * 256, data=b"x")], "expected names of at most 255 bytes, in paths of at most 4095"),
        ([entry("d/" * 30_000 + "x", data=b"x")], "expected names of at most 255 bytes, in paths of at most 4095"),
        ([entry("a", data=b"x", pax_headers={"size": "-1"})], "expected a tar archive, found damage"),
    ],
)
def test_a_layer_that_no_file_system_could_hold_is_refused(
    members: list[tuple[tarfile.TarInfo, bytes]], found: str, tmp_path: Path
) -> None:
    image = read_image(str(write(tmp_path / "layout", [layer(*members)], {})))
    with pytest.raises(ImageError, match=found):
        write_layers(image, tmp_path, lambda line: None)
    assert not list(tmp_path.glob("*.squashfs"))


def test_a_damaged_blob_is_refused_by_its_digest(tmp_path: Path) -> None:
    layout = write(tmp_path / "layout", [LOWER], {})
    image = read_image(str(layout))
    blob = layout / image.layers[0].name
    blob.write_bytes(blob.read_bytes()[:-9] + b"wrong end")
    with pytest.raises(ImageError, match="make the image again, or copy it again"):
        write_layers(image, tmp_path, lambda line: None)


def _link_to_a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [os.mkfifo, _link_to_a_device], ids=["pipe", "device"])
def test_a_pipe_or_a_device_in_the_place_of_a_layer_is_refused_at_once(
    make: Callable[[Path], None], tmp_path: Path
) -> None:
    image = read_image(str(write(tmp_path / "layout", [LOWER], {})))
    blob = tmp_path / "layout" / image.layers[0].name
    blob.unlink()
    make(blob)
    with pytest.raises(ImageError, match="expected a file of the image, found a device, socket or pipe"):
        write_layers(image, tmp_path, lambda line: None)


@pytest.mark.parametrize(
    "header", [{"mtime": "nan"}, {"mtime": "inf"}, {"GNU.sparse.map": "a", "GNU.sparse.size": "1"}]
)
def test_a_layer_with_numbers_that_are_none_is_one_line(header: dict[str, str], tmp_path: Path) -> None:
    image = read_image(str(write(tmp_path / "layout", [layer(entry("a", pax_headers=header))], {})))
    with contextlib.suppress(ImageError):
        write_layers(image, tmp_path, lambda line: None)


def with_a_large_header(size: int) -> bytes:
    """A tar whose member has an attribute of that many bytes, which a reader has to take as a whole."""
    return layer(entry("a", pax_headers={"SCHILY.xattr.user.large": "x" * size}))


def test_a_header_that_takes_much_memory_is_refused_before_it_is_read(tmp_path: Path) -> None:
    bomb = with_a_large_header(64 << 20)
    layout = write(tmp_path / "layout", [bomb], {})
    (tmp_path / "image.tar").write_bytes(bomb)
    (tmp_path / "image.tar.gz").write_bytes(gzip.compress(bomb, 1))
    del bomb
    expected = f"expected headers of at most {LARGEST_READ} bytes, found one of 671"
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match=expected):
            write_layers(read_image(str(layout)), tmp_path, lambda line: None)
        for name in ("image.tar", "image.tar.gz"):
            with pytest.raises(ImageError, match=expected):
                read_image(str(tmp_path / name))
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 16 << 20


def test_attributes_as_large_as_they_are_in_use_are_read(tmp_path: Path) -> None:
    """Linux takes attributes of 64 KiB; mksquashfs, which gets them, has the last word."""
    with BoundedTar.open(fileobj=io.BytesIO(with_a_large_header(1 << 16))) as archive:
        (member,) = archive.bounded_members()
    assert len(member.pax_headers["SCHILY.xattr.user.large"]) == 1 << 16


def test_a_layer_that_unpacks_to_more_than_any_image_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The layers of an image share the room: the second has what the first has left."""
    layers = [layer(entry("a", data=bytes(1 << 20))), layer(entry("b", data=bytes(2 << 20)))]
    image = read_image(str(write(tmp_path / "layout", layers, {})))
    room = sum(map(len, layers))
    monkeypatch.setattr(oci_layers, "LARGEST_UNPACKED", room)
    assert len(write_layers(image, tmp_path, lambda line: None)) == 2
    monkeypatch.setattr(oci_layers, "LARGEST_UNPACKED", room - 1)
    with pytest.raises(ImageError, match=f"expected layers of at most {room - 1} bytes once unpacked, found more"):
        write_layers(image, tmp_path, lambda line: None)


def test_more_members_or_layers_than_any_image_has_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    several = layer(*(entry(str(number)) for number in range(4)))
    (tmp_path / "image.tar").write_bytes(several)
    image = read_image(str(write(tmp_path / "layout", [several], {})))
    monkeypatch.setattr(bounded_tar, "MOST_MEMBERS", 3)
    for use in (lambda: write_layers(image, tmp_path, lambda line: None), lambda: read_image(f"{tmp_path}/image.tar")):
        with pytest.raises(ImageError, match="expected at most 3 members, found more"):
            use()
    many = write(tmp_path / "many", [layer(entry("a"))] * (MOST_LAYERS + 1), {})
    with pytest.raises(ImageError, match=f"expected at most {MOST_LAYERS} layers, found {MOST_LAYERS + 1}"):
        read_image(str(many))
