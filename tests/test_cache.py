"""Where the cache is, and how builds share it; its faults are in test_transfer_faults."""

from __future__ import annotations

import hashlib
import sys
import threading
import time
from pathlib import Path

import pytest

from scripts.asset_build.cache import Cache, cache_folder
from scripts.asset_build.lock import LockedFile

WANTED = LockedFile(7, hashlib.sha256(b"content").hexdigest())


@pytest.mark.skipif(sys.platform == "darwin", reason="the XDG folders are Linux's")
@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"SUPERMACHINE_CACHE_DIR": "/x", "XDG_CACHE_HOME": "/y", "HOME": "/z"}, "/x"),
        ({"XDG_CACHE_HOME": "/y", "HOME": "/z"}, "/y/supermachine-kernel/release"),
        ({"HOME": "/z"}, "/z/.cache/supermachine-kernel/release"),
        ({"HOME": "/z", "XDG_CACHE_HOME": "", "SUPERMACHINE_CACHE_DIR": ""}, "/z/.cache/supermachine-kernel/release"),
    ],
)
def test_the_folder(environ: dict[str, str], expected: str) -> None:
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


def test_a_folder_under_an_entrys_name_is_none(tmp_path: Path) -> None:
    (tmp_path / WANTED.sha256).mkdir()
    assert Cache(tmp_path).find(WANTED) is None


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
