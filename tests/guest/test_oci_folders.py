"""The folders of an OCI image: those to which links lead from a layer to another, and those of declared volumes."""

from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path

import pytest

from scripts.guest.oci_image import ImageError, read_image
from scripts.guest.oci_layers import write_layers
from scripts.guest.oci_run import declared_volumes
from scripts.machine.packages import install_commands
from tests.support.oci_layout import entry, layer, write


def test_a_layer_s_files_are_where_the_links_of_the_layers_below_lead(tmp_path: Path) -> None:
    """As container engines unpack them: only a folder that the layer itself names takes the place of a link."""
    install_commands(["mksquashfs", "unsquashfs"])
    lower = layer(
        entry("usr/lib/old", data=b""),
        entry("lib", tarfile.SYMTYPE, linkname="usr/lib"),
        entry("sbin", tarfile.SYMTYPE, linkname="/usr/../usr/sbin"),
        entry("bin", tarfile.SYMTYPE, linkname="usr/bin"),
        entry("run", tarfile.SYMTYPE, linkname="var/run"),
        entry("lock", tarfile.SYMTYPE, linkname="var/lock"),
    )
    upper = layer(
        entry("lib/deep/new", data=b"new"),
        entry("lib/hard", tarfile.LNKTYPE, linkname="./lib/deep/new"),
        entry("lib/.wh.old"),
        entry("sbin/init", data=b""),
        entry("bin", tarfile.DIRTYPE),
        entry("bin/sh", data=b""),
        entry(".wh.run"),
        entry("run/x", data=b""),
        entry("lock", tarfile.SYMTYPE, linkname="run"),
        entry("lock/y", data=b""),
    )
    image = read_image(str(write(tmp_path / "layout", [lower, upper], {})))
    _, squashfs = write_layers(image, tmp_path, lambda line: None)
    listed = subprocess.run(["unsquashfs", "-lls", squashfs], capture_output=True, text=True, check=True).stdout
    found = [(line.split()[0], line.partition("squashfs-root")[2]) for line in listed.splitlines()]
    assert sorted(path for mode, path in found if not mode.startswith("d")) == [
        *("/bin/sh", "/lock -> run", "/run/x", "/run/y"),
        *("/usr/lib/deep/new", "/usr/lib/hard", "/usr/lib/old", "/usr/sbin/init"),
    ]
    assert ("crw-------", "/usr/lib/old") in found


@pytest.mark.parametrize(
    ("volumes", "found"),
    [
        (["/data"], r"the image: Volumes: expected an object, found \['/data'\]; make"),
        ({"data": {}}, r"the image: Volumes: expected absolute paths, found \['data'\]; make"),
        ({"/a\0": {}}, "the image: Volumes: expected texts"),
        ({"/loop/x": {}}, "/loop/x: expected the path of a folder, found links that lead to themselves; make"),
        ({"/" + "n" * 256: {}}, "expected names of at most 255 bytes"),
    ],
)
def test_a_volume_that_no_image_can_have_is_refused(volumes: object, found: str, tmp_path: Path) -> None:
    loop = layer(entry("loop", tarfile.SYMTYPE, linkname="other"), entry("other", tarfile.SYMTYPE, linkname="loop"))
    with (
        read_image(str(write(tmp_path / "layout", [loop], {"Volumes": volumes}))) as image,
        pytest.raises(ImageError, match=found),
    ):
        write_layers(image, tmp_path, lambda line: None, declared_volumes(image.config))
