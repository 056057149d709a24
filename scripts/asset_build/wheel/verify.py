"""No asset reaches a wheel unproven: size, structure, and that kernel and module belong together."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from supermachine_kernel import InspectionError
from supermachine_kernel._assets import ASSETS, KERNEL, Asset
from supermachine_kernel._inspect import KernelFacts, inspect_kernel, inspect_module, inspect_program

from ..digests import set_digest
from ..errors import BuildError, plain
from ..lock import LockedSet
from .sources import Source


@dataclass(frozen=True)
class ProvenSet:
    """A coherent set: the content that was proven, and what it says of itself.

    `build` is the build-info.json it came with, when its digests are those of these very files.
    """

    contents: Mapping[str, bytes]
    kernel: KernelFacts
    build: Optional[Mapping[str, Any]]

    @property
    def sha256(self) -> dict[str, str]:
        return {name: hashlib.sha256(content).hexdigest() for name, content in self.contents.items()}

    @property
    def digest(self) -> str:
        return set_digest(self.sha256)


def prove(source: Source, locked: Optional[LockedSet] = None) -> ProvenSet:
    """Read the files of `source` once and prove them. Raises BuildError for the first that is not right.

    The build info of a locked set is the lock's, so that the files give one wheel wherever they came from.
    """
    contents = {asset.name: _read(asset, source.files[asset.name]) for asset in ASSETS}
    kernel = prove_structure(contents, source.files)
    proven = ProvenSet(contents, kernel, None)
    if locked is not None and locked.digest == proven.digest:
        return ProvenSet(contents, kernel, locked.build)
    if source.kind == "release":
        raise BuildError(
            f"{source.files[KERNEL.name].parent}: the files were changed after they were proven; build again"
        )
    return ProvenSet(contents, kernel, _build_info(source, proven.sha256))


def prove_structure(contents: Mapping[str, bytes], names: Mapping[str, object]) -> KernelFacts:
    """Prove each asset by its kind, and the module to be of the kernel; what the kernel says of itself.

    `names` is what each file is called in an error's text. Raises BuildError.
    """
    try:
        kernel = inspect_kernel(contents[KERNEL.name], str(names[KERNEL.name]))
        for asset in ASSETS:
            name = str(names[asset.name])
            if asset.kind == "program":
                inspect_program(contents[asset.name], name)
            elif asset.kind == "module":
                release = inspect_module(contents[asset.name], name).split()[0]
                if release != kernel.release:
                    raise BuildError(
                        f"{name}: expected a module of kernel {kernel.release} ({names[KERNEL.name]}), found one of "
                        f"{release}; a set comes from one kernel build: take both files from the same"
                    )
    except InspectionError as error:
        raise BuildError(str(error)) from error
    return kernel


def _read(asset: Asset, path: Path) -> bytes:
    """The content, refused by its size before it is read."""
    smallest, largest = asset.sizes
    try:
        size = path.stat().st_size
        if size and not smallest <= size <= largest:
            raise BuildError(
                f"{path}: expected {smallest} to {largest} bytes for {asset.name}, found {size}; "
                "is it another file, or a part of one?"
            )
        return path.read_bytes()
    except OSError as error:
        raise BuildError(f"{path}: expected a readable file, found: {error.strerror}; name the file itself") from error


def _build_info(source: Source, sha256: Mapping[str, str]) -> Optional[Mapping[str, Any]]:
    """The build info, if it speaks of these very files.

    A tree is as its build left it; an override may be put together by hand, and the record of others says nothing.
    """
    path = source.build_info
    if path is None:
        return None
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(info, ensure_ascii=False).encode()  # the lock takes it over: a lone surrogate cannot be written
        recorded = {name: asset["sha256"] for name, asset in info["assets"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BuildError(
            f"{path}: expected the build's own record in JSON, found {plain(error)}; build again, or remove it"
        ) from error
    if recorded == sha256:
        return dict(info)
    if source.kind == "tree":
        differing = sorted(name for name in {*recorded, *sha256} if recorded.get(name) != sha256.get(name))
        raise BuildError(
            f"{path}: expected the record of the files beside it, found another SHA-256 for {', '.join(differing)}; "
            "build again, or remove the record, if the files are meant to be others"
        )
    return None
