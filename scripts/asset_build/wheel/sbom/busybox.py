"""Busybox in a bill of materials: the distribution's source package that it was compiled from, file by file."""

import re
from typing import Any

from .record import UNKNOWN, BuildRecord

BUSYBOX_SOURCE_REF = "busybox-source"


def busybox_fields(record: BuildRecord, licences: list[dict[str, Any]]) -> dict[str, Any]:
    """What the component of busybox says beside what every asset's does; without a build record nothing is known."""
    version = record.text("busybox", "version")
    if version is None:
        return {}
    package = record.text("busybox", "package") or "busybox"
    upstream = re.split("[-+~]", version.partition(":")[2] or version)[0]  # Debian policy 5.6.12: epoch, revision
    source: dict[str, Any] = {
        "type": "file",
        "bom-ref": BUSYBOX_SOURCE_REF,
        "supplier": {"name": record.vendor or UNKNOWN},
        "name": package,
        "version": version,
        "description": f"the source package {package}",
        "licenses": licences,
        "externalReferences": [
            {"type": "source-distribution", "url": name, "hashes": [{"alg": "SHA-256", "content": sha256}]}
            for name, sha256 in record.files("busybox")
        ],
    }
    purl = record.package_url(package, version, "?arch=source")
    if purl is not None:
        source["purl"] = purl
    return {
        "version": upstream,
        "cpe": f"cpe:2.3:a:busybox:busybox:{upstream}:*:*:*:*:*:*:*",
        "pedigree": {"ancestors": [source]},
    }
