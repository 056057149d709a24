"""The four assets: the table of what each one is, and the object that hands it out."""

import os

from ._errors import AssetError, AssetInArchiveError, AssetMissingError
from ._version import VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any, BinaryIO, Optional

    from ._write import StrPath

try:
    from ._manifest import MANIFEST as _MANIFEST
except ImportError:  # a source checkout, or an editable install that found no assets
    _MANIFEST = None  # type: ignore[assignment]
except Exception:  # a damaged file: said when the manifest is asked for, not by whoever imports this
    _MANIFEST = {}

SET = "aarch64"
"""The asset set this version knows: the guest architecture, as the kernel build names it."""

_DIRECTORY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "assets")


class Asset:
    """One file of the asset set: a row of the table, and the file behind it.

    `name` is the file's name, `mode` its permission bits (0o755 or 0o644). `prefix` is what its public names
    begin with, `kind` what it must prove to be ("kernel", "program" or "module"), `licence` its SPDX
    identifier, `variable` the environment variable that overrides it in a build, and `sizes` the smallest and
    the largest size in bytes that a build accepts.
    """

    __slots__ = ("name", "prefix", "kind", "mode", "licence", "variable", "sizes")

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
        self.name = name
        self.prefix = prefix
        self.kind = kind
        self.mode = mode
        self.licence = licence
        self.variable = variable
        self.sizes = sizes

    def __repr__(self) -> str:
        return f"<Asset {self.name}>"

    def __reduce__(self) -> str:
        """Each is one of a kind: what is copied or unpickled is that very object, by its name in this module."""
        return self.prefix

    @property
    def size(self) -> int:
        """Size in bytes, from the manifest; no file is opened.

        Raises AssetMissingError without a manifest, AssetError for a damaged one.
        """
        size: int = manifest()["assets"][self.name]["size"]
        return size

    @property
    def sha256(self) -> str:
        """SHA-256 in hexadecimal, from the manifest.

        Raises AssetMissingError without a manifest, AssetError for a damaged one.
        """
        digest: str = manifest()["assets"][self.name]["sha256"]
        return digest

    @property
    def path(self) -> "Path":
        """Where the file lies: a `pathlib.Path` to read or to hand on, never to write to.

        Raises AssetMissingError when it is not there, AssetError when its size is not the manifest's, and
        AssetInArchiveError when the package is inside an archive.
        """
        from pathlib import Path

        location = self._location()
        if in_archive():
            raise AssetInArchiveError(
                location,
                "a file",
                "an archive around it",
                "read_bytes(), extract_to() and ensure_assets() work from here and give a real file",
            )
        try:
            found = os.stat(location).st_size
        except OSError as error:
            raise self._unreadable(error) from error
        if found != self.size:
            raise self._wrong_size(found)
        return Path(location)

    def read_bytes(self) -> bytes:
        """The whole content. Raises AssetMissingError or AssetError."""
        if in_archive():
            data = self._from_loader()
        else:
            with self._open() as file:
                data = file.read()
        if len(data) != self.size:
            raise self._wrong_size(len(data))
        return data

    def view(self) -> memoryview:
        """The content as a read-only view of the memory-mapped file: no copy, paged in as it is touched.

        The mapping lives as long as the view. In an archive, where nothing can be mapped, it is a view of the
        bytes. Raises AssetMissingError or AssetError.
        """
        if in_archive():
            return memoryview(self.read_bytes())
        import mmap

        with self._open() as file:
            return memoryview(mmap.mmap(file.fileno(), self.size, access=mmap.ACCESS_READ))

    def extract_to(self, dest: "StrPath", *, parents: bool = False) -> "Path":
        """Put a copy at the path `dest`, replacing a file there; return that path.

        The kernel and the module get the process's default mode, the programs 0o755. With `parents`, missing
        folders are made. Raises AssetMissingError, AssetError, DestinationMissingError (a missing parent),
        DestinationIsDirectoryError or DestinationError.
        """
        from pathlib import Path

        target = Path(dest)
        if parents:
            from ._write import make_folder

            make_folder(target.parent)
        self.place(target, mode=self.mode if self.mode & 0o111 else None)
        return target

    def verify(self) -> None:
        """Compare size and SHA-256 of the file with the manifest. Raises AssetMissingError or AssetError."""
        import hashlib

        with self.view() as data:
            found = hashlib.sha256(data).hexdigest()
        if found != self.sha256:
            raise AssetError(self._location(), f"SHA-256 {self.sha256}", found, _cure())

    def place(self, target: "StrPath", *, mode: "Optional[int]", durable: bool = False) -> None:
        """What `extract_to` does, with the promises of `_write.place_file`."""
        from ._write import place_bytes, place_file

        if in_archive():
            place_bytes(self.read_bytes(), target, mode=mode, durable=durable)
            return
        with self._open() as file:
            place_file(file, target, size=self.size, mode=mode, durable=durable)

    def _location(self) -> str:
        return os.path.join(_DIRECTORY, self.name)

    def _open(self) -> "BinaryIO":
        """The file, once it is there and as long as the manifest says."""
        expected = self.size
        try:
            file = open(self._location(), "rb")  # noqa: SIM115 - the caller's to close
        except OSError as error:
            raise self._unreadable(error) from error
        found = os.fstat(file.fileno()).st_size
        if found != expected:
            file.close()
            raise self._wrong_size(found)
        return file

    def _unreadable(self, error: OSError) -> AssetError:
        expected = f"a file of {self.size} bytes"
        if isinstance(error, (FileNotFoundError, NotADirectoryError)):
            return AssetMissingError(self._location(), expected, "nothing", _cure(), errno=error.errno)
        return AssetError(self._location(), expected, f"one that cannot be read ({error.strerror})", _cure())

    def _wrong_size(self, found: int) -> AssetError:
        return AssetError(self._location(), f"{self.size} bytes", str(found), _cure())

    def _from_loader(self) -> bytes:
        """The bytes through the import system (PEP 302 `get_data`), for a package that lies in a zip."""
        loader: Any = globals()["__spec__"].loader
        try:
            # zipimport knows its archive by the name it was given: "./app.pyz" is not the absolute path to it.
            data: bytes = loader.get_data(os.path.join(os.path.dirname(__file__), "assets", self.name))
        except OSError as error:
            # zipimport gives an OSError without an errno.
            raise self._unreadable(FileNotFoundError()) from error
        except Exception as error:  # a damaged archive: zipimport's error, or that of whatever it unpacks with
            expected = f"a file of {self.size} bytes"
            raise AssetError(self._location(), expected, f"a damaged archive ({error})", _cure()) from error
        return data


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
ASSETS = (KERNEL, INIT_OCI, SUPERMACHINE_AGENT, SMPARK_KO)


def manifest() -> "dict[str, Any]":
    """The manifest of this installation. Raises AssetMissingError where there is none, AssetError for a damaged one."""
    if _MANIFEST is None:
        raise AssetMissingError(_DIRECTORY, "the assets of an installed wheel", "none", _cure())
    if not is_manifest(_MANIFEST):
        found = os.path.join(os.path.dirname(_DIRECTORY), "_manifest.py")
        raise AssetError(found, "the manifest of the four assets", "a damaged one", _cure())
    return _MANIFEST


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
    """Whether every field of a manifest is there, each of its type; more may be there too."""
    return _has(found, _FIELDS) and all(_has(found["assets"].get(asset.name), _ASSET_FIELDS) for asset in ASSETS)


def _has(found: "Any", fields: "dict[str, type]") -> bool:
    return type(found) is dict and all(type(found.get(name)) is kind for name, kind in fields.items())


def installed_version() -> str:
    """The version of the assets that are here, with the label of a build of other than the locked ones."""
    return VERSION if not isinstance(_MANIFEST, dict) else str(_MANIFEST.get("version", VERSION))


def assets_dir() -> "Path":
    """The flat folder with all four assets, as `supermachine::AssetPaths::from_dir` takes it.

    Raises AssetMissingError, AssetError or AssetInArchiveError for the first asset that is not as it should be.
    """
    paths = [asset.path for asset in ASSETS]
    return paths[0].parent


def extract_all_to(directory: "StrPath") -> "Path":
    """Put all four assets into `directory`, made with its parents where missing; return that folder.

    What killed writers left there more than an hour ago is removed. Raises as `Asset.extract_to` does.
    """
    from pathlib import Path

    from ._write import make_folder, sweep

    if not in_archive():
        assets_dir()  # a set that is not whole is not begun
    folder = Path(directory)
    make_folder(folder)
    for asset in ASSETS:
        asset.extract_to(folder / asset.name)
    sweep(folder)
    return folder


def verify() -> None:
    """Compare every asset with the manifest. Raises AssetMissingError or AssetError for the first that differs."""
    for asset in ASSETS:
        asset.verify()


def directory() -> str:
    """Where the assets belong, there or not."""
    return _DIRECTORY


def in_archive() -> bool:
    """Whether the package lies inside a file: what is there of the way to its folder ends at one."""
    path = os.path.dirname(_DIRECTORY)
    while not os.path.exists(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    return os.path.isfile(path)


def _cure() -> str:
    from ._installation import cure

    return cure()
