"""Find the set: in an override, else in a tree, else in a release. It comes whole from one of them, or not at all.

The numbers 1 to 3 are those of the order in docs/architecture.md and in the message when nothing is found.
"""

import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from supermachine_kernel._assets import ASSETS, SET

from ..errors import BuildError
from ..lock import LockedSet, read_lock

BUILD_INFO = "build-info.json"
TEMPORARY_FOLDERS = {Path(path).resolve() for path in (tempfile.gettempdir(), "/tmp", "/var/tmp", "/usr/tmp")}


class NoSourceError(BuildError):
    """No source has a set. The error lists each source that was tried, in order, and what to do for it."""


@dataclass(frozen=True)
class Source:
    """A resolved set: `kind` is "override", "tree", "release" or "published".

    `files` has a path for every asset's name; `urls` has, for files that were downloaded, where they came from.
    """

    kind: str
    files: Mapping[str, Path]
    build_info: Optional[Path] = None
    urls: Mapping[str, str] = field(default_factory=dict)

    def name_of(self, asset_name: str) -> str:
        """What an error calls the file of an asset: its URL where it has one, else its path."""
        return self.urls.get(asset_name, str(self.files[asset_name]))

    @property
    def folders(self) -> str:
        """The folders that the files lie in, as a line of text."""
        return ", ".join(dict.fromkeys(str(path.parent) for path in self.files.values()))


def resolve(project: Path, environ: Mapping[str, str], *, local_only: bool = False) -> Source:
    """Find the set for a build of the checkout or sdist `project`.

    Single-file overrides win over any source; what they leave open comes from one source. With `local_only`
    the release is not considered. Raises NoSourceError, or BuildError for a source that is there and not right.
    """
    singles = _single_files(environ)
    if len(singles) == len(ASSETS):
        return Source("override", singles)
    source = _override(environ) or _tree(project, environ)  # 1, 2
    if source is None and not local_only:
        source = _release(project, environ)  # 3
    if source is None:
        raise NoSourceError(_no_source_message(project, environ, "3. release: not considered for an editable install"))
    if not singles:
        return source
    return Source("override", {**source.files, **singles}, source.build_info)


def _no_source_message(project: Path, environ: Mapping[str, str], release: str) -> str:
    trees = ", ".join(str(tree) for tree in tree_candidates(project, environ))
    no_tree = f"no out/{SET}/ in {trees}" if trees else "SUPERMACHINE_KERNEL_BUILD is set empty; unset it"
    return "\n".join(
        (
            f"no asset set for {SET} found; tried, in this order:",
            "  1. override: SUPERMACHINE_ASSETS_DIR is not set; set it to a folder with "
            + ", ".join(asset.name for asset in ASSETS),
            f"  2. tree: {no_tree}; run bash kernel-build/scripts/build.sh (on Debian or Ubuntu), "
            "or set SUPERMACHINE_KERNEL_BUILD to a tree that is built",
            f"  {release}",
        )
    )


def _single_files(environ: Mapping[str, str]) -> dict[str, Path]:
    return {
        asset.name: _readable(Path(environ[asset.variable]).absolute(), asset.variable)
        for asset in ASSETS
        if environ.get(asset.variable)
    }


def _override(environ: Mapping[str, str]) -> Optional[Source]:
    if not environ.get("SUPERMACHINE_ASSETS_DIR"):
        return None
    folder = Path(environ["SUPERMACHINE_ASSETS_DIR"]).absolute()
    if not os.path.isdir(folder):
        found = "a file" if _is_there(folder) and os.path.exists(folder) else "nothing"
        expected, cure = "a folder with the whole set", "set it to that folder, or unset it"
        raise BuildError(f"SUPERMACHINE_ASSETS_DIR={folder}", expected, found, cure)
    cure = "put them there, or unset SUPERMACHINE_ASSETS_DIR: a set comes whole from one source"
    return _folder("override", folder, environ, cure)


def _tree(project: Path, environ: Mapping[str, str]) -> Optional[Source]:
    beside = project.parent / "kernel-build"
    if environ.get("SUPERMACHINE_KERNEL_BUILD") is None and os.path.isdir(beside / "out" / SET):
        why = why_a_strangers(beside, project)
        if why:
            cure = "set SUPERMACHINE_KERNEL_BUILD to it, if it is yours"
            print(f"warning: {beside} is passed over, because {why}; {cure}", file=sys.stderr)
    for tree in tree_candidates(project, environ):
        folder = tree / "out" / SET
        if _is_there(folder):
            cure = (
                f"run bash {tree / 'scripts' / 'build.sh'}, or set SUPERMACHINE_KERNEL_BUILD= (empty) to go on "
                "without the tree: a set comes whole from one source"
            )
            if not os.path.isdir(folder):
                found = "a file" if os.path.exists(folder) else f"a dangling link to {os.readlink(folder)}"
                raise BuildError(str(folder), "the folder of a tree's set", found, f"remove it, then {cure}")
            return _folder("tree", folder, environ, cure)
    if environ.get("SUPERMACHINE_KERNEL_BUILD"):
        subject = f"SUPERMACHINE_KERNEL_BUILD={environ['SUPERMACHINE_KERNEL_BUILD']}"
        expected, cure = f"a kernel-build tree with out/{SET}/", "build it there, or unset the variable"
        raise BuildError(subject, expected, "no such folder", cure)
    return None


def tree_candidates(project: Path, environ: Mapping[str, str]) -> list[Path]:
    """The folders that may be the tree, in the order in which they are looked at."""
    chosen = environ.get("SUPERMACHINE_KERNEL_BUILD")
    if chosen is not None:
        return [Path(chosen).absolute()] if chosen else []
    beside = project.parent / "kernel-build"
    return [project / "kernel-build", *([] if why_a_strangers(beside, project) else [beside])]


def why_a_strangers(beside: Path, project: Path) -> str:
    """Why the folder `beside` the checkout may be somebody else's, or "": pip unpacks and clones in shared folders.

    It counts only where it and the checkout belong to the user who builds, nobody else can write to the folder
    around them, and that is no temporary one.
    """
    if (project / "PKG-INFO").is_file():
        return "this is an unpacked sdist"
    around = beside.resolve().parent
    for temporary in TEMPORARY_FOLDERS:
        if temporary in (around, *around.parents):
            return f"{temporary} is a folder for temporary files"
    if hasattr(os, "geteuid"):
        found = [path.stat() for path in (beside, project, around) if path.exists()]
        if any(status.st_uid != os.geteuid() for status in found[:-1]) or found[-1].st_uid not in (0, os.geteuid()):
            return f"it, {project} or {around} belongs to another user"
        if found[-1].st_mode & 0o022:
            return f"others can write to {around}"
    return ""


def _release(project: Path, environ: Mapping[str, str]) -> Source:
    from ..fetch.locked_files import OfflineError, fetch

    locked: Optional[LockedSet] = read_lock(project).set(SET)
    if locked is None:
        raise NoSourceError(
            _no_source_message(
                project,
                environ,
                "3. release: assets.lock.json has no locked release for this version; use one of the above, or "
                "a version that has been released",
            )
        )
    try:
        return Source("release", fetch(locked, environ))
    except OfflineError as error:
        raise NoSourceError(_no_source_message(project, environ, f"3. release: {error}")) from error


def _folder(kind: str, folder: Path, environ: Mapping[str, str], cure: str) -> Source:
    """The set in a flat folder; what is overridden file by file may be missing there."""
    wanted = [asset for asset in ASSETS if not environ.get(asset.variable)]
    missing = [asset.name for asset in wanted if not _is_there(folder / asset.name)]
    if missing:
        names = ", ".join(asset.name for asset in wanted)
        raise BuildError(str(folder), names, f"no {', '.join(missing)}", cure)
    files = {asset.name: _readable(folder / asset.name, f"the {kind}") for asset in wanted}
    info = folder / BUILD_INFO
    return Source(kind, files, info if info.is_file() else None)


def _readable(path: Path, wanted_by: str) -> Path:
    """`path`, if it is a file that can be read. Raises BuildError."""
    found = ""
    if not _is_there(path):
        found = "nothing"
    elif os.path.islink(path) and not os.path.exists(path):
        found = f"a dangling link to {path.readlink()}"
    elif os.path.isdir(path):
        found = "a folder"
    elif not path.is_file():
        found = "a device, socket or pipe"
    elif not _may_be_read(path):
        found = "a file that may not be read"
    if found:
        raise BuildError(str(path), f"a readable file ({wanted_by})", found, "name the file itself")
    return path


def _is_there(path: Path) -> bool:
    """Say whether anything is there, even a dangling link. Raises BuildError where this user may not know."""
    try:
        os.lstat(path)
    except PermissionError as error:
        found = f"{error.strerror} for a folder on the way"
        cure = "give the right to it, or name another place"
        raise BuildError(str(path), "to look whether it is there", found, cure) from error
    except OSError:  # there is none, or its name is too long
        return False
    return True


def _may_be_read(path: Path) -> bool:
    """Say whether this user may read the file, by opening it: access(2) asks for the real user."""
    try:
        path.open("rb").close()
    except PermissionError:
        return False
    return True
