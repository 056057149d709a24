"""The bill of materials of a wheel: CycloneDX 1.6 in JSON, at the place PEP 770 gives it.

It says what the files and their build's own record say; what neither says is "unknown", never a guess.
"""

import configparser
import hashlib
import json
import re
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from supermachine_kernel._assets import BUSYBOX, KERNEL, KNOWN_ASSETS, Asset

from ...errors import BuildError
from ...lock import LOCK_NAME
from ...paths import PROJECT
from ..package_data import manifest_of
from ..sources import BUILD_INFO
from ..verifiers.kernel_facts import embedded_config
from ..verify import VerifiedSet
from .busybox import busybox_fields
from .record import LIBGCC_REF, MUSL_REF, SOURCE_REF, UNKNOWN, BuildRecord

SBOM_NAME = "supermachine-kernel.cdx.json"
SBOM_FOLDER = "sboms"  # PEP 770: inside .dist-info
PROJECT_URL = "https://github.com/supercorp-ai/supermachine"
SUPPLIER = "The supermachine-kernel developers"

DIST_REF = "supermachine-kernel"


def _declared_licence() -> str:
    """The licence expression of the distribution, which setup.cfg declares."""
    declared = configparser.ConfigParser(interpolation=None)
    declared.read(PROJECT / "setup.cfg", encoding="utf-8")
    return declared["metadata"]["license_expression"]


# The SPDX expression of everything that is not an asset with the licence of the asset table. The kernel's own
# COPYING adds the note to GPL-2.0-only; libgcc's exception is what lets any program carry it.
LICENCES = {
    DIST_REF: _declared_licence(),
    MUSL_REF: "MIT",
    LIBGCC_REF: "GPL-3.0-or-later WITH GCC-exception-3.1",
    **{asset.name: asset.licence for asset in KNOWN_ASSETS},
    KERNEL.name: f"{KERNEL.licence} WITH Linux-syscall-note",
}

# init/version.c of the kernel: the banner ends in the build's date, as `date` prints it in the C locale.
_BUILD_DATE = re.compile(
    rb"Linux version [\x20-\x7e]* (Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) +(\d{1,2}) "
    rb"(\d\d:\d\d:\d\d) UTC (\d{4})\n"
)
_MONTHS = (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec")


def write_sbom(dist_info: Path, verified: VerifiedSet) -> None:
    """Write the bill of materials into the folder `dist_info` of a wheel that is being made. Raises BuildError."""
    folder = dist_info / SBOM_FOLDER
    folder.mkdir(exist_ok=True)
    (folder / SBOM_NAME).write_bytes(format_sbom(sbom_of(verified)).encode("ascii"))


def format_sbom(sbom: Mapping[str, Any]) -> str:
    """The text of a bill of materials: ASCII, indented by two."""
    return json.dumps(sbom, indent=2) + "\n"


def sbom_of(verified: VerifiedSet) -> dict[str, Any]:
    """The bill of materials of the wheel made from `verified`, as a CycloneDX 1.6 document. Raises BuildError."""
    manifest = manifest_of(verified)
    record = BuildRecord(verified.build, f"build in {LOCK_NAME}" if verified.origin == "release" else BUILD_INFO)
    assets = verified.guest_set.assets
    programs = [asset.name for asset in assets if asset.kind == "program"]
    libraries = _libraries(record, verified.guest_set.debian_architecture, programs)
    kernel = _kernel(verified, record, manifest)
    others = [_asset(asset, record, manifest) for asset in assets if asset is not KERNEL]
    library_refs = [str(library["bom-ref"]) for library in libraries]
    needs = {"kernel": [], "module": [KERNEL.name], "program": library_refs}
    depends_on = {
        DIST_REF: [asset.name for asset in assets],
        **{asset.name: needs[asset.kind] for asset in assets},
        **{ref: [] for ref in library_refs},
    }
    document: dict[str, Any] = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": "",
        "version": 1,
        "metadata": {
            **_timestamp(verified.kernel.content),
            "lifecycles": [{"phase": "build"}],
            "tools": {"components": [{"type": "application", "name": "supermachine-kernel scripts/asset_build"}]},
            "component": _distribution(manifest),
            "supplier": {"name": SUPPLIER, "url": [PROJECT_URL]},
            "properties": _properties(
                set_digest=manifest["set_digest"],
                origin=manifest["origin"],
                **{"build:inputs_sha256": record.text("inputs_sha256") or UNKNOWN},
                **{f"build:{tool}": record.text("toolchain", tool) or UNKNOWN for tool in ("gcc", "binutils", "musl")},
            ),
        },
        "components": [kernel, *others, *libraries],
        "dependencies": [{"ref": ref, "dependsOn": refs} for ref, refs in depends_on.items()],
        "compositions": [
            {"aggregate": "complete", "dependencies": [ref for ref in depends_on if ref not in programs]},
            {"aggregate": "complete" if record.known else UNKNOWN, "dependencies": programs},
        ],
    }
    document["serialNumber"] = serial_number(document)
    return document


def serial_number(sbom: Mapping[str, Any]) -> str:
    """The serial number that a document with this content has: another for any other content."""
    content = {key: value for key, value in sbom.items() if key != "serialNumber"}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return f"urn:uuid:{uuid.uuid5(uuid.uuid5(uuid.NAMESPACE_URL, PROJECT_URL), canonical)}"


def _distribution(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The Python distribution; only a release can be had from the index, so only a release has a purl."""
    released = manifest["origin"] == "release"
    return _without_none(
        {
            "type": "library",
            "bom-ref": DIST_REF,
            "supplier": {"name": SUPPLIER, "url": [PROJECT_URL]},
            "name": "supermachine-kernel",
            "version": manifest["version"],
            "licenses": _licenses(DIST_REF),
            "purl": f"pkg:pypi/supermachine-kernel@{manifest['version']}" if released else None,
            "externalReferences": [{"type": "vcs", "url": PROJECT_URL}],
        }
    )


def _asset(asset: Asset, record: BuildRecord, manifest: Mapping[str, Any]) -> dict[str, Any]:
    component = {
        "type": {"kernel": "operating-system", "module": "device-driver"}.get(asset.kind, "application"),
        "bom-ref": asset.name,
        "supplier": {"name": SUPPLIER if record.known else UNKNOWN},
        "name": asset.name,
        "version": manifest["version"] if record.known else UNKNOWN,
        "hashes": _sha256(manifest["assets"][asset.name]["sha256"]),
        "licenses": _licenses(asset.name),
        "evidence": {"occurrences": [{"location": f"supermachine_kernel/assets/{asset.name}"}]},
        "properties": _properties(build_record="build-info.json" if record.known else UNKNOWN),
    }
    return {**component, **busybox_fields(record, _licenses(BUSYBOX.name))} if asset is BUSYBOX else component


def _patch(reference: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "file",
        "name": reference["url"],
        "hashes": reference["hashes"],
        "licenses": [{"license": {"id": KERNEL.licence, "acknowledgement": "declared"}}],
    }


def _kernel(verified: VerifiedSet, record: BuildRecord, manifest: Mapping[str, Any]) -> dict[str, Any]:
    release, patches = verified.kernel.release, record.patches
    plain = re.match(r"\d+\.\d+(\.\d+)?", release)
    references = [
        {
            "type": "other",
            "url": f"kernel-build/patches/{quote(name)}",
            "comment": f"patch {number} of {len(patches or ())}, in the corresponding source",
            "hashes": _sha256(sha256),
        }
        for number, (name, sha256) in enumerate(patches or (), 1)
    ]
    pedigree = {
        "ancestors": [_kernel_source(record)] if record.known else [],
        "patches": [{"type": "unofficial", "diff": {"url": reference["url"]}} for reference in references],
    }
    return _without_none(
        {
            **_asset(KERNEL, record, manifest),
            "name": "linux",
            "version": release,
            "cpe": f"cpe:2.3:o:linux:linux_kernel:{plain.group()}:*:*:*:*:*:*:*" if plain else None,
            "pedigree": {key: value for key, value in pedigree.items() if value} or None,
            "externalReferences": references or None,
            "components": [_patch(reference) for reference in references] or None,
            "properties": _properties(
                **{
                    "kernel:af_tsi": str(verified.kernel.af_tsi).lower(),
                    "kernel:config_sha256": _config_sha256(verified, record),
                    "kernel:patches": UNKNOWN if patches is None else str(len(patches)),
                    "kernel:source": SOURCE_REF if record.known else UNKNOWN,
                }
            ),
        }
    )


def _kernel_source(record: BuildRecord) -> dict[str, Any]:
    """What the kernel was built from: a distribution's source package, or another tarball or folder."""
    package, version, sha256 = (record.text("source", key) for key in ("package", "version", "sha256"))
    packaged = package is not None and version is not None
    return _without_none(
        {
            "type": "file" if sha256 else "data",
            "bom-ref": SOURCE_REF,
            "supplier": {"name": (record.vendor if packaged else None) or UNKNOWN},
            "name": package or "linux",
            "version": version or UNKNOWN,
            "description": f"the tarball in the package {package}" if packaged else None,
            "hashes": _sha256(sha256) if sha256 else None,
            "licenses": _licenses(KERNEL.name),
            "purl": record.package_url(package, version) if package and version else None,
            "properties": None if sha256 else _properties(sha256=UNKNOWN),
        }
    )


def _libraries(record: BuildRecord, architecture: str, programs: list[str]) -> list[dict[str, Any]]:
    """What is linked into the programs of a Debian architecture; without a build record nothing is known."""
    musl, gcc = record.text("toolchain", "musl"), record.text("toolchain", "gcc")
    libraries, linked_into = [], " and ".join(programs)
    if musl:
        sha256 = record.text("toolchain", "musl_sha256")
        libraries.append(
            {
                "type": "library",
                "bom-ref": MUSL_REF,
                "supplier": {"name": record.vendor or UNKNOWN},
                "name": "musl",
                "version": musl,
                "description": f"the C library, linked into {linked_into}",
                "hashes": _sha256(sha256) if sha256 else None,
                "licenses": _licenses(MUSL_REF),
                "cpe": f"cpe:2.3:a:musl-libc:musl:{re.split('[-+~]', musl)[0]}:*:*:*:*:*:*:*",
                "purl": record.package_url("musl-dev", musl, f"?arch={architecture}"),
                "properties": None if sha256 else _properties(sha256=UNKNOWN),
            }
        )
    if gcc:
        libraries.append(
            {
                "type": "library",
                "bom-ref": LIBGCC_REF,
                "supplier": {"name": record.vendor or UNKNOWN},
                "name": "libgcc",
                "version": gcc.split()[-1],
                "description": f"the compiler's own routines and start files, linked into {linked_into}",
                "licenses": _licenses(LIBGCC_REF),
                "properties": _properties(sha256=UNKNOWN),
            }
        )
    return [_without_none(library) for library in libraries]


def _config_sha256(verified: VerifiedSet, record: BuildRecord) -> str:
    """The digest of the kernel's .config: the Image's own word, else the record's. Raises BuildError."""
    recorded = record.text("config_sha256")
    config = embedded_config(verified.kernel.content)
    if config is None:
        return recorded or UNKNOWN
    found = hashlib.sha256(config).hexdigest()
    if recorded not in (None, found):
        expected = f"the config digest {found}, which is that of the config inside the kernel"
        raise BuildError(record.where, expected, str(recorded), "build the set again")
    return found


def _timestamp(kernel: bytes) -> dict[str, str]:
    """The build date in the kernel's banner: the one date the content has. None where it is not in UTC."""
    found = _BUILD_DATE.search(kernel)
    if found is None:
        return {}
    month, day, time, year = found.groups()
    return {"timestamp": f"{year.decode()}-{_MONTHS.index(month) + 1:02}-{int(day):02}T{time.decode()}Z"}


def _licenses(ref: str) -> list[dict[str, Any]]:
    """As the licence's holder declares it: an identifier, or an expression where one is not enough."""
    expression = LICENCES[ref]
    if " " in expression:
        return [{"expression": expression, "acknowledgement": "declared"}]
    return [{"license": {"id": expression, "acknowledgement": "declared"}}]


def _sha256(digest: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": digest}]


def _properties(**values: str) -> list[dict[str, str]]:
    return [{"name": f"supermachine:{name}", "value": value} for name, value in values.items()]


def _without_none(component: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in component.items() if value is not None}
