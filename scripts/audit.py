#!/usr/bin/env python3
"""Audit a wheel: walk from the file over RECORD, manifest, lock and bill of materials to the assets' structure."""

from __future__ import annotations

import runpy

if not __package__:
    runpy.run_path(f"{__file__.rpartition('/')[0]}/_path.py")

import argparse
import base64
import configparser
import hashlib
import io
import itertools
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from email.message import Message
from email.parser import HeaderParser
from functools import cached_property
from pathlib import Path
from typing import Any

from scripts.asset_build.digests import file_sha256, set_digest
from scripts.asset_build.errors import BuildError, plain
from scripts.asset_build.guest_sets import wheel_row
from scripts.asset_build.lock import LOCK_NAME, Lock, LockedSet, read_lock_file
from scripts.asset_build.paths import PROJECT
from scripts.asset_build.wheel.archive import mode_in_wheel, write_wheel
from scripts.asset_build.wheel.package_data import manifest_of, manifest_source
from scripts.asset_build.wheel.sbom import SBOM_FOLDER, SBOM_NAME, UNKNOWN, format_sbom, sbom_of, serial_number
from scripts.asset_build.wheel.verify import VerifiedSet, verify_contents
from scripts.machine.arguments import existing_file, existing_folder
from scripts.machine.program import run_program
from supermachine_kernel._assets import ASSETS, KERNEL
from supermachine_kernel._version import VERSION

PACKAGE = "supermachine_kernel"
TAG = f"py3-none-{wheel_row().platform_tag}"
LICENCE_EXPRESSION = "Apache-2.0 AND GPL-2.0-only AND MIT"
EPILOG = """\
Each link of the chain is proven from the one before it, and printed with its digest; the first that does not hold
ends the audit. Nothing of the wheel is run or imported, and nothing but this checkout is needed: it must be the
checkout of the wheel's version.

examples:
  python3 scripts/audit.py dist/*.whl
  python3 scripts/audit.py WHEEL --installed .venv/lib/python3.13/site-packages
"""

# What installers add beside the wheel's own files (PEP 376, PEP 610, and uv's cache information).
_ADDED_BY_INSTALLERS = {"INSTALLER", "REQUESTED", "RECORD", "direct_url.json", "uv_cache.json"}


@dataclass(frozen=True)
class Link:
    """One link that holds: its name, the SHA-256 it is proven by, and what was proven."""

    name: str
    digest: str
    proven: str


class AuditError(Exception):
    """The link that does not hold, and why: what, expected, found, what to do."""

    def __init__(self, link: str, message: str) -> None:
        # One line, and nothing a terminal would act on: the names and texts in it are those of a stranger's wheel.
        self.link = link
        self.message = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in message)
        super().__init__(f"{link}: {self.message}")


@dataclass(frozen=True)
class Wheel:
    """A wheel that is one archive of plain files: `name` is its file name, `members` has the content by name."""

    name: str
    sha256: str
    members: Mapping[str, bytes]

    @cached_property
    def version(self) -> str:
        return self.name.split("-")[1]

    @cached_property
    def dist_info(self) -> str:
        return f"{PACKAGE}-{self.version}.dist-info"

    @cached_property
    def contents(self) -> dict[str, bytes]:
        """The assets by their names."""
        return {asset.name: self.members[f"{PACKAGE}/assets/{asset.name}"] for asset in ASSETS}

    @cached_property
    def released(self) -> bool:
        """Whether the wheel says that its assets are the release, which the lock must confirm."""
        return "+" not in self.version

    @cached_property
    def verified(self) -> VerifiedSet:
        """The assets, once their structure is verified, as the release or a custom set. Raises BuildError."""
        verified = verify_contents(self.contents, {name: name for name in self.contents}, None)
        return replace(verified, version=VERSION, origin="release") if self.released else verified

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The one manifest that is right for these assets in a wheel of this kind; it is not read from the wheel."""
        return manifest_of(self.verified)

    def metadata(self, name: str) -> bytes:
        return self.members[f"{self.dist_info}/{name}"]

    def fields(self, name: str) -> Message:
        """The header fields of WHEEL or METADATA; those of METADATA are followed by the description."""
        return HeaderParser().parsestr(self.metadata(name).decode("utf-8", "replace"))


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit status: 0 every link holds, 1 one does not, 2 usage."""
    options = _parser().parse_args(arguments)
    links: list[Link] = []
    failed = None
    try:
        for link in audit(options.wheel, options.lock, options.installed):
            links.append(link)
            if not options.json:
                print(f"ok      {link.name:<10} {link.digest}  {link.proven}")
    except AuditError as error:
        failed = error
    if options.json:
        print(json.dumps(_report(options.wheel, links, failed), indent=2))
    elif failed:
        print(f"BROKEN  {failed.link:<10} {failed.message}")
    return 1 if failed else 0


def audit(path: Path, lock_path: Path, installed: Path | None = None) -> Iterator[Link]:
    """Yield the links of the chain, each once it is proven. Raises AuditError at the first that does not hold."""
    wheel = read_wheel(path)
    yield Link("file", wheel.sha256, f"{wheel.name}, {len(wheel.members)} members")
    yield check_record(wheel)
    yield check_metadata(wheel)
    yield check_licences(wheel)
    yield check_module(wheel)
    structure = check_structure(wheel)  # told last, proven first: manifest and bill of materials say what it shows
    yield check_manifest(wheel)
    lock = _read_lock(lock_path)
    yield check_lock(wheel, lock, lock_path)
    yield check_sbom(wheel, lock.set())
    yield from structure
    if installed is not None:
        yield check_installed(wheel, installed)


def read_wheel(path: Path) -> Wheel:
    """Read the archive, once it is proven to be named, ordered and written as this build does it."""
    link = "file"
    named = re.fullmatch(rf"{PACKAGE}-([0-9A-Za-z.+!_]+)-{TAG}\.whl", path.name)
    if not named:
        raise AuditError(link, f"{path.name}: expected {PACKAGE}-VERSION-{TAG}.whl; take the name it was built with")
    if named.group(1).partition("+")[0] != VERSION:
        raise AuditError(link, f"{path.name}: this checkout is of {VERSION}; audit from the checkout of that version")
    try:
        data = path.read_bytes()
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            _check_entries(entries, len(data))
            members = {entry.filename: archive.read(entry) for entry in entries}
    except (OSError, zipfile.BadZipFile, RuntimeError, EOFError, ValueError, OverflowError) as error:
        raise AuditError(
            link, f"{path}: expected a whole zip archive, found: {plain(error)}; fetch or build it again"
        ) from error
    canonical = io.BytesIO()
    write_wheel(members.items(), canonical)
    if canonical.getvalue() != data:
        offset = next((n for n, (a, b) in enumerate(zip(canonical.getvalue(), data)) if a != b), len(data))
        raise AuditError(
            link,
            f"{path.name}: expected the archive as this build writes it ({len(canonical.getvalue())} bytes), found one "
            f"of {len(data)} that differs at byte {offset}: other dates or order, or bytes that belong to no member",
        )
    return Wheel(path.name, hashlib.sha256(data).hexdigest(), members)


def _check_entries(entries: list[zipfile.ZipInfo], size: int) -> None:
    seen = set()
    for entry in entries:
        name, mode = entry.filename, entry.external_attr >> 16
        if name in seen:
            raise AuditError("file", f"{name}: expected once, found twice: readers may disagree on which one counts")
        seen.add(name)
        if name.startswith("/") or "\\" in name or {"", ".", ".."} & set(name.split("/")):
            raise AuditError("file", f"{name!r}: expected a plain relative name")
        if mode != 0o100000 | mode_in_wheel(name):
            raise AuditError("file", f"{name}: expected mode {0o100000 | mode_in_wheel(name):o}, found {mode:o}")
        if entry.compress_type != zipfile.ZIP_STORED:
            raise AuditError("file", f"{name}: expected to be stored, found compression {entry.compress_type}")
    claimed = sum(entry.file_size for entry in entries)
    if claimed > size:  # entries may share their bytes, and take up any amount of memory
        raise AuditError("file", f"expected members of less than the archive's {size} bytes, found {claimed}")


def check_record(wheel: Wheel) -> Link:
    """RECORD names every member but no other, each with its size and SHA-256; and only what belongs there is there."""
    link, name = "RECORD", f"{wheel.dist_info}/RECORD"
    if name not in wheel.members:
        raise AuditError(link, f"{name}: expected in the wheel, found none")
    *lines, end = wheel.members[name].decode("utf-8", "replace").split("\n")
    recorded = _recorded(lines)
    if len(recorded) != len(lines) or end:
        raise AuditError(link, f"{name}: expected one line a file, found a file with two, or half a line")
    for member in sorted(recorded.keys() | wheel.members.keys()):
        if member not in wheel.members:
            raise AuditError(link, f"{member}: recorded, and not in the wheel")
        if member not in recorded:
            raise AuditError(link, f"{member}: in the wheel, and not recorded")
        expected = ["", ""] if member == name else _record_fields(wheel.members[member])
        if recorded[member] != expected:
            raise AuditError(link, f"{member}: expected {','.join(recorded[member])}, found {','.join(expected)}")
    _check_names(wheel)
    return Link(link, _sha256(wheel.members[name]), f"{len(lines)} files")


def _check_names(wheel: Wheel) -> None:
    """The very files of this version: a RECORD that fits an extra file makes it no part of the release."""
    licences = [f"LICENSES/{path.name}" for path in (PROJECT / "LICENSES").iterdir()] + ["NOTICE"]
    info = ["METADATA", "RECORD", "WHEEL", "entry_points.txt", "top_level.txt", f"{SBOM_FOLDER}/{SBOM_NAME}"]
    expected = {*_package_files(), f"{PACKAGE}/_manifest.py"} | {f"{PACKAGE}/assets/{asset.name}" for asset in ASSETS}
    expected |= {f"{wheel.dist_info}/{name}" for name in (*info, *(f"licenses/{name}" for name in licences))}
    for name in sorted(expected ^ wheel.members.keys()):
        if name in expected:
            raise AuditError("RECORD", f"{name}: expected in a wheel of {VERSION}, found none")
        raise AuditError("RECORD", f"{name}: no file of {VERSION}, as this checkout has it")


def check_metadata(wheel: Wheel) -> Link:
    """WHEEL and METADATA say what the file name says."""
    link = "METADATA"
    fields = wheel.fields("WHEEL")
    for field, expected in (("Wheel-Version", ["1.0"]), ("Root-Is-Purelib", ["false"]), ("Tag", [TAG]), ("Build", [])):
        if fields.get_all(field, []) != expected:
            raise AuditError(link, f"WHEEL: expected {field} {expected}, found {fields.get_all(field, [])}")
    metadata = wheel.fields("METADATA")
    for field, value in (
        ("Name", "supermachine-kernel"),
        ("Version", wheel.version),
        ("License-Expression", LICENCE_EXPRESSION),
        ("Requires-Python", ">=3.9"),
    ):
        if metadata.get_all(field) != [value]:
            raise AuditError(link, f"METADATA: expected {field}: {value}, found {metadata.get_all(field)}")
    if metadata.get_all("Requires-Dist"):
        raise AuditError(link, f"METADATA: expected no requirement, found {metadata.get_all('Requires-Dist')}")
    _check_text(link, "entry_points.txt", _entry_points(), wheel.metadata("entry_points.txt"))
    _check_text(link, "top_level.txt", f"{PACKAGE}\n", wheel.metadata("top_level.txt"))
    return Link(link, _sha256(wheel.metadata("METADATA")), f"version {wheel.version}, tag {TAG}")


def _entry_points() -> str:
    """The commands and hooks of setup.cfg, as setuptools writes them."""
    declared = configparser.ConfigParser()
    declared.read(PROJECT / "setup.cfg", encoding="utf-8")
    groups = sorted(declared["options.entry_points"].items())
    return "\n".join("\n".join([f"[{group}]", *sorted(lines.split("\n")[1:]), ""]) for group, lines in groups)


def check_licences(wheel: Wheel) -> Link:
    """Every licence file of the repository is in the wheel, unchanged, and declared."""
    link = "licences"
    files = {f"LICENSES/{path.name}": path for path in sorted((PROJECT / "LICENSES").iterdir())}
    files["NOTICE"] = PROJECT / "NOTICE"
    declared = wheel.fields("METADATA").get_all("License-File", [])
    if sorted(declared) != sorted(files):
        raise AuditError(link, f"METADATA: expected License-File {sorted(files)}, found {sorted(declared)}")
    for name, path in files.items():
        if wheel.metadata(f"licenses/{name}") != path.read_bytes():
            raise AuditError(link, f"{name}: expected the text of this checkout, found another")
    digest = set_digest({name: _sha256(wheel.metadata(f"licenses/{name}")) for name in files})
    return Link(link, digest, f"{len(files)} texts, {LICENCE_EXPRESSION}")


def check_module(wheel: Wheel) -> Link:
    """The Python module is this checkout's: what runs on the user's machine is what is reviewed here."""
    names = [name for name in _package_files() if (PROJECT / name).read_bytes() != wheel.members[name]]
    if names:
        raise AuditError(
            "module", f"{names[0]}: expected the file of this checkout, found another; is it of {VERSION}?"
        )
    digest = set_digest({name: _sha256(wheel.members[name]) for name in _package_files()})
    return Link("module", digest, f"{len(_package_files())} files, as in this checkout")


def _package_files() -> list[str]:
    """The module's own files in this checkout, less the manifest that an editable install left there."""
    files = {path for pattern in ("*.py", "*.pyi", "py.typed") for path in (PROJECT / PACKAGE).rglob(pattern)}
    return sorted(path.relative_to(PROJECT).as_posix() for path in files if path.name != "_manifest.py")


def check_manifest(wheel: Wheel) -> Link:
    """The manifest is the one this build writes for these very assets, and their digest is in a custom version."""
    link, name = "manifest", f"{PACKAGE}/_manifest.py"
    if wheel.version != wheel.manifest["version"]:
        raise AuditError(
            link, f"{wheel.version}: expected {wheel.manifest['version']}, as the digest of its assets says"
        )
    _check_text(link, name, manifest_source(wheel.manifest), wheel.members[name])
    return Link(
        link, _sha256(wheel.members[name]), f"{wheel.manifest['origin']}, set digest {wheel.manifest['set_digest']}"
    )


def check_lock(wheel: Wheel, lock: Lock, path: Path) -> Link:
    """The clean version is that of the locked files, and no other's."""
    link, locked = "lock", lock.set()
    if locked is None:
        if wheel.released:
            raise AuditError(link, f"{path}: expected the assets of {wheel.version}, found none locked; give --lock")
        return Link(link, file_sha256(path), f"nothing is locked for {VERSION}, and the wheel says it is custom")
    if wheel.released:
        for asset in ASSETS:
            expected, content = locked.assets[asset.name].unpacked, wheel.contents[asset.name]
            if (expected.size, expected.sha256) != (len(content), _sha256(content)):
                raise AuditError(
                    link,
                    f"{asset.name}: expected {expected.size} bytes with SHA-256 {expected.sha256} ({path}), found "
                    f"{len(content)} with {_sha256(content)}: this is not the release",
                )
    elif locked.digest == wheel.verified.digest:
        raise AuditError(
            link, f"{wheel.version}: these are the locked files, and the version says they are not; build it again"
        )
    return Link(
        link, file_sha256(path), "the locked files" if wheel.released else "not the locked files, as the version says"
    )


def check_sbom(wheel: Wheel, locked: LockedSet | None) -> Link:
    """The bill of materials is the one this build writes for these files.

    The lock has the record of the release's build. Of a custom set's build only the wheel itself tells: there,
    what can be read from the files must be so.
    """
    link, name = "SBOM", f"{SBOM_FOLDER}/{SBOM_NAME}"
    build = locked.build if wheel.released and locked is not None else None
    try:
        expected = sbom_of(replace(wheel.verified, build=build))
    except BuildError as error:
        raise AuditError(link, str(error)) from error
    try:
        found = json.loads(wheel.metadata(name))
        said, shown = _without_record(found), _without_record(expected)
        if shown["kernel"]["config"] == UNKNOWN:  # the Image carries none, so that the record's word stands alone
            shown["kernel"]["config"] = said["kernel"]["config"]
        if wheel.released:
            said, shown = ({**sbom, "serialNumber": ""} for sbom in (found, expected))  # it differs when anything does
        said_text, shown_text = format_sbom(said), format_sbom(shown)
        whole_text = format_sbom({**found, "serialNumber": serial_number(found)})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise AuditError(link, f"{name}: expected a CycloneDX document, found {plain(error)}") from error
    _check_text(link, name, shown_text, said_text.encode())
    _check_text(link, name, whole_text, wheel.metadata(name))
    return Link(link, _sha256(wheel.metadata(name)), f"{len(found['components'])} components, {found['serialNumber']}")


def _without_record(sbom: dict[str, Any]) -> dict[str, Any]:
    """What a bill of materials says that the files themselves prove, without what a build's record adds."""
    from_record = {"pedigree", "externalReferences", "properties", "supplier", "version"}
    components = {
        part["bom-ref"]: {key: value for key, value in part.items() if key not in from_record}
        for part in sbom["components"]
        if part["bom-ref"] in {asset.name for asset in ASSETS}
    }
    (kernel,) = (part for part in sbom["components"] if part["bom-ref"] == KERNEL.name)
    properties = {item["name"].rpartition(":")[2]: item["value"] for item in kernel["properties"]}
    return {
        "specVersion": sbom["specVersion"],
        "timestamp": sbom["metadata"].get("timestamp"),
        "component": sbom["metadata"]["component"],
        "set": [item for item in sbom["metadata"]["properties"] if ":build:" not in item["name"]],
        "components": components,
        "kernel": {
            "version": kernel["version"],
            "af_tsi": properties["af_tsi"],
            "config": properties["config_sha256"],
        },
    }


def check_structure(wheel: Wheel) -> list[Link]:
    """Each asset is by its structure what it is meant to be, and the module is one of the kernel."""
    try:
        facts = wheel.verified.kernel
    except BuildError as error:
        raise AuditError("structure", str(error)) from error
    proven = {
        "kernel": f"Linux {facts.release}, {'with' if facts.af_tsi else 'without'} AF_TSI",
        "program": "a static AArch64 program",
        "module": f"a module of Linux {facts.release}",
    }
    return [
        Link("structure", _sha256(wheel.contents[asset.name]), f"{asset.name}: {proven[asset.kind]}")
        for asset in ASSETS
    ]


def check_installed(wheel: Wheel, folder: Path) -> Link:
    """What is installed in `folder` is what is in the wheel, and nothing of another wheel is among it."""
    link = "installed"
    for name, content in wheel.members.items():
        path = folder / name
        if path.name == "RECORD":
            continue  # the installer's own, checked below
        if path.is_symlink() or not path.is_file():
            raise AuditError(link, f"{path}: expected a file, found {'a link' if path.is_symlink() else 'none'}")
        if path.read_bytes() != content:
            raise AuditError(link, f"{path}: expected SHA-256 {_sha256(content)}, found {file_sha256(path)}")
        if mode_in_wheel(name) & 0o111 and not path.stat().st_mode & 0o100:
            raise AuditError(link, f"{path}: expected to be executable, found mode {path.stat().st_mode & 0o777:o}")
    added = {f"{wheel.dist_info}/{name}" for name in _ADDED_BY_INSTALLERS}
    for path in sorted(part for name in (PACKAGE, wheel.dist_info) for part in (folder / name).rglob("*")):
        name = path.relative_to(folder).as_posix()
        if "__pycache__" not in name and not path.is_dir() and name not in wheel.members.keys() | added:
            raise AuditError(link, f"{path}: not in the wheel: remove it, or install into a new environment")
    for other in sorted(folder.glob(f"{PACKAGE}-*.dist-info")):
        if other.name != wheel.dist_info:
            raise AuditError(link, f"{other}: another version is installed beside {wheel.version}; uninstall both")
    _check_installed_record(wheel, folder)
    return Link(link, file_sha256(folder / wheel.dist_info / "RECORD"), f"{folder}: the files of the wheel")


def _check_installed_record(wheel: Wheel, folder: Path) -> None:
    record = folder / wheel.dist_info / "RECORD"
    if not record.is_file():
        raise AuditError("installed", f"{record}: expected the installer's record, found none")
    recorded = _recorded(record.read_text(encoding="utf-8", errors="replace").splitlines())
    for name, content in wheel.members.items():
        expected = _record_fields(content)
        if name != f"{wheel.dist_info}/RECORD" and recorded.get(name) != expected:
            raise AuditError("installed", f"{record}: expected {name} with {expected}, found {recorded.get(name)}")


def _read_lock(path: Path) -> Lock:
    try:
        return read_lock_file(path)
    except BuildError as error:
        raise AuditError("lock", str(error)) from error


def _recorded(lines: list[str]) -> dict[str, list[str]]:
    """Digest and size by name. No name of this project needs the quotes that RECORD may have (PEP 376)."""
    return {name: fields for name, *fields in (line.rsplit(",", 2) for line in lines)}


def _record_fields(content: bytes) -> list[str]:
    """As RECORD has it (PEP 376 and the wheel specification): base64 for URLs, without padding; the size in bytes."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return [f"sha256={digest}", str(len(content))]


def _check_text(link: str, name: str, expected: str, found: bytes) -> None:
    """Byte for byte. Raises AuditError with the first line that differs."""
    if found == expected.encode():
        return
    lines = itertools.zip_longest(expected.split("\n"), found.decode("utf-8", "replace").split("\n"))
    left, right = next(pair for pair in lines if pair[0] != pair[1])
    raise AuditError(link, f"{name}: expected the line {left!r}, found {right!r}")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _report(wheel: Path, links: list[Link], failed: AuditError | None) -> dict[str, Any]:
    return {
        "wheel": str(wheel),
        "holds": failed is None,
        "links": [vars(link) for link in links],
        "broken": {"name": failed.link, "message": failed.message} if failed else None,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("wheel", type=existing_file, help="the wheel to audit")
    parser.add_argument(
        "--lock",
        type=existing_file,
        default=PROJECT / LOCK_NAME,
        help=f"the version's lock (default: {LOCK_NAME} here)",
    )
    parser.add_argument(
        "--installed", type=existing_folder, metavar="DIR", help="the site-packages folder it is installed in"
    )
    parser.add_argument("--json", action="store_true", help="print the chain as JSON")
    return parser


if __name__ == "__main__":
    run_program(main)
