"""An OCI image on disk: a layout folder, an archive of one, or an archive of `docker save`.

The formats are those of the OCI image specification 1.1 (image-layout.md, manifest.md, config.md) and of Docker's image
specification 1.2. skopeo, umoci, buildah and docker write them.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from scripts.asset_build.errors import BuildError, ContentMismatchError, printable
from scripts.guest.bounded_tar import BoundedTar

PLATFORM = ("linux", "arm64")
_LARGEST_DOCUMENT = 4 << 20
"""Bytes; the specification asks readers to take manifests of at least 4 MiB."""
MOST_LAYERS = 127
"""As Docker has it. The kernel's overlayfs takes up to 500, and QEMU fewer disks."""
_INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_HEX = frozenset("0123456789abcdef")


class ImageError(BuildError):
    """An image cannot be read, or is not for this guest."""

    def __init__(self, subject: str, expected: str = "", found: str = "", cure: str = "") -> None:
        super().__init__(*map(printable, (subject, expected, found, cure)))


@dataclass(frozen=True)
class Layer:
    """One layer. `digest` is that of the blob, where the format states it, and `diff_id` that of the tar inside it."""

    name: str
    digest: str | None
    diff_id: str


class Image:
    """An image for the guest: its layers, the lowest first, and what its configuration says of the process to run."""

    def __init__(self, store: Store, layers: tuple[Layer, ...], config: Mapping[str, Any]) -> None:
        self._store = store
        self.layers = layers
        self.config = config

    def open(self, layer: Layer) -> IO[bytes]:
        """The layer's blob, as it is stored. Raises ImageError."""
        return self._store.open(layer.name)

    def where(self, layer: Layer) -> str:
        """What an error calls the layer."""
        return f"{self._store.where}: {layer.name}"

    def __enter__(self) -> Image:
        return self

    def __exit__(self, *_: object) -> None:
        self._store.close()


class Store(Protocol):
    """The files of an image by name, in a folder or in an archive."""

    where: str

    def open(self, name: str) -> IO[bytes]:
        """Open a file. Raises ImageError."""

    def has(self, name: str) -> bool:
        """Whether there is such a file."""

    def close(self) -> None:
        """Close what is open."""


def read_image(reference: str) -> Image:
    """Read the image that `reference`, "PATH" or "PATH:TAG", names. It is a context. Raises ImageError."""
    path, tag = _split(reference)
    if not reference:  # it would be the current folder
        raise ImageError("''", "the path of an image", "an empty one", "is a variable unset?")
    store = _open_store(path)
    try:
        return _read(store, tag)
    except BaseException:
        store.close()
        raise


def _read(store: Store, tag: str | None) -> Image:
    if store.has("index.json"):
        return _read_layout(store, tag)
    if store.has("manifest.json"):
        return _read_docker_archive(store, tag)
    raise ImageError(
        store.where,
        "an OCI layout or a docker archive",
        "neither index.json nor manifest.json",
        "name its folder or file",
    )


def _split(reference: str) -> tuple[Path, str | None]:
    """The path and the tag; a path that exists as it is written has no tag."""
    path, colon, tag = reference.rpartition(":")
    if colon and path and "/" not in tag and not Path(reference).exists():
        return Path(path), tag
    return Path(reference), None


def _open_store(path: Path) -> Store:
    try:
        return _Folder(path) if path.is_dir() else _Archive(path)
    except ContentMismatchError as mismatch:
        raise ImageError(str(path), mismatch.expected, mismatch.found, "make the image again") from mismatch
    # tarfile has ValueError and OverflowError for numbers in a header that are none, and zlib an error of its own.
    except (OSError, tarfile.TarError, ValueError, OverflowError, EOFError, zlib.error) as error:
        found = error.strerror if isinstance(error, OSError) and error.strerror else "no tar archive"
        raise ImageError(
            str(path), "a layout folder or an archive", found, "name the image's folder or file"
        ) from error


class _Folder:
    def __init__(self, path: Path) -> None:
        self.where = str(path)
        self._path = path

    def open(self, name: str) -> IO[bytes]:
        path = self._path / name
        if path == Path(name) or ".." in path.relative_to(self._path).parts:
            raise _no_file(self.where, name, "one outside of it")
        try:
            # A pipe in the place of a file would have us wait for its other end, and a device may have none.
            file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return file
            file.close()
        except (OSError, ValueError) as error:  # ValueError: a name with a NUL
            raise _no_file(self.where, name, getattr(error, "strerror", None) or str(error)) from error
        raise _no_file(self.where, name, "a device, socket or pipe")

    def has(self, name: str) -> bool:
        return (self._path / name).is_file()

    def close(self) -> None:
        pass


class _Archive:
    def __init__(self, path: Path) -> None:
        self.where = str(path)
        self._file = path.open("rb")  # the layers are read from it as long as the image is used
        try:
            self._tar = BoundedTar.open(fileobj=self._file)
            members = self._tar.bounded_members()
            self._members = {member.name.removeprefix("./"): member for member in members}
        except BaseException:
            self._file.close()
            raise

    def open(self, name: str) -> IO[bytes]:
        try:
            file = self._tar.extractfile(self._members[name])
        except (KeyError, OSError, tarfile.TarError, RecursionError) as error:  # a circle of links in the archive
            raise _no_file(self.where, name, "nothing") from error
        if file is None:
            raise _no_file(self.where, name, "no file")
        return file

    def has(self, name: str) -> bool:
        return name in self._members

    def close(self) -> None:
        self._tar.close()
        self._file.close()


def _no_file(where: str, name: str, found: str) -> ImageError:
    return ImageError(f"{where}: {name}", "a file of the image", found, "make the image again")


# --- an OCI layout ---


def _read_layout(store: Store, tag: str | None) -> Image:
    descriptor = _chosen(store, _document(store, "index.json"), tag)
    while descriptor.get("mediaType") in _INDEXES:
        descriptor = _for_platform(store, _blob(store, descriptor))
    manifest = _blob(store, descriptor)
    config = _blob(store, _field(store, manifest, "config", dict))
    blobs = _field(store, manifest, "layers", list)
    diff_ids = _diff_ids(store, config, len(blobs))
    layers = [Layer(_blob_name(store, blob), str(blob["digest"]), diff) for blob, diff in zip(blobs, diff_ids)]
    return _image(store, layers, config)


def _chosen(store: Store, index: Mapping[str, Any], tag: str | None) -> Mapping[str, Any]:
    """The image with the tag, or the only one."""
    images = [each for each in _field(store, index, "manifests", list) if isinstance(each, dict)]
    names = [_object(each.get("annotations")).get("org.opencontainers.image.ref.name") for each in images]
    wanted = images if tag is None else [each for each, name in zip(images, names) if name == tag]
    if len(wanted) == 1:
        return dict(wanted[0])
    tags = ", ".join(str(name) for name in names if name) or "no tags"
    expected = "one image" if tag is None else f"the tag {tag}"
    raise ImageError(store.where, expected, f"{len(images)} images: {tags}", "name one as LAYOUT:TAG")


def _for_platform(store: Store, index: Mapping[str, Any]) -> Mapping[str, Any]:
    images = [each for each in _field(store, index, "manifests", list) if isinstance(each, dict)]
    platforms = [_object(each.get("platform")) for each in images]
    for each, platform in zip(images, platforms):
        if (platform.get("os"), platform.get("architecture")) == PLATFORM:
            return dict(each)
    found = ", ".join(f"{each.get('os')}/{each.get('architecture')}" for each in platforms) or "none"
    raise ImageError(store.where, f"an image for {'/'.join(PLATFORM)}", found, "copy the image for that platform")


def _blob(store: Store, descriptor: Mapping[str, Any]) -> dict[str, Any]:
    """The document that a descriptor leads to, once its digest is right."""
    return _document(store, _blob_name(store, descriptor), str(descriptor["digest"]))


def _blob_name(store: Store, descriptor: Any) -> str:
    digest = descriptor.get("digest") if isinstance(descriptor, dict) else None
    algorithm, _, encoded = str(digest).partition(":")
    if algorithm != "sha256" or len(encoded) != 64 or not _HEX.issuperset(encoded):
        raise ImageError(store.where, "a descriptor with a sha256 digest", repr(digest), "make the image again")
    return f"blobs/sha256/{encoded}"


# --- an archive of docker save ---


def _read_docker_archive(store: Store, tag: str | None) -> Image:
    entries = [each for each in _listed(store, "manifest.json") if isinstance(each, dict)]
    wanted = [each for each in entries if tag is None or any(str(t).endswith(f":{tag}") for t in _tags(each))]
    if len(wanted) != 1:
        tags = ", ".join(str(tag) for each in entries for tag in _tags(each)) or "no tags"
        expected = "one image" if tag is None else f"the tag {tag}"
        raise ImageError(store.where, expected, f"{len(entries)} images: {tags}", "name one as ARCHIVE:TAG")
    config = _document(store, str(_field(store, wanted[0], "Config", str)))
    names = _field(store, wanted[0], "Layers", list)
    diff_ids = _diff_ids(store, config, len(names))
    return _image(store, [Layer(str(name), None, diff) for name, diff in zip(names, diff_ids)], config)


# --- both ---


def _image(store: Store, layers: list[Layer], config: Mapping[str, Any]) -> Image:
    platform = (config.get("os"), config.get("architecture"))
    if platform != PLATFORM:
        found = f"one for {platform[0]}/{platform[1]}"
        cure = f"copy the image for {'/'.join(PLATFORM)}"
        raise ImageError(store.where, f"an image for {'/'.join(PLATFORM)}", found, cure)
    process = config.get("config") or {}
    if not isinstance(process, dict):
        raise ImageError(store.where, "a config object", repr(process)[:100], "make the image again")
    return Image(store, tuple(layers), process)


def _diff_ids(store: Store, config: Mapping[str, Any], count: int) -> list[str]:
    found = _field(store, _field(store, config, "rootfs", dict), "diff_ids", list)
    if count > MOST_LAYERS:
        raise ImageError(store.where, f"at most {MOST_LAYERS} layers", str(count), "make the image again of fewer")
    if len(found) != count or not count:
        raise ImageError(store.where, f"{len(found)} layers, as the config has", str(count), "make the image again")
    return [str(each) for each in found]


def _document(store: Store, name: str, digest: str | None = None) -> dict[str, Any]:
    found = _json(store, name, digest)
    if not isinstance(found, dict):
        raise ImageError(f"{store.where}: {name}", "a JSON object", type(found).__name__, "make the image again")
    return found


def _listed(store: Store, name: str) -> list[Any]:
    found = _json(store, name, None)
    if not isinstance(found, list):
        raise ImageError(f"{store.where}: {name}", "a JSON list", type(found).__name__, "make the image again")
    return found


def _json(store: Store, name: str, digest: str | None) -> Any:
    where, cure = f"{store.where}: {name}", "make the image again"
    with store.open(name) as file:
        content = file.read(_LARGEST_DOCUMENT + 1)
    if len(content) > _LARGEST_DOCUMENT:
        raise ImageError(where, f"at most {_LARGEST_DOCUMENT} bytes", "more", cure)
    if digest is not None and digest != f"sha256:{hashlib.sha256(content).hexdigest()}":
        raise ImageError(where, digest, f"sha256:{hashlib.sha256(content).hexdigest()}", cure)
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ImageError(where, "JSON", " ".join(str(error).split()), cure) from error


def _tags(entry: Mapping[str, Any]) -> list[Any]:
    found = entry.get("RepoTags")
    return found if isinstance(found, list) else []


def _object(found: Any) -> dict[str, Any]:
    """A part that may be left out; what is no object says as little."""
    return found if isinstance(found, dict) else {}


def _field(store: Store, document: Mapping[str, Any], name: str, kind: type) -> Any:
    found = document.get(name)
    if not isinstance(found, kind):
        raise ImageError(store.where, f"a {kind.__name__} in {name!r}", repr(found)[:100], "make the image again")
    return found
