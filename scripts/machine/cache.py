"""The project's folder in the user's cache, where programs keep what they make once and run again."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

from ..asset_build.errors import BuildError
from ..asset_build.fetch.cache import user_cache
from ..asset_build.file_lock import file_lock
from .errors import SetupError
from .program import log

_told: set[Path] = set()


def cache_home() -> Path:
    """The project's folder in the user's cache: what lies there is run, so nobody else may be able to write to it.

    Root with the HOME of another user (sudo, a container) gets the folder in root's own home. Raises SetupError
    where there is no such folder.
    """
    try:
        wanted = user_cache(os.environ)
    except BuildError as error:
        raise SetupError(*error.fields().values()) from error
    reason = why_others_can_write(wanted)
    if reason is None:
        return wanted
    with contextlib.suppress(KeyError):
        own = user_cache({"HOME": pwd.getpwuid(os.geteuid()).pw_dir})
        if why_others_can_write(own) is None:
            if wanted not in _told:
                log(f"{wanted} is left alone, since {reason}; {own} is used")
                _told.add(wanted)
            return own
    expected = "a cache folder to which nobody else can write"
    raise SetupError(str(wanted), expected, reason, "set XDG_CACHE_HOME to a folder of your own")


def why_others_can_write(path: Path) -> str | None:
    """Why somebody else than this user and root can change what lies at `path`; None if nobody can.

    Judged are every folder and every link that the name is looked up through, as far as they exist.
    """
    end = path.resolve()
    for folder in _on_the_way(path):
        try:
            found = folder.lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            return f"{folder} cannot be looked at: {error.strerror}"
        if found.st_uid not in (os.geteuid(), 0):
            return f"{folder} belongs to user id {found.st_uid}"
        if stat.S_ISLNK(found.st_mode):  # the mode of a link says nothing
            continue
        # In a sticky folder, as /tmp is, nobody can replace what is not theirs.
        sticky = folder != end and found.st_mode & stat.S_ISVTX
        if not sticky and found.st_mode & stat.S_IWOTH:
            return f"everybody can write to {folder}"
        if not sticky and found.st_mode & stat.S_IWGRP and not _is_group_of_one(found.st_gid):
            return f"the group with id {found.st_gid} can write to {folder}"
    return None


def _on_the_way(path: Path) -> Iterator[Path]:
    """The folders and links that the name `path` is looked up through, from the root to its end."""
    place, names, links = Path("/"), [*path.absolute().parts[:0:-1]], 0
    yield place
    while names:
        name = names.pop()
        place = place.parent if name == ".." else place / name
        yield place
        if place.is_symlink() and links < 40:
            target, links = Path(os.readlink(place)), links + 1
            names += [name for name in reversed(target.parts) if name != target.root]
            place = Path("/") if target.is_absolute() else place.parent


def _is_group_of_one(group: int) -> bool:
    """Whether it is root's or the user's own group, which many systems make for each user, without members."""
    if group == 0:
        return True
    try:
        found, user = grp.getgrgid(group), pwd.getpwuid(os.geteuid())
    except KeyError:
        return False
    return found.gr_gid == user.pw_gid and found.gr_name == user.pw_name and not {*found.gr_mem} - {user.pw_name}


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of that file, alone on this machine. Raises SetupError if the file cannot be made.

    Where the file system has no locks, the work goes on after a line that says so.
    """
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            not_held = stack.enter_context(file_lock(path))
        except OSError as error:
            found, cure = error.strerror or str(error), "set XDG_CACHE_HOME to another"
            raise SetupError(str(path.parent), "a cache folder to write to", found, cure) from error
        if not_held:
            log(f"warning: {path}: cannot be locked ({not_held}); run one program of this project at a time")
        yield
