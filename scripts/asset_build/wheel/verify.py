"""Verify a set before it reaches a wheel: sizes, structure, and that kernel and module belong together."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Optional

from supermachine_kernel import InspectionError
from supermachine_kernel._assets import KERNEL, Asset
from supermachine_kernel._version import VERSION

from ..digests import set_digest
from ..errors import BuildError, describe
from ..guest_sets import GuestSet
from ..lock import LockedSet
from ..regular_file import SizeError, read_regular
from .sources import Source
from .verifiers import KernelFacts, verify_kernel, verify_module, verify_program

_LARGEST_RECORD = 1 << 20


@dataclass(frozen=True)
class VerifiedSet:
    """A coherent set: its row in the table, its files by asset name, and what follows from them.

    `digest` is the set digest. `origin` is "release" for the locked files, else "custom"; `version` is the wheel's.
    `build` is the record of the files' build: the lock's for a release, else the build-info.json of these very
    files, else None.
    """

    guest_set: GuestSet
    contents: Mapping[str, bytes]
    sha256: Mapping[str, str]
    digest: str
    kernel: KernelFacts
    origin: str
    version: str
    build: Optional[Mapping[str, Any]]


def verify_set(source: Source, locked: Optional[LockedSet] = None) -> VerifiedSet:
    """Read the files of `source` once and verify them. Raises BuildError for the first that is not right."""
    guest_set = source.guest_set
    contents = {asset.name: _read(asset, source) for asset in guest_set.assets}
    names = {asset.name: source.name_of(asset.name) for asset in guest_set.assets}
    verified = verify_contents(guest_set, contents, names, locked)
    if verified.origin == "release":
        return verified
    if source.kind == "release":
        folder = str(source.files[KERNEL.name].parent)
        raise BuildError(folder, "the files as they were verified", "others: they were changed since", "build again")
    return replace(verified, build=_build_info(source, verified.sha256))


def verify_contents(
    guest_set: GuestSet, contents: Mapping[str, bytes], names: Mapping[str, str], locked: Optional[LockedSet]
) -> VerifiedSet:
    """Verify the files of a set; `names` says what an error calls each of them. Raises BuildError.

    A release has the lock's record of its build, so that the files give one wheel wherever they came from. A custom
    set has none yet.
    """
    kernel = verify_structure(guest_set, contents, names)
    sha256 = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    digest = set_digest(sha256)
    if locked is not None and locked.digest == digest:
        return VerifiedSet(guest_set, contents, sha256, digest, kernel, "release", VERSION, locked.build)
    return VerifiedSet(guest_set, contents, sha256, digest, kernel, "custom", custom_version(digest), None)


def custom_version(digest: str) -> str:
    """The version of a wheel whose files are not the release's: X.Y.Z+custom.<first 8 hex digits of the set digest>.

    PEP 440 takes a part that is all digits for a number and drops its leading zeros; `0x` keeps it as it is.
    """
    label = digest[:8]
    return f"{VERSION}+custom.{'0x' if label.isdigit() and label.startswith('0') else ''}{label}"


def verify_structure(guest_set: GuestSet, contents: Mapping[str, bytes], names: Mapping[str, str]) -> KernelFacts:
    """Verify the structure of each asset and that the module fits the kernel; return the facts about the kernel.

    `names` says what an error calls each file. Raises BuildError.
    """
    try:
        kernel = verify_kernel(contents[KERNEL.name], guest_set.kernel_format, names[KERNEL.name])
        for asset in guest_set.assets:
            name = names[asset.name]
            if asset.kind == "program":
                verify_program(contents[asset.name], guest_set.elf_machine, name)
            elif asset.kind == "module":
                release = verify_module(contents[asset.name], guest_set.elf_machine, name).split()[0]
                if release != kernel.release:
                    expected = f"a module of kernel {kernel.release} ({names[KERNEL.name]})"
                    cure = "a set comes from one kernel build: take both files from the same"
                    raise BuildError(name, expected, f"one of {release}", cure)
            elif asset.kind != "kernel":
                row, expected = f"supermachine_kernel/_assets.py: {asset.name}", "the kind kernel, program or module"
                cure = "correct the row, or add the kind (CONTRIBUTING.md, Add an asset)"
                raise BuildError(row, expected, asset.kind, cure)
    except InspectionError as error:
        raise BuildError(**error.fields()) from error
    return kernel


def _read(asset: Asset, source: Source) -> bytes:
    """The content, refused by its size before it is read."""
    path, name = source.files[asset.name], source.name_of(asset.name)
    smallest, largest = asset.sizes
    try:
        content = read_regular(path, largest=largest)
        if content and len(content) < smallest:  # of an empty file the verifier says more
            raise SizeError(len(content))
    except SizeError as error:
        expected = f"{smallest} to {largest} bytes for {asset.name}"
        raise BuildError(name, expected, str(error.size), "is it another file, or a part of one?") from error
    except OSError as error:
        raise BuildError(name, "a readable file", error.strerror or str(error), "name the file itself") from error
    return content


def _build_info(source: Source, sha256: Mapping[str, str]) -> Optional[Mapping[str, Any]]:
    """The build info, if it speaks of these very files.

    A tree is as its build left it; an override may be put together by hand, and the record of others says nothing.
    """
    path = source.build_info
    if path is None:
        return None
    try:
        info = json.loads(read_regular(path, largest=_LARGEST_RECORD).decode())
        json.dumps(info, ensure_ascii=False).encode()  # the lock copies it, and cannot hold a lone surrogate
        recorded = {name: asset["sha256"] for name, asset in info["assets"].items()}
    except (SizeError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        expected = "the build's own record in JSON"
        raise BuildError(str(path), expected, describe(error), "build again, or remove it") from error
    if recorded == sha256:
        return dict(info)
    if source.kind == "tree":
        differing = sorted(name for name in {*recorded, *sha256} if recorded.get(name) != sha256.get(name))
        found = f"another SHA-256 for {', '.join(differing)}"
        cure = "build again, or remove the record, if the files are meant to be others"
        raise BuildError(str(path), "the record of the files beside it", found, cure)
    return None
