"""The layers of an OCI image as squashfs files, from which overlayfs makes the image's root.

A layer says what it removes by names that begin with `.wh.` (OCI image specification, layer.md). overlayfs has a
character device 0, 0 for a removed file and the attribute `trusted.overlay.opaque` for a folder that hides those below
(Documentation/filesystems/overlayfs.rst).
"""

from __future__ import annotations

import contextlib
import copy
import gzip
import hashlib
import os
import stat
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TypeVar

from scripts.asset_build.errors import ContentMismatchError
from scripts.guest.bounded_tar import BoundedTar
from scripts.guest.oci_image import Image, ImageError, Layer

_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_OPAQUE_ATTRIBUTE = "SCHILY.xattr.trusted.overlay.opaque"
"""The key by which star, GNU tar and mksquashfs keep an extended attribute in a pax header."""
_CHUNK = 1 << 20
_T = TypeVar("_T")
_MOST_LINKS = 40
"""Links that Linux follows on the way to one file (MAXSYMLINKS)."""
_LONGEST_NAME, _LONGEST_PATH = 255, 4095
"""Bytes of a file's name and of a path (NAME_MAX and PATH_MAX of Linux)."""
LARGEST_UNPACKED = 32 << 30
"""Bytes of all the layers of an image once unpacked. The largest images in use have a few GiB."""


def write_layers(
    image: Image, folder: Path, progress: Callable[[str], None], volumes: Sequence[str] = ()
) -> list[Path]:
    """Write each layer of `image` as a squashfs into `folder`; return the files, the lowest layer first.

    Owners, modes, extended attributes, hard links and device files are those of the layer. The last layer gets the
    folders that `volumes` names and that the image does not have. Raises ImageError for a layer that is not what its
    digest says, or that no file system could hold.
    """
    below = _Below()
    written, room = [], LARGEST_UNPACKED
    for number, layer in enumerate(image.layers):
        last = number + 1 == len(image.layers)
        progress(f"layer {number + 1} of {len(image.layers)}: {layer.diff_id.partition(':')[2][:16]}")
        path = folder / f"layer-{number}.squashfs"
        with tempfile.TemporaryFile(dir=folder) as unpacked:
            room -= _unpack(image, layer, unpacked, room)
            unpacked.seek(0)
            _write_layer(image.where(layer), unpacked, path, below, volumes if last else ())
        written.append(path)
    return written


# --- from the blob to the tar ---


def _unpack(image: Image, layer: Layer, target: IO[bytes], room: int) -> int:
    """Write the layer's tar to `target`; return its size in bytes.

    Raises ImageError unless blob and tar have the digests that are stated, and the tar at most `room` bytes.
    """
    where, cure = image.where(layer), "make the image again, or copy it again"
    blob, content = hashlib.sha256(), hashlib.sha256()
    with image.open(layer) as stored, tempfile.TemporaryFile() as packed:
        while chunk := stored.read(_CHUNK):
            blob.update(chunk)
            packed.write(chunk)
        packed.seek(0)
        try:
            for chunk in _decompressed(packed):
                content.update(chunk)
                if target.tell() + len(chunk) > room:
                    expected = f"layers of at most {LARGEST_UNPACKED} bytes once unpacked"
                    raise ImageError(where, expected, "more", "make the image again")
                target.write(chunk)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ImageError(where, "a compressed tar", f"damage: {error}", cure) from error
    for digest, stated in ((blob, layer.digest), (content, layer.diff_id)):
        if stated is not None and stated != f"sha256:{digest.hexdigest()}":
            raise ImageError(where, stated, f"sha256:{digest.hexdigest()}", cure)
    return target.tell()


def _decompressed(packed: IO[bytes]) -> Iterator[bytes]:
    magic = packed.read(4)
    packed.seek(0)
    if magic.startswith(b"\x1f\x8b"):
        with gzip.open(packed) as file:
            yield from iter(lambda: file.read(_CHUNK), b"")
    elif magic == b"\x28\xb5\x2f\xfd":
        yield from _decompressed_by_zstd(packed)
    else:
        yield from iter(lambda: packed.read(_CHUNK), b"")


def _decompressed_by_zstd(packed: IO[bytes]) -> Iterator[bytes]:
    os.lseek(packed.fileno(), 0, os.SEEK_SET)  # zstd shares the descriptor and not Python's buffer
    command = ["zstd", "--decompress", "--stdout", "--quiet"]
    with subprocess.Popen(command, stdin=packed, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        yield from iter(lambda: process.stdout.read(_CHUNK), b"")  # type: ignore[union-attr]
        message = process.stderr.read().decode(errors="replace").strip()
    if process.returncode:
        raise EOFError(message)


# --- from the tar to the squashfs ---


@dataclass
class _Below:
    """What the layers below have, by its path from the root: folders, and the targets of symbolic links."""

    folders: dict[str, tarfile.TarInfo] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)

    def take(self, members: Mapping[str, tarfile.TarInfo]) -> None:
        """Forget what this layer removes, hides or has itself, but for its links."""
        self.folders = _left(self.folders, members)
        self.links = _left(self.links, members)
        self.links.update(_links(members))


def _write_layer(where: str, layer: IO[bytes], path: Path, below: _Below, volumes: Sequence[str]) -> None:
    # -tar: names, owners, modes, links and attributes come from the tar on standard input.
    command = ["mksquashfs", "-", str(path), "-tar", "-quiet", "-no-progress", "-comp", "zstd"]
    command += ["-Xcompression-level", "1", "-noappend", "-exit-on-error", "-root-mode", "0755"]
    try:
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process:
            assert process.stdin is not None and process.stdout is not None
            with contextlib.suppress(BrokenPipeError), process.stdin:  # mksquashfs has ended, and says why
                _translate(where, layer, process.stdin, below, volumes)
            message = process.stdout.read().decode(errors="replace").strip()
        if process.returncode:
            found = (message.splitlines() or [f"status {process.returncode}"])[-1]
            raise ImageError(where, "a layer that mksquashfs can write", found, "see the message; make the image again")
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _translate(where: str, layer: IO[bytes], target: IO[bytes], below: _Below, volumes: Sequence[str]) -> None:
    """Write the tar again with overlayfs's own marks, and with the folders of `volumes`.

    What this layer has and removes becomes part of `below`.
    """
    try:
        with BoundedTar.open(fileobj=layer, mode="r:") as source:
            members = _placed(where, _by_name(where, source), below.links)
            below.take(members)
            within = [f"{_resolved(where, volume, below.links)}/." for volume in volumes]
            _add_folders([*members, *within], members, below.folders)
            opaque = _opaque_folders(members)
            with tarfile.open(fileobj=target, mode="w|", format=tarfile.PAX_FORMAT) as translated:
                for name, member in sorted(members.items(), key=_order):
                    entry = _translated(name, member, members)
                    if entry is None:
                        continue
                    if name in opaque:
                        entry.pax_headers = {**entry.pax_headers, _OPAQUE_ATTRIBUTE: "y"}
                    translated.addfile(entry, source.extractfile(member) if entry.isreg() else None)
    except ContentMismatchError as error:
        raise ImageError(where, error.expected, error.found, "make the image again") from error
    except (tarfile.TarError, EOFError, ValueError, OverflowError, OSError) as error:  # numbers that are none
        if isinstance(error, OSError) and error.errno is not None:  # of a file of ours, and not tarfile's own
            raise
        raise ImageError(where, "a tar archive", f"damage: {error}", "make the image again") from error
    below.folders.update({name: member for name, member in members.items() if member.isdir()})


def _by_name(where: str, source: BoundedTar) -> dict[str, tarfile.TarInfo]:
    """The members by their path from the root; a later one of the same name takes the place of the earlier."""
    members: dict[str, tarfile.TarInfo] = {}
    for member in source.bounded_members():
        parts = [part for part in member.name.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise ImageError(f"{where}: {member.name}", "a name below the root", "..", "make the image again")
        _refuse_long(where, member.name, parts)
        members.pop("/".join(parts), None)
        members["/".join(parts)] = member
    for name, member in members.items():
        target = "/".join(part for part in member.linkname.split("/") if part not in ("", "."))
        end = members.get(target, member)  # mksquashfs 4.5 does not survive a link that leads to itself
        if member.islnk() and (end.islnk() or end.isdir()):
            found = (
                f"a hard link to {member.linkname}, which is {'no file' if target in members else 'not'} in the layer"
            )
            raise ImageError(f"{where}: {name}", "a file of the layer", found, "make the image again")
    return members


def _refuse_long(where: str, name: str, parts: Sequence[str]) -> None:
    longest = max([len(os.fsencode(part)) for part in parts], default=0)
    if longest > _LONGEST_NAME or len(os.fsencode(name)) > _LONGEST_PATH:
        expected = f"names of at most {_LONGEST_NAME} bytes, in paths of at most {_LONGEST_PATH}"
        raise ImageError(f"{where}: {name[:100]}...", expected, "a longer one", "make the image again")


def _order(item: tuple[str, tarfile.TarInfo]) -> tuple[int, str]:
    """Sort the members: folders before what is in them, and hard links after what they lead to."""
    name, member = item
    if member.isdir():
        return 0, name
    return (2, name) if member.islnk() else (1, name)


def _opaque_folders(members: Mapping[str, tarfile.TarInfo]) -> set[str]:
    """Return the folders that hide what is below: they are marked so, or are removed and made again in one layer."""
    opaque = set()
    for name in members:
        parent, _, last = name.rpartition("/")
        if last == _OPAQUE:
            opaque.add(parent)
        elif last.startswith(_WHITEOUT):
            again = _join(parent, last[len(_WHITEOUT) :])
            if again in members and members[again].isdir():
                opaque.add(again)
    return opaque


def _add_folders(
    paths: Sequence[str], members: dict[str, tarfile.TarInfo], folders: Mapping[str, tarfile.TarInfo]
) -> None:
    """Add the folders on the way to the paths that this layer does not name."""
    for path in paths:
        for folder in _ways(path):
            if folder and folder not in members:
                members[folder] = _folder(folder, folders)


def _folder(path: str, folders: Mapping[str, tarfile.TarInfo]) -> tarfile.TarInfo:
    """The folder as in a layer below, or else as mkdir makes it."""
    made = copy.copy(folders.get(path))
    if made is None:
        made = tarfile.TarInfo()
        made.mode, made.type = 0o755, tarfile.DIRTYPE
    made.name = path
    return made


def _left(below: Mapping[str, _T], members: Mapping[str, tarfile.TarInfo]) -> dict[str, _T]:
    """The paths of the layers below that this layer neither has nor removes nor hides."""
    opaque = _opaque_folders(members)
    marks = (name.rpartition("/") for name in members)
    gone = {_join(parent, last[len(_WHITEOUT) :]) for parent, _, last in marks if last.startswith(_WHITEOUT)}
    gone |= {name for name, member in members.items() if not member.isdir()}
    return {
        path: found
        for path, found in below.items()
        if not (path in members or path in gone or any(way in gone or way in opaque for way in _ways(path)))
    }


def _ways(path: str) -> Iterator[str]:
    """The folders on the way to the path, with the root."""
    parts = path.split("/")
    return ("/".join(parts[:depth]) for depth in range(len(parts)))


def _placed(where: str, members: Mapping[str, tarfile.TarInfo], links: Mapping[str, str]) -> dict[str, tarfile.TarInfo]:
    """The members in the folders to which this layer's links lead, and those below: engines unpack them there."""
    links = {**_left(links, members), **_links(members)}
    folders = {folder: _resolved(where, folder, links) for folder in {_parent(name) for name in members}}
    for member in members.values():
        if member.islnk():
            parts = [part for part in member.linkname.split("/") if part not in ("", ".")]
            member.linkname = _join(folders["/".join(parts[:-1])], parts[-1])
    return {_join(folders[_parent(name)], name.rpartition("/")[2]): member for name, member in members.items()}


def _links(members: Mapping[str, tarfile.TarInfo]) -> dict[str, str]:
    return {name: member.linkname for name, member in members.items() if member.issym()}


def _parent(name: str) -> str:
    return name.rpartition("/")[0]


def _resolved(where: str, path: str, links: Mapping[str, str]) -> str:
    """The path from the root to which the image's symbolic links lead. Raises ImageError."""
    rest, done, followed = path.split("/")[::-1], list[str](), 0
    while rest:
        part = rest.pop()
        target = links.get("/".join([*done, part]))
        if part == "..":
            del done[-1:]
        elif target is not None:
            followed += 1
            if followed > _MOST_LINKS:
                found = "links that lead to themselves"
                raise ImageError(f"{where}: {path}", "the path of a folder", found, "make the image again")
            done = [] if target.startswith("/") else done
            rest += target.split("/")[::-1]
        elif part not in ("", "."):
            done.append(part)
    _refuse_long(where, "/".join(done), done)
    return "/".join(done)


def _translated(name: str, member: tarfile.TarInfo, members: dict[str, tarfile.TarInfo]) -> tarfile.TarInfo | None:
    """The entry for the squashfs; None for a mark that needs none."""
    parent, _, last = name.rpartition("/")
    entry = copy.copy(member)
    entry.name = name or "."
    if member.islnk():
        entry.linkname = "/".join(part for part in member.linkname.split("/") if part not in ("", "."))
    if not last.startswith(_WHITEOUT):
        return entry
    removed = _join(parent, last[len(_WHITEOUT) :])
    if last == _OPAQUE or removed in members:
        return None
    entry = tarfile.TarInfo(removed)
    entry.type, entry.mode = tarfile.CHRTYPE, stat.S_IRUSR | stat.S_IWUSR
    return entry


def _join(parent: str, name: str) -> str:
    return f"{parent}/{name}" if parent else name
