"""A record, beside the assets in a folder, of the files whose content was proven.

It lets a later start leave the assets unread. Like git's index it has the facts about each file that the system
changes with the content: a file with the same facts has the same content.
"""

import os
import stat
import time

from ._assets import ASSETS, manifest
from ._folder import Folder
from ._package import installed_version
from ._write import NewFile

NAME = ".supermachine-proof"
"""The record's file."""

_LONGEST = 1 << 14
_WAIT = 0.02
"""Seconds to wait for the file system's clock to go on; the coarsest of Linux does every hundredth of one."""

_COARSE = 2 * 10**9
"""Nanoseconds between two times of a file system that keeps no fractions of a second (FAT: two seconds)."""


def is_proven(folder: Folder) -> bool:
    """Whether the record says that the files in `folder` are this version's assets, and they have not changed since.

    A record that somebody else could have written says nothing.
    """
    if os.name != "posix":
        return False
    try:
        descriptor = folder.open(NAME, os.O_RDONLY)
    except OSError:
        return False
    try:
        facts = os.fstat(descriptor)
        if not _is_ours(facts) or facts.st_size > _LONGEST:
            return False
        return os.read(descriptor, _LONGEST) == _record([folder.stat(asset.name) for asset in ASSETS])
    except OSError:
        return False
    finally:
        os.close(descriptor)


def write_proof(folder: Folder, proven: "list[os.stat_result]") -> None:
    """Record what was proven: the facts about each asset's file, in the order of the table.

    The content of all of them is on disk by now. Of the record itself a power cut may leave a part, which then is no
    record. Where it cannot be written, or the times and numbers of the file system say nothing, the next start reads
    the files.
    """
    if os.name != "posix" or not all(facts.st_ino and facts.st_ctime_ns for facts in proven):
        return
    try:
        file = NewFile(folder, NAME)
        try:
            file.write(_record(proven))
            file.set_mode(0o600)
            if _is_later(file.descriptor, max(facts.st_ctime_ns for facts in proven)):
                file.rename()
        finally:
            file.close()
    except OSError:
        pass


def _is_later(descriptor: int, changed: int) -> bool:
    """Whether the file system's clock has gone on since `changed`, a time in nanoseconds, at which a file changed.

    If it has not, the file could change again and have the same time. It is waited for, as it goes on in steps.
    """
    steps = _COARSE if changed % 10**9 == 0 else 0
    deadline = time.monotonic() + _WAIT
    while os.fstat(descriptor).st_ctime_ns <= changed + steps:
        if time.monotonic() > deadline or steps:
            return False
        time.sleep(0.001)
        os.utime(descriptor)
    return True


def _is_ours(facts: os.stat_result) -> bool:
    """Whether only this user could have written the file."""
    own = facts.st_uid == os.geteuid() and facts.st_nlink == 1
    return own and stat.S_ISREG(facts.st_mode) and not facts.st_mode & 0o022


def _record(files: "list[os.stat_result]") -> bytes:
    lines = [f"supermachine-kernel proof 1: {installed_version()} {manifest()['set_digest']}"]
    for asset, facts in zip(ASSETS, files):
        numbers = (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
        lines.append(f"{asset.name} {' '.join(map(str, numbers))} {facts.st_mode:o} {facts.st_uid}")
    return "\n".join([*lines, ""]).encode()
