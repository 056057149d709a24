"""Where the cache is, and how builds share it; its faults are in test_transfer_faults."""

from __future__ import annotations

import hashlib
import os
import sys
import threading
import time
from pathlib import Path

import pytest

from scripts.asset_build.errors import BuildError
from scripts.asset_build.fetch.cache import Cache, cache_folder
from scripts.asset_build.lock import LockedFile

WANTED = LockedFile(7, hashlib.sha256(b"content").hexdigest())
KINDS = ["link", "hard link", "pipe"]


def put(kind: str, path: Path) -> Path:
    """Put what somebody else may at `path`; a file that is to stay as it is, linked there or not."""
    outside = path.parent / "outside"
    outside.write_text("important")
    if kind == "link":
        path.symlink_to(outside)
    elif kind == "hard link":
        os.link(outside, path)
    else:
        os.mkfifo(path)
    return outside


@pytest.mark.parametrize(
    ("platform", "environ", "expected"),
    [
        ("linux", {"SUPERMACHINE_CACHE_DIR": "/x", "XDG_CACHE_HOME": "/y", "HOME": "/z"}, "/x"),
        ("linux", {"XDG_CACHE_HOME": "/y", "HOME": "/z"}, "/y/supermachine-kernel/release"),
        ("linux", {"HOME": "/z"}, "/z/.cache/supermachine-kernel/release"),
        ("linux", {"HOME": "/z", "XDG_CACHE_HOME": "y"}, "/z/.cache/supermachine-kernel/release"),
        (
            "linux",
            {"HOME": "/z", "XDG_CACHE_HOME": "", "SUPERMACHINE_CACHE_DIR": ""},
            "/z/.cache/supermachine-kernel/release",
        ),
        ("darwin", {"SUPERMACHINE_CACHE_DIR": "/x", "HOME": "/z"}, "/x"),
        ("darwin", {"XDG_CACHE_HOME": "/y", "HOME": "/z"}, "/z/Library/Caches/supermachine-kernel/release"),
    ],
)
def test_the_folder(platform: str, environ: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    assert cache_folder(environ) == Path(expected)


def test_an_entry_has_its_name_when_it_is_whole(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "deep" / "cache")
    with cache.entry(WANTED) as file:
        file.write(b"content")
        assert cache.find(WANTED) is None
    assert cache.find(WANTED) == cache.path(WANTED)


def test_an_entry_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Cache(tmp_path).entry(WANTED) as file:
        file.write(b"cont")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"contenT", b"content "])
def test_an_entry_that_is_not_what_it_says_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / WANTED.sha256).write_bytes(content)
    assert Cache(tmp_path).find(WANTED) is None


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that is run under a number."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 1 << 30)
    assert cache_folder({"XDG_CACHE_HOME": "/y"}) == Path("/y/supermachine-kernel/release")
    with pytest.raises(BuildError, match="SUPERMACHINE_CACHE_DIR"):
        cache_folder({})


def test_a_folder_under_an_entrys_name_is_said_before_the_fetch(tmp_path: Path) -> None:
    (tmp_path / WANTED.sha256).mkdir()
    assert Cache(tmp_path).find(WANTED) is None
    with pytest.raises(BuildError, match=f"{WANTED.sha256}: .* a folder"), Cache(tmp_path).entry(WANTED):
        pytest.fail("nothing is to be fetched")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_under_an_entrys_name_is_replaced(tmp_path: Path, kind: str) -> None:
    outside = put(kind, tmp_path / WANTED.sha256)
    assert Cache(tmp_path).find(WANTED) is None
    with Cache(tmp_path).entry(WANTED) as file:
        file.write(b"content")
    assert Cache(tmp_path).find(WANTED) == tmp_path / WANTED.sha256
    assert outside.read_text() == "important"


@pytest.mark.parametrize("kind", KINDS)
def test_a_lock_that_is_not_ours_is_let_be(tmp_path: Path, kind: str) -> None:
    outside = put(kind, tmp_path / f"{WANTED.sha256}.lock")
    with Cache(tmp_path).alone(WANTED, threading.Event(), 0.1):
        pass
    assert outside.read_text() == "important"


def test_only_what_killed_builds_left_is_swept(tmp_path: Path) -> None:
    own = f"{WANTED.sha256}.123-0123abcd.tmp"
    others = ["x.tmp", "editor.1-2.tmp", f"{WANTED.sha256}.tmp", f"{own}.tmp", f"x{own}"]
    link, young = f"{WANTED.sha256}.124-0123abcd.tmp", f"{WANTED.sha256}.125-0123abcd.tmp"
    for name in (own, "probe.1-0123abcd.tmp", *others, young):
        (tmp_path / name).touch()
    (tmp_path / link).symlink_to(others[0])
    for path in tmp_path.iterdir():
        if path.name != young:  # it may be another build's, at work
            os.utime(path, (time.time() - 2 * 24 * 3600,) * 2, follow_symlinks=False)
    assert Cache(tmp_path).prepare() is None
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, link, young])


def test_one_at_a_time(tmp_path: Path) -> None:
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        with Cache(tmp_path).alone(WANTED, threading.Event(), 30):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.02)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 8


def test_patience_with_another_build_ends(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    with cache.alone(WANTED, threading.Event(), 30), cache.alone(WANTED, threading.Event(), 0.1):
        pass
