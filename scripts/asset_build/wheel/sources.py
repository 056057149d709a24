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

from ..errors import BuildError
from ..guest_sets import GuestSet, chosen_set
from ..lock import LockedSet, read_lock

BUILD_INFO = "build-info.json"
TEMPORARY_FOLDERS = {Path(path).resolve() for path in (tempfile.gettempdir(), "/tmp", "/var/tmp", "/usr/tmp")}


class NoSourceError(BuildError):
    """No source has a set. The error lists each source that was tried, in order, and what to do for it."""


@dataclass(frozen=True)
class Source:
    """A resolved set: its row in the table, and where its files are.

    `kind` is "override", "tree", "release" or "published". `files` has a path for every asset's name; `urls` has, for
    files that were downloaded, where they came from.
    """

    guest_set: GuestSet
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
    """Find the set for a build of the checkout or sdist `project`: the one of SUPERMACHINE_SET, or of this machine.

    Single-file overrides win over any source; what they leave open comes from one source. With `local_only`
    the release is not considered. Raises NoSourceError, or BuildError for a source that is there and not right.
    """
    wanted = chosen_set(environ)
    singles = _single_files(wanted, environ)
    if len(singles) == len(wanted.assets):
        return Source(wanted, "override", singles)
    source = _override(wanted, environ) or _tree(wanted, project, environ)  # 1, 2
    if source is None and not local_only:
        source = _release(wanted, project, environ)  # 3
    if source is None:
        not_considered = "3. release: not considered for an editable install"
        raise NoSourceError(_no_source_message(wanted, project, environ, not_considered))
    if not singles:
        return source
    return Source(wanted, "override", {**source.files, **singles}, source.build_info)


def _no_source_message(wanted: GuestSet, project: Path, environ: Mapping[str, str], release: str) -> str:
    trees = ", ".join(str(tree) for tree in tree_candidates(project, environ))
    no_tree = f"no out/{wanted.name}/ in {trees}" if trees else "SUPERMACHINE_KERNEL_BUILD is set empty; unset it"
    return "\n".join(
        (
            f"no asset set for {wanted.name} found; tried, in this order:",
            "  1. override: SUPERMACHINE_ASSETS_DIR is not set; set it to a folder with "
            + ", ".join(asset.name for asset in wanted.assets),
            f"  2. tree: {no_tree}; run bash kernel-build/scripts/build.sh --set {wanted.name} (on Debian or Ubuntu), "
            "or set SUPERMACHINE_KERNEL_BUILD to a tree that is built",
            f"  {release}",
        )
    )


def _single_files(wanted: GuestSet, environ: Mapping[str, str]) -> dict[str, Path]:
    return {
        asset.name: _readable(Path(environ[asset.variable]).absolute(), asset.variable)
        for asset in wanted.assets
        if environ.get(asset.variable)
    }


def _override(wanted: GuestSet, environ: Mapping[str, str]) -> Optional[Source]:
    if not environ.get("SUPERMACHINE_ASSETS_DIR"):
        return None
    folder = Path(environ["SUPERMACHINE_ASSETS_DIR"]).absolute()
    if not os.path.isdir(folder):
        found = "a file" if _is_there(folder) and os.path.exists(folder) else "nothing"
        expected, cure = "a folder with the whole set", "set it to that folder, or unset it"
        raise BuildError(f"SUPERMACHINE_ASSETS_DIR={folder}", expected, found, cure)
    cure = "put them there, or unset SUPERMACHINE_ASSETS_DIR: a set comes whole from one source"
    return _folder(wanted, "override", folder, environ, cure)


def _tree(wanted: GuestSet, project: Path, environ: Mapping[str, str]) -> Optional[Source]:
    beside = project.parent / "kernel-build"
    if environ.get("SUPERMACHINE_KERNEL_BUILD") is None and os.path.isdir(beside / "out" / wanted.name):
        why = why_a_strangers(beside, project)
        if why:
            cure = "set SUPERMACHINE_KERNEL_BUILD to it, if it is yours"
            print(f"warning: {beside} is passed over, because {why}; {cure}", file=sys.stderr)
    for tree in tree_candidates(project, environ):
        folder = tree / "out" / wanted.name
        if _is_there(folder):
            cure = (
                f"run bash {tree / 'scripts' / 'build.sh'} --set {wanted.name}, or set SUPERMACHINE_KERNEL_BUILD= "
                "(empty) to go on without the tree: a set comes whole from one source"
            )
            if not os.path.isdir(folder):
                found = "a file" if os.path.exists(folder) else f"a dangling link to {os.readlink(folder)}"
                raise BuildError(str(folder), "the folder of a tree's set", found, f"remove it, then {cure}")
            return _folder(wanted, "tree", folder, environ, cure)
    if environ.get("SUPERMACHINE_KERNEL_BUILD"):
        subject = f"SUPERMACHINE_KERNEL_BUILD={environ['SUPERMACHINE_KERNEL_BUILD']}"
        expected, cure = f"a kernel-build tree with out/{wanted.name}/", "build it there, or unset the variable"
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


def _release(wanted: GuestSet, project: Path, environ: Mapping[str, str]) -> Source:
    from ..fetch.locked_files import OfflineError, fetch

    locked: Optional[LockedSet] = read_lock(project).set(wanted.name)
    if locked is None:
        raise NoSourceError(
            _no_source_message(
                wanted,
                project,
                environ,
                "3. release: assets.lock.json has no locked release for this version; use one of the above, or "
                "a version that has been released",
            )
        )
    try:
        return Source(wanted, "release", fetch(locked, environ))
    except OfflineError as error:
        raise NoSourceError(_no_source_message(wanted, project, environ, f"3. release: {error}")) from error


def _folder(wanted: GuestSet, kind: str, folder: Path, environ: Mapping[str, str], cure: str) -> Source:
    """The set in a flat folder; what is overridden file by file may be missing there."""
    names = [asset.name for asset in wanted.assets if not environ.get(asset.variable)]
    missing = [name for name in names if not _is_there(folder / name)]
    if missing:
        raise BuildError(str(folder), ", ".join(names), f"no {', '.join(missing)}", cure)
    files = {name: _readable(folder / name, f"the {kind}") for name in names}
    info = folder / BUILD_INFO
    return Source(wanted, kind, files, info if info.is_file() else None)


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
