"""The chain of an audit: each link is proven from those before it, from the archive to the assets' structure.

What is compared is every byte of every member, the archive around the members, and with `installed` what an installer
made of them. What is not compared: how a member is compressed, only what it unpacks to. Of a custom set's build only
the wheel itself tells; its bill of materials must be the one that these files and that record give.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..digests import file_sha256, set_digest
from ..errors import BuildError, describe, printable
from ..lock import Lock, LockedSet, read_lock_file
from ..wheel.archive import wheel_pieces
from ..wheel.sbom import SBOM_FOLDER, SBOM_NAME, record_in
from ..wheel.verify import VerifiedSet, verify_contents
from .compare import Difference, compare
from .errors import AuditError
from .expected import expected_members, licence_files, module_files
from .installed import verify_installed
from .reader import PACKAGE, Wheel, made_of, read_wheel

LONGEST_LINE = 300
"""How much of a line an error shows: a stranger's may be of any length."""
_CURE = "fetch the wheel again, or use the checkout it was built from"


@dataclass(frozen=True)
class Link:
    """One link that holds: its name, the SHA-256 it is proven by, and what was proven."""

    name: str
    digest: str
    proven: str


def audit(path: Path, project: Path, lock_path: Path, installed: Path | None = None) -> Iterator[Link]:
    """Yield the links of the chain for the wheel `path`, each once it is proven from the checkout `project`.

    `installed` is a site-packages folder that the wheel is installed in. Raises AuditError at the first link that
    does not hold.
    """
    wheel = read_wheel(path)
    yield from audit_wheel(wheel, project, lock_path)
    if installed is not None:
        yield audit_installed(wheel, installed)


def audit_wheel(wheel: Wheel, project: Path, lock_path: Path) -> Iterator[Link]:
    """Yield the links of a wheel that was read, as `audit` does. Raises AuditError."""
    yield Link("file", wheel.sha256, f"{wheel.name}, {len(wheel.members)} members")
    lock = _read_lock(lock_path)
    verified = _verify_assets(wheel, lock.set(wheel.guest_set.name))
    yield from _structure(verified)
    yield _compare_version(wheel, verified, lock, lock_path)
    yield from _compare_members(wheel, project, _with_the_wheels_own_record(wheel, verified))


def audit_installed(wheel: Wheel, installed: Path) -> Link:
    """The link from a wheel to what an installer made of it in the folder `installed`. Raises AuditError."""
    record, python = verify_installed(wheel, installed)
    started = f"; the command is started by {printable(python)}" if python else ""
    return Link("installed", file_sha256(record), f"{installed}: the files of the wheel{started}")


def _read_lock(path: Path) -> Lock:
    try:
        return read_lock_file(path)
    except BuildError as error:
        raise AuditError(**error.fields(), link="lock") from error


def _verify_assets(wheel: Wheel, locked: LockedSet | None) -> VerifiedSet:
    contents = wheel.asset_contents()
    try:
        return verify_contents(wheel.guest_set, contents, {name: name for name in contents}, locked)
    except BuildError as error:
        raise AuditError(**error.fields(), link="structure") from error


def _structure(verified: VerifiedSet) -> Iterator[Link]:
    facts = verified.kernel
    proven = {
        "kernel": f"Linux {facts.release}, {'with' if facts.af_tsi else 'without'} AF_TSI",
        "program": f"a static {verified.guest_set.elf_machine} program",
        "module": f"a module of Linux {facts.release}",
    }
    for asset in verified.guest_set.assets:
        yield Link("structure", verified.sha256[asset.name], f"{asset.name}: {proven[asset.kind]}")


def _compare_version(wheel: Wheel, verified: VerifiedSet, lock: Lock, lock_path: Path) -> Link:
    """Check that only the locked files have the clean version, and that a custom one names its files' digest."""
    locked = lock.set(wheel.guest_set.name)
    if wheel.version == verified.version:
        proven = "the locked files" if verified.origin == "release" else "not the locked files, as the version says"
        if locked is None:
            proven = f"nothing is locked for {wheel.version.partition('+')[0]}, and the wheel says it is custom"
        return Link("lock", file_sha256(lock_path), proven)
    if verified.origin == "release":
        found = "a version that says they are not the locked ones"
        raise AuditError(
            wheel.version, f"{verified.version}: the files are locked", found, "build it again", link="lock"
        )
    if "+" in wheel.version:
        expected = f"{verified.version}, as the digest of its assets says"
        raise AuditError(wheel.version, expected, wheel.version, _CURE, link="lock")
    if locked is None:
        raise AuditError(str(lock_path), f"the assets of {wheel.version}", "none locked", "give --lock", link="lock")
    for asset in wheel.guest_set.assets:
        wanted, size = locked.assets[asset.name].unpacked, len(verified.contents[asset.name])
        if (wanted.size, wanted.sha256) != (size, verified.sha256[asset.name]):
            expected = f"{wanted.size} bytes with SHA-256 {wanted.sha256} ({lock_path})"
            found = f"{size} with {verified.sha256[asset.name]}: this is not the release"
            raise AuditError(asset.name, expected, found, _CURE, link="lock")
    raise AssertionError("a set with the locked digest has the locked files")


def _with_the_wheels_own_record(wheel: Wheel, verified: VerifiedSet) -> VerifiedSet:
    """Add the build record: a release has it in the lock, a custom set in its bill of materials alone."""
    if verified.origin == "release":
        return verified
    name = f"{wheel.dist_info}/{SBOM_FOLDER}/{SBOM_NAME}"
    if name not in wheel.members:
        raise AuditError(name, "in the wheel", "none", _CURE, link="members")
    try:
        return replace(verified, build=record_in(json.loads(wheel.contents[name])))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise AuditError(name, "a CycloneDX document of this build", describe(error), _CURE, link="SBOM") from error


def _compare_members(wheel: Wheel, project: Path, verified: VerifiedSet) -> Iterator[Link]:
    """Compare the wheel with the one that the checkout makes, and yield a link for each group of its members."""
    try:
        members = expected_members(project, verified)
    except BuildError as error:
        raise AuditError(**error.fields(), link="SBOM") from error
    streams = {
        name: wheel.members[name].stream for name, content in members.items() if wheel.contents.get(name) == content
    }
    same = streams.keys() == members.keys()
    pieces = wheel_pieces(members, streams) if same else []
    data = wheel.data if _consists_of(wheel.data, pieces) else b"".join(pieces)
    expected = Wheel(wheel.name, data, made_of(members, streams))
    for difference in compare(wheel, expected):
        raise _error_of(difference, wheel, members)
    info = wheel.dist_info
    licences = {name: _sha256(members[f"{info}/licenses/{name}"]) for name in licence_files(project)}
    module = {name: _sha256(members[name]) for name in module_files(project)}
    manifest, sbom = f"{PACKAGE}/_manifest.py", f"{info}/{SBOM_FOLDER}/{SBOM_NAME}"
    yield Link("RECORD", _sha256(members[f"{info}/RECORD"]), f"{len(members)} files")
    yield Link("METADATA", _sha256(members[f"{info}/METADATA"]), f"version {verified.version}, tag {wheel.tag}")
    yield Link("licences", set_digest(licences), f"{len(licences)} texts")
    yield Link("module", set_digest(module), f"{len(module)} files, as in this checkout")
    yield Link("manifest", _sha256(members[manifest]), f"{verified.origin}, set digest {verified.digest}")
    yield Link("SBOM", _sha256(members[sbom]), f"{len(members[sbom])} bytes")


def _consists_of(data: bytes, pieces: list[bytes | memoryview]) -> bool:
    """Whether those pieces make up `data`, asked without a copy of it."""
    view, offset = memoryview(data), 0
    for piece in pieces:
        if view[offset : offset + len(piece)] != piece:
            return False
        offset += len(piece)
    return offset == len(data)


def _error_of(difference: Difference, wheel: Wheel, members: Mapping[str, bytes]) -> AuditError:
    name, found, expected = difference.name, difference.found, difference.expected
    if difference.what == "presence":
        expected, found = ("in the wheel", "none") if found == "missing" else ("no such file", "one in the wheel")
        return AuditError(name, expected, found, _CURE, link="members")
    if difference.what != "content":
        what = f"{difference.what} {expected}" if name in members else f"{difference.what}: {expected}"
        return AuditError(name, what, found, _CURE)
    if difference.diff:
        lines = itertools.zip_longest(*(text.decode().split("\n") for text in (members[name], wheel.contents[name])))
        pairs = [pair for pair in lines if pair[0] != pair[1]]
        # The serial number differs whenever anything else does, so it is not worth a line of its own.
        left, right = next((pair for pair in pairs if '"serialNumber"' not in str(pair[0])), pairs[0])
        expected, found = f"the line {_shortened(repr(left))}", _shortened(repr(right))
    return AuditError(name, expected, found, difference.cure or _CURE, link=_link_of(name, wheel.dist_info))


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_LINE else f"{text[:LONGEST_LINE]}... ({len(text)} characters)"


def _link_of(name: str, info: str) -> str:
    """Return the link that a member's content belongs to."""
    if name == f"{PACKAGE}/_manifest.py":
        return "manifest"
    if name == f"{info}/RECORD":
        return "RECORD"
    for folder, link in ((f"{info}/licenses/", "licences"), (f"{info}/{SBOM_FOLDER}/", "SBOM"), (info, "METADATA")):
        if name.startswith(folder):
            return link
    return "module"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
