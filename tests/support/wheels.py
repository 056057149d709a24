"""Wheels that were tampered with: their members, and what an attacker mends so that it fits again."""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path

import pytest

from scripts.asset_build.audit.chain import audit
from scripts.asset_build.audit.errors import AuditError
from scripts.asset_build.digests import set_digest
from scripts.asset_build.paths import PROJECT
from scripts.asset_build.wheel.archive import compress, record_of, wheel_archive
from scripts.asset_build.wheel.sbom import format_sbom, serial_number
from supermachine_kernel._version import VERSION
from tests.support.sets import PLATFORM_TAG

Members = dict[str, bytes]
Tamper = Callable[[Members], Members]

TAG = f"py3-none-{PLATFORM_TAG}"
UNLOCKED = Path(__file__).parents[1] / "fixtures" / "unlocked.json"
"""A lock that locks nothing: for what is done to a custom wheel, whether or not its files are the release by now."""
KERNEL = "supermachine_kernel/assets/kernel"
INIT_OCI = "supermachine_kernel/assets/init-oci"
AGENT = "supermachine_kernel/assets/supermachine-agent"
SMPARK_KO = "supermachine_kernel/assets/smpark.ko"
MANIFEST = "supermachine_kernel/_manifest.py"


def members_of(wheel: Path) -> Members:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archive_of(members: Members) -> bytes:
    """As the build writes it; what was compressed before is not compressed again."""
    return wheel_archive(members, {name: _compressed(content) for name, content in members.items()})


@lru_cache(maxsize=256)
def _compressed(content: bytes) -> bytes:
    return compress(content)


def write(members: Members, folder: Path) -> Path:
    """A well-formed wheel of these members, under the name that its .dist-info says."""
    version = dist_info(members).removeprefix("supermachine_kernel-").removesuffix(".dist-info")
    path = folder / f"supermachine_kernel-{version}-{TAG}.whl"
    path.write_bytes(archive_of(members))
    return path


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def dist_info(members: Mapping[str, bytes]) -> str:
    (name,) = (name for name in members if name.endswith(".dist-info/RECORD"))
    return name.rpartition("/")[0]


def mend_record(members: Members) -> None:
    """Write a RECORD that fits, whatever was done."""
    record = f"{dist_info(members)}/RECORD"
    members[record] = record_of({name: content for name, content in members.items() if name != record}, record)


def mend_manifest(members: Members) -> None:
    """Write a manifest that fits the assets, but for the version, which is in every name."""
    text = members[MANIFEST].decode()
    assets = {name.rpartition("/")[2]: content for name, content in members.items() if "/assets/" in name}
    for name, content in assets.items():
        text = re.sub(
            rf"('{re.escape(name)}'): {{.*?'mode'",
            rf"\1: {{'size': {len(content)}, 'sha256': '{sha256(content)}', 'mode'",
            text,
        )
    digest = set_digest({name: sha256(content) for name, content in assets.items()})
    members[MANIFEST] = re.sub(r"'set_digest': '[0-9a-f]+'", f"'set_digest': '{digest}'", text).encode()


def mend_version(members: Members) -> Members:
    """Rename everything to the version of the set: what is left is an honest custom wheel."""
    text = members[MANIFEST].decode()
    (old,) = re.findall(r"'version': '([^']+)'", text)
    (digest,) = re.findall(r"'set_digest': '([0-9a-f]+)'", text)
    new = f"{VERSION}+custom.{digest[:8]}" if "+" in old else old
    changed = {name.replace(old, new): content for name, content in members.items()}
    for name in (MANIFEST, f"{dist_info(changed)}/METADATA"):
        changed[name] = changed[name].replace(old.encode(), new.encode())
    return changed


def mend_sbom(members: Members) -> None:
    name = f"{dist_info(members)}/sboms/supermachine-kernel.cdx.json"
    sbom = json.loads(members[name])
    version = dist_info(members).split("-")[1].removesuffix(".dist")
    old = sbom["metadata"]["component"]["version"]
    for part in sbom["components"]:
        if f"supermachine_kernel/assets/{part['bom-ref']}" in members:
            part["hashes"][0]["content"] = sha256(members[f"supermachine_kernel/assets/{part['bom-ref']}"])
            part["version"] = version if part["version"] == old else part["version"]
    (digest,) = re.findall(r"'set_digest': '([0-9a-f]+)'", members[MANIFEST].decode())
    sbom["metadata"]["properties"][0]["value"] = digest
    sbom["metadata"]["component"]["version"] = version
    sbom["serialNumber"] = serial_number(sbom)
    members[name] = format_sbom(sbom).encode()


def broken_link(path: Path, lock: Path = UNLOCKED, installed: Path | None = None) -> str:
    """The link at which the audit ends, with its message."""
    with pytest.raises(AuditError) as caught:
        list(audit(path, PROJECT, lock, installed))
    return f"{caught.value.link}: {caught.value}"


def flipped(content: bytes, offset: int) -> bytes:
    return content[:offset] + bytes([content[offset] ^ 1]) + content[offset + 1 :]


def change_kernel(members: Members) -> Members:
    return {**members, KERNEL: flipped(members[KERNEL], 4_000_000)}


def swapped(members: Members) -> Members:
    return {**members, INIT_OCI: members[AGENT], AGENT: members[INIT_OCI]}


def without(pattern: str) -> Tamper:
    return lambda members: {name: content for name, content in members.items() if not re.search(pattern, name)}


def replacing(pattern: str, old: bytes, new: bytes) -> Tamper:
    def change(members: Members) -> Members:
        (name,) = (name for name in members if re.search(pattern, name))
        assert old in members[name], f"{name} has no {old!r}"
        return {**members, name: members[name].replace(old, new, 1)}

    return change


def adding(name: str) -> Tamper:
    return lambda members: {**members, name: b"# extra\n"}
