"""The assets: the table of what each one is, which of them are here, and the object that hands one out."""

import os

from . import _START_AGAIN
from ._package import ASSETS_DIRECTORY, DIRECTORY, LOADING, MANIFEST, SETS, archive

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any, Callable, NoReturn, Optional, TypeVar

    from ._read import AssetReader
    from ._write import StrPath

    T = TypeVar("T")


class Asset:
    """One file of an asset set: a row of the table, and the file behind it.

    `name` is the file's name, `mode` its permission bits (0o755 or 0o644). `prefix` is what its public names
    begin with, `kind` says which proof a build asks of it ("kernel", "program" or "module"), `licence` is its SPDX
    identifier, `variable` the environment variable that overrides it in a build, and `sizes` the smallest and
    the largest size in bytes that a build accepts. None of them can be set.
    """

    __slots__ = ("name", "prefix", "kind", "mode", "licence", "variable", "sizes")

    name: str
    prefix: str
    kind: str
    mode: int
    licence: str
    variable: str
    sizes: "tuple[int, int]"

    def __init__(
        self,
        name: str,
        prefix: str,
        *,
        kind: str,
        mode: int,
        licence: str,
        variable: str,
        sizes: "tuple[int, int]",
    ) -> None:
        for slot, value in zip(self.__slots__, (name, prefix, kind, mode, licence, variable, sizes)):
            object.__setattr__(self, slot, value)

    def __setattr__(self, name: str, value: object) -> "NoReturn":
        raise AttributeError(f"{self!r}: expected no change, found one of {name!r}; an asset is as the wheel has it")

    def __delattr__(self, name: str) -> "NoReturn":
        self.__setattr__(name, None)

    def __repr__(self) -> str:
        return f"<Asset {self.name}>"

    def __reduce__(self) -> str:
        """Copying and unpickling give this very object, found by its name in this module."""
        return self.prefix

    @property
    def size(self) -> int:
        """Size in bytes, from the manifest; no file is opened. Raises AssetAttributeError without a manifest."""
        size: int = as_attribute(lambda: _entry(self)["size"])
        return size

    @property
    def sha256(self) -> str:
        """SHA-256 in hexadecimal, from the manifest. Raises AssetAttributeError without a manifest."""
        digest: str = as_attribute(lambda: _entry(self)["sha256"])
        return digest

    @property
    def path(self) -> "Path":
        """The path of the file: a `pathlib.Path` to read or to hand on, never to write to.

        Raises AssetAttributeError when it is not there or its size is not the manifest's, and the
        AssetInArchiveError of that kind when the package is inside an archive.
        """
        return as_attribute(lambda: _path(self))

    def read_bytes(self) -> bytes:
        """The whole content. Raises AssetMissingError or AssetError."""
        with open_asset(self) as reader:
            return reader.read_all()

    def view(self) -> memoryview:
        """The content as a read-only view of the memory-mapped file: no copy, paged in as it is touched.

        The mapping lives as long as the view. Where nothing can be mapped, as in an archive, it is a view of the
        bytes. A process that touches a mapping of a file that was cut short since is killed by the system, so who
        maps an installed file relies on it staying as it is. Raises AssetMissingError or AssetError.
        """
        with open_asset(self) as reader:
            return reader.view()

    def extract_to(self, dest: "StrPath", *, parents: bool = False) -> "Path":
        """Put a copy at the path `dest`, replacing a file there; return that path.

        The kernel and the module get the process's default mode, the programs 0o755. With `parents`, missing
        folders are made. The content is on disk before it gets its name. Raises AssetMissingError, AssetError,
        DestinationMissingError (a missing parent), DestinationIsDirectoryError or DestinationError.
        """
        with LOADING:
            from pathlib import Path

            from ._folder import make_folder, open_folder
            from ._write import write_files
        target = Path(not_empty(dest))
        with open_asset(self) as reader:
            if parents:
                make_folder(target.parent)
            folder, name = os.path.split(target)
            with open_folder(folder, str(target)) as opened:
                write_files(opened, [(name, _extracted_mode(self), reader)])
        return target

    def verify(self) -> None:
        """Compare size and SHA-256 of the file with the manifest. Raises AssetMissingError or AssetError."""
        with open_asset(self) as reader:
            reader.verify()


KERNEL = Asset(
    "kernel",
    "KERNEL",
    kind="kernel",
    mode=0o644,
    licence="GPL-2.0-only",
    variable="SUPERMACHINE_KERNEL_PATH",
    sizes=(1 << 20, 128 << 20),
)
INIT_OCI = Asset(
    "init-oci",
    "INIT_OCI",
    kind="program",
    mode=0o755,
    licence="Apache-2.0",
    variable="SUPERMACHINE_INIT_OCI_PATH",
    sizes=(4 << 10, 32 << 20),
)
BUSYBOX = Asset(
    "busybox",
    "BUSYBOX",
    kind="program",
    mode=0o755,
    licence="GPL-2.0-only",
    variable="SUPERMACHINE_BUSYBOX_PATH",
    sizes=(4 << 10, 32 << 20),
)
SUPERMACHINE_AGENT = Asset(
    "supermachine-agent",
    "SUPERMACHINE_AGENT",
    kind="program",
    mode=0o755,
    licence="Apache-2.0",
    variable="SUPERMACHINE_AGENT_PATH",
    sizes=(4 << 10, 64 << 20),
)
SMPARK_KO = Asset(
    "smpark.ko",
    "SMPARK_KO",
    kind="module",
    mode=0o644,
    licence="GPL-2.0-only",
    variable="SUPERMACHINE_SMPARK_KO_PATH",
    sizes=(1 << 10, 4 << 20),
)
KNOWN_ASSETS = (KERNEL, INIT_OCI, BUSYBOX, SUPERMACHINE_AGENT, SMPARK_KO)
"""Those of every set."""


def _assets_here() -> "tuple[Asset, ...]":
    """The assets of the set that the manifest names; where it names none, those of every set."""
    try:
        names = SETS[MANIFEST["set"]]  # type: ignore[index]
        return tuple(asset for asset in KNOWN_ASSETS if asset.name in names)
    except (TypeError, KeyError):  # no manifest, or a damaged one
        return KNOWN_ASSETS


ASSETS = _assets_here()
"""Those of the set that is installed."""


def manifest() -> "dict[str, Any]":
    """The manifest of this installation. Raises AssetMissingError where there is none, AssetError for a damaged one."""
    if MANIFEST is not None and is_manifest(MANIFEST):
        return MANIFEST
    with LOADING:
        from ._errors import AssetError, AssetMissingError
    if MANIFEST is None:
        raise AssetMissingError(ASSETS_DIRECTORY, "the assets of an installed wheel", "none", _how_to_reinstall())
    path = os.path.join(DIRECTORY, "_manifest.py")
    raise AssetError(path, "the manifest of the assets", "a damaged one", _how_to_reinstall())


_FIELDS = {
    "format": int,
    "version": str,
    "set": str,
    "set_digest": str,
    "origin": str,
    "kernel_release": str,
    "af_tsi": bool,
    "assets": dict,
}
_ASSET_FIELDS = {"size": int, "sha256": str, "mode": int}


def is_manifest(found: "Any") -> bool:
    """Whether every field of a manifest is there, each of its type, for a set that is known; more may be there too."""
    if not _has(found, _FIELDS) or found["set"] not in SETS:
        return False
    return all(_has(found["assets"].get(name), _ASSET_FIELDS) for name in SETS[found["set"]])


def _has(found: "Any", fields: "dict[str, type]") -> bool:
    return type(found) is dict and all(type(found.get(name)) is kind for name, kind in fields.items())


def assets_dir() -> "Path":
    """The flat folder with all assets, as `supermachine::AssetPaths::from_dir` takes it.

    Raises AssetMissingError, AssetError or AssetInArchiveError for the first asset that is not as it should be.
    """
    paths = [_path(asset) for asset in ASSETS]
    return paths[0].parent


def extract_all_to(directory: "StrPath") -> "Path":
    """Put all assets into `directory`, made with its parents where missing; return that folder.

    All of them are written before the first replaces a file there, each in one step, and its content is on disk before
    it gets its name. Temporary files that killed writers left there more than an hour ago are deleted. Raises as
    `Asset.extract_to` does.
    """
    with LOADING:
        from pathlib import Path

        from ._folder import make_folder, open_folder
        from ._write import sweep, write_files
    folder = Path(not_empty(directory))
    readers = []
    try:
        for asset in ASSETS:
            readers.append(open_asset(asset))
        make_folder(folder)
        with open_folder(str(folder), str(folder)) as opened:
            write_files(
                opened, [(asset.name, _extracted_mode(asset), reader) for asset, reader in zip(ASSETS, readers)]
            )
            sweep(opened)
    finally:
        for reader in readers:
            reader.close()
    return folder


def verify() -> None:
    """Compare every asset with the manifest. Raises AssetMissingError or AssetError for the first that differs."""
    for asset in ASSETS:
        asset.verify()


def open_asset(asset: Asset) -> "AssetReader":
    """Open the file of `asset` for reading. Raises AssetMissingError or AssetError."""
    with LOADING:
        from ._read import AssetReader
    entry = _entry(asset)
    return AssetReader(_location(asset), entry["size"], entry["sha256"])


def as_attribute(get: "Callable[[], T]") -> "T":
    """What `get` gives; its AssetError becomes an AttributeError too, which hasattr() and its like understand."""
    try:
        return get()
    except Exception as error:
        with LOADING:
            from ._errors import AssetAttributeError, AssetError
        if isinstance(error, AssetAttributeError) or not isinstance(error, AssetError):
            raise
        raise AssetAttributeError(**error.fields()) from error


def _path(asset: Asset) -> "Path":
    """The checked path. Raises AssetMissingError, AssetError or AssetInArchiveError."""
    with LOADING:
        from pathlib import Path

        from ._errors import AssetError, AssetInArchiveError, AssetMissingError
    path = _location(asset)
    if archive():
        cure = "read_bytes(), extract_to() and ensure_assets() work from here and give a real file"
        raise AssetInArchiveError(path, "a file", "an archive around it", cure)
    size = _entry(asset)["size"]
    try:
        found = os.stat(path).st_size
    except OSError as error:
        expected, cure = f"a file of {size} bytes", _how_to_reinstall()
        if isinstance(error, (FileNotFoundError, NotADirectoryError)):
            raise AssetMissingError(path, expected, "nothing", cure, errno=error.errno) from error
        raise AssetError(path, expected, f"one that cannot be read ({error.strerror})", cure) from error
    if found != size:
        raise AssetError(path, f"{size} bytes", str(found), _how_to_reinstall())
    return Path(path)


def _entry(asset: Asset) -> "dict[str, Any]":
    """What the manifest says of `asset`. Raises AssetMissingError without a manifest, AssetError for a damaged one."""
    entry: dict[str, Any] = manifest()["assets"][asset.name]
    return entry


def _location(asset: Asset) -> str:
    return os.path.join(ASSETS_DIRECTORY, asset.name)


def _extracted_mode(asset: Asset) -> "Optional[int]":
    """The mode of an extracted file: 0o755 for a program, None for the process's default."""
    return asset.mode if asset.mode & 0o111 else None


def not_empty(path: "StrPath") -> "StrPath":
    """The path `path`, unless it is the empty string, which would mean the current folder. Raises DestinationError."""
    if os.fspath(path) in ("", b""):
        with LOADING:
            from ._errors import DestinationError
        raise DestinationError("''", "the path of a destination", "an empty one", "is a variable unset?")
    return path


def _how_to_reinstall() -> str:
    try:
        with LOADING:
            from ._installation import how_to_reinstall
    except ImportError:
        return _START_AGAIN
    return how_to_reinstall()
