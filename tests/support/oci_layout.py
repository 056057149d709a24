"""OCI layouts made by hand from tar layers, as umoci writes them (OCI image specification, image-layout.md)."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.guest import APPLETS, busybox

TAG = "latest"


def entry(
    name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", **attributes: Any
) -> tuple[tarfile.TarInfo, bytes]:
    """A member of a layer; `attributes` are those of TarInfo."""
    member = tarfile.TarInfo(name)
    member.type, member.size, member.mode = kind, len(data), 0o755 if kind == tarfile.DIRTYPE else 0o644
    for attribute, value in attributes.items():
        setattr(member, attribute, value)
    return member, data


def layer(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """A tar of these members."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member, data in members:
            archive.addfile(member, io.BytesIO(data))
    return written.getvalue()


def busybox_layer() -> bytes:
    """Debian's arm64 busybox with its applets."""
    links = [entry(f"bin/{applet}", tarfile.SYMTYPE, linkname="busybox") for applet in APPLETS]
    return layer(entry("bin", tarfile.DIRTYPE), entry("bin/busybox", data=busybox(), mode=0o755), *links)


def write(
    folder: Path, layers: Sequence[bytes], config: Mapping[str, Any], *, architecture: str = "arm64", tag: str = TAG
) -> Path:
    """Write a layout with one image into `folder`; the layers are compressed with gzip."""
    (folder / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    document = {
        "os": "linux",
        "architecture": architecture,
        "config": dict(config),
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(each).hexdigest()}" for each in layers]},
    }
    blobs = [_blob(folder, gzip.compress(each, 1), "layer.v1.tar+gzip") for each in layers]
    manifest = {"schemaVersion": 2, "config": _blob(folder, _json(document), "config.v1+json"), "layers": blobs}
    described = _blob(folder, _json(manifest), "manifest.v1+json")
    described["annotations"] = {"org.opencontainers.image.ref.name": tag}
    (folder / "index.json").write_bytes(_json({"schemaVersion": 2, "manifests": [described]}))
    return folder


def _blob(folder: Path, content: bytes, kind: str) -> dict[str, Any]:
    digest = hashlib.sha256(content).hexdigest()
    (folder / "blobs" / "sha256" / digest).write_bytes(content)
    return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(content)}


def _json(document: Any) -> bytes:
    return json.dumps(document).encode()
