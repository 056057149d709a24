"""The record of a set's build, as a bill of materials is made from it, and as it is read from one."""

import re
from collections.abc import Mapping
from typing import Any, Optional
from urllib.parse import quote, unquote

from supermachine_kernel._assets import BUSYBOX, KERNEL

from ...errors import BuildError

UNKNOWN = "unknown"
SOURCE_REF = "kernel-source"
MUSL_REF = "musl"
LIBGCC_REF = "libgcc"
_VENDOR = re.compile(r"\((Debian|Ubuntu) ")


class BuildRecord:
    """What is read from the build's own record of a set, or from none; what it does not say is None.

    `where` is where it was read, for errors. Its methods raise BuildError for a text that is not printable: it
    would not stand in a URL, or not on a line.
    """

    def __init__(self, build: Optional[Mapping[str, Any]], where: str) -> None:
        self.known = build is not None
        self.where = where
        self._build = build

    def text(self, *keys: str) -> Optional[str]:
        """The text at those keys, one within the other; None if there is none, or an empty one."""
        value: Any = self._build
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return self._printable(value.strip(), ".".join(keys)) or None if isinstance(value, str) else None

    def _printable(self, value: str, name: str) -> str:
        if not value.isprintable():
            expected = f"printable text for {name}"
            raise BuildError(self.where, expected, ascii(value[:100]), "build the set again")
        return value

    @property
    def patches(self) -> Optional[list[tuple[str, str]]]:
        """Name and SHA-256 of each patch, in the order they were applied."""
        try:
            patches = [(str(patch["name"]), str(patch["sha256"])) for patch in (self._build or {})["patches"]]
        except (KeyError, TypeError):
            return None
        return [(self._printable(name, "patches"), self._printable(sha256, "patches")) for name, sha256 in patches]

    def files(self, key: str) -> list[tuple[str, str]]:
        """Name and SHA-256 of each file of the source package at `key`, sorted; none where that is not recorded."""
        found = self._build.get(key) if self._build is not None else None
        named = found.get("files") if isinstance(found, Mapping) else None
        if not isinstance(named, Mapping):
            return []
        lines = [(str(name), str(sha256)) for name, sha256 in sorted(named.items())]
        return [(self._printable(name, key), self._printable(sha256, key)) for name, sha256 in lines]

    @property
    def vendor(self) -> Optional[str]:
        """The distribution whose packages were used, as the compiler names it."""
        found = _VENDOR.search(self.text("toolchain", "gcc") or "")
        return found.group(1) if found else None

    def package_url(self, package: str, version: str, qualifiers: str = "") -> Optional[str]:
        """The purl of a package of that distribution (package-url, type deb)."""
        if self.vendor is None:
            return None
        return f"pkg:deb/{self.vendor.lower()}/{package}@{quote(version, safe=':')}{qualifiers}"


def record_in(sbom: Mapping[str, Any]) -> Optional[dict[str, Any]]:
    """The build record that a bill of materials was made from, or None if it was made without one.

    It is all that the files themselves do not prove: a document is right when it is the very one that this record
    and the files give. Raises KeyError, TypeError, ValueError, AttributeError or IndexError for what is no such
    document.
    """
    components = {part["bom-ref"]: part for part in sbom["components"]}
    kernel = components[KERNEL.name]
    facts = _properties(kernel["properties"])
    if facts["kernel:source"] != SOURCE_REF:
        return None
    built = _properties(sbom["metadata"]["properties"])
    toolchain = {tool: _known(built[f"build:{tool}"]) for tool in ("gcc", "binutils", "musl")}
    record: dict[str, Any] = {
        "inputs_sha256": _known(built["build:inputs_sha256"]),
        "config_sha256": _known(facts["kernel:config_sha256"]),
        "toolchain": {**toolchain, "musl_sha256": _sha256(components.get(MUSL_REF, {}))},
        "source": _source(kernel["pedigree"]["ancestors"][0]),
    }
    busybox = _busybox(components.get(BUSYBOX.name, {}))
    if busybox is not None:
        record["busybox"] = busybox
    if facts["kernel:patches"] != UNKNOWN:
        patches = kernel.get("externalReferences", ())
        record["patches"] = [
            {"name": unquote(str(patch["url"]).split("/", 2)[2]), "sha256": _sha256(patch)} for patch in patches
        ]
    return record


def _busybox(component: Mapping[str, Any]) -> Optional[dict[str, Any]]:
    """Give the part of a build record that the component was made from, or None."""
    if "pedigree" not in component:
        return None
    source = component["pedigree"]["ancestors"][0]
    files = {str(file["url"]): file["hashes"][0]["content"] for file in source["externalReferences"]}
    return {"files": files, "package": source["name"], "version": source["version"]}


def _source(ancestor: Mapping[str, Any]) -> dict[str, Any]:
    unnamed = ancestor["name"] == "linux" and "description" not in ancestor
    return {
        "package": None if unnamed else ancestor["name"],
        "version": _known(ancestor["version"]),
        "sha256": _sha256(ancestor),
    }


def _properties(items: Any) -> dict[str, str]:
    return {item["name"].removeprefix("supermachine:"): item["value"] for item in items}


def _known(value: str) -> Optional[str]:
    return None if value == UNKNOWN else value


def _sha256(holder: Mapping[str, Any]) -> Optional[str]:
    return holder["hashes"][0]["content"] if "hashes" in holder else None
