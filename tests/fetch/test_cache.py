"""Where the cache is, how builds share it, and what may happen to it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from scripts.asset_build.errors import BuildError
from scripts.asset_build.fetch.cache import Cache, cache_folder
from tests.support.faults_page import injects
from tests.support.faulty import Reply, Request, serve
from tests.support.small_release import (
    FOUR,
    HALF,
    LOCKED_FOUR,
    PACKED,
    UNPACKED,
    assert_refused,
    assert_right_bytes,
    assert_right_four,
    measure,
    serve_four,
    start_fetch,
    write_lock,
)

WANTED = measure(b"content")
ENTRY = measure(UNPACKED).sha256


def whole(request: Request, reply: Reply) -> None:
    reply.whole(PACKED)


# --- where it is ---


@pytest.mark.parametrize(
    ("platform", "environ", "expected"),
    [
        ("linux", {"SUPERMACHINE_CACHE_DIR": "/x", "XDG_CACHE_HOME": "/y", "HOME": "/z"}, "/x"),
        ("linux", {"XDG_CACHE_HOME": "/y", "HOME": "/z"}, "/y/supermachine-kernel/release"),
        ("linux", {"HOME": "/z"}, "/z/.cache/supermachine-kernel/release"),
        ("linux", {"HOME": "/z", "XDG_CACHE_HOME": "y"}, "/z/.cache/supermachine-kernel/release"),
        ("linux", {"HOME": "/z", "XDG_CACHE_HOME": ""}, "/z/.cache/supermachine-kernel/release"),
        ("darwin", {"SUPERMACHINE_CACHE_DIR": "/x", "HOME": "/z"}, "/x"),
        ("darwin", {"XDG_CACHE_HOME": "/y", "HOME": "/z"}, "/z/Library/Caches/supermachine-kernel/release"),
    ],
)
def test_the_cache_is_where_the_platform_keeps_caches(
    platform: str, environ: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    assert cache_folder(environ) == Path(expected)


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that is run under a number."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 1 << 30)
    assert cache_folder({"XDG_CACHE_HOME": "/y"}) == Path("/y/supermachine-kernel/release")
    with pytest.raises(BuildError, match="SUPERMACHINE_CACHE_DIR"):
        cache_folder({})


# --- its entries ---


def test_an_entry_has_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
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


@injects("damaged cache")
@pytest.mark.parametrize("damage", [b"", UNPACKED[:-1], bytes(len(UNPACKED))], ids=["empty", "short", "zeros"])
def test_a_damaged_entry_is_fetched_anew(
    environ: dict[str, str], tmp_path: Path, damage: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    entry = tmp_path / "cache" / ENTRY
    entry.parent.mkdir()
    entry.write_bytes(damage)
    with serve(whole) as host:
        assert_right_bytes({**environ, "SUPERMACHINE_RELEASE_URL": host.url})
        assert_right_bytes({**environ, "SUPERMACHINE_RELEASE_URL": host.url})
    assert len(host.requests) == 1
    assert f"{entry}: damaged; fetching it anew" in capfd.readouterr().err


def test_a_folder_under_the_name_of_an_entry_is_an_error(
    environ: dict[str, str], release: Path, tmp_path: Path
) -> None:
    (tmp_path / "cache" / ENTRY).mkdir(parents=True)
    with pytest.raises(BuildError, match=f"{ENTRY}: .* a folder"):
        assert_right_bytes({**environ, "SUPERMACHINE_RELEASE_URL": str(release)})


@pytest.mark.parametrize("suffix", ["", ".lock"], ids=["entry", "lock"])
@pytest.mark.parametrize("kind", ["link", "hard link", "pipe"])
def test_what_somebody_else_put_there_is_not_written_to(
    kind: str, suffix: str, environ: dict[str, str], release: Path, tmp_path: Path
) -> None:
    path, outside = tmp_path / "cache" / f"{ENTRY}{suffix}", tmp_path / "outside"
    path.parent.mkdir()
    outside.write_text("important")
    outside.chmod(0o640)
    if kind == "link":
        path.symlink_to(outside)
    elif kind == "hard link":
        os.link(outside, path)
    else:
        os.mkfifo(path)
    assert_right_bytes({**environ, "SUPERMACHINE_RELEASE_URL": str(release)})
    assert outside.read_text() == "important"
    assert outside.stat().st_mode & 0o777 == 0o640


def test_only_temporary_files_of_killed_builds_are_removed(tmp_path: Path) -> None:
    own, link, young = (f".{digit * 32}.tmp" for digit in "abc")
    others = ["x.tmp", ".editor.tmp", f"{own}.tmp", own[1:]]
    for name in (own, *others, young):
        (tmp_path / name).touch()
    (tmp_path / link).symlink_to(others[0])
    for path in tmp_path.iterdir():
        if path.name != young:  # it may be another build's, at work
            os.utime(path, (time.time() - 2 * 24 * 3600,) * 2, follow_symlinks=False)
    assert Cache(tmp_path).prepare() is None
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, link, young])


# --- caches that cannot be written ---


@injects("read-only cache")
def test_a_read_only_cache_is_read_and_the_rest_goes_with_the_build(environ: dict[str, str], tmp_path: Path) -> None:
    cache, temporary = tmp_path / "cache", tmp_path / "temporary"
    cache.mkdir()
    temporary.mkdir()
    held = LOCKED_FOUR.assets["kernel"].unpacked
    (cache / held.sha256).write_bytes(FOUR["kernel"])
    lock = write_lock(tmp_path / "lock")
    open_to_all(tmp_path)
    cache.chmod(0o555)
    temporary.chmod(0o777)
    with serve_four(0) as host:
        environ.update(SUPERMACHINE_RELEASE_URL=host.url, TMPDIR=str(temporary))
        running = start_fetch(lock, environ, "--as-nobody")
        output, notes = running.communicate(timeout=60)
    cache.chmod(0o755)
    assert running.returncode == 0, notes
    assert_right_four(output)
    assert len(host.requests) == 3
    assert [path.name for path in cache.iterdir()] == [held.sha256]
    assert list(temporary.iterdir()) == []
    assert f"note: {cache} cannot be written (Permission denied)" in notes


def open_to_all(folder: Path) -> None:
    """pytest's folders are their owner's alone; the unprivileged user must come through."""
    for path in (folder, *folder.parents):
        with contextlib.suppress(PermissionError):
            path.chmod(path.stat().st_mode | 0o055)
        if path.name.startswith("pytest-of-"):
            return


@injects("full cache")
@pytest.mark.skipif(sys.platform != "linux", reason="tmpfs is Linux's")
@pytest.mark.parametrize("size", ["64k", "300k"], ids=["for the download", "for the unpacked file"])
def test_a_full_cache_is_named(size: str, environ: dict[str, str], release: Path, tmp_path: Path) -> None:
    folder = tmp_path / "full"
    folder.mkdir()
    prefix = [] if os.geteuid() == 0 else ["sudo", "-n"]
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0777", "tmpfs", str(folder)]
    subprocess.run([*prefix, *mount], check=True)
    try:
        environ.update(SUPERMACHINE_RELEASE_URL=str(release), SUPERMACHINE_CACHE_DIR=str(folder))
        assert_refused(environ, "No space left on device", "SUPERMACHINE_CACHE_DIR", str(folder))
    finally:
        subprocess.run([*prefix, "umount", str(folder)], check=True)


def test_a_file_in_place_of_the_cache_is_named(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("not a folder")
    assert_refused(environ, "found a file in its way", "SUPERMACHINE_CACHE_DIR")


@injects("deleted cache")
def test_a_cache_that_is_deleted_during_the_download_is_made_again(environ: dict[str, str], tmp_path: Path) -> None:
    def answer(request: Request, reply: Reply) -> None:
        reply.head("200 OK", Content_Length=len(PACKED))
        reply.send(PACKED[:HALF])
        shutil.rmtree(tmp_path / "cache")
        reply.send(PACKED[HALF:])

    with serve(answer) as host:
        assert_right_bytes({**environ, "SUPERMACHINE_RELEASE_URL": host.url})
    assert len(host.requests) == 1


@pytest.mark.parametrize("times", [1, 1000])
def test_a_cleaner_that_removes_temporary_files_is_borne_or_named(
    times: int, environ: dict[str, str], release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is deleted at the worst moment, when it is whole and about to be renamed."""
    left, replace = iter(range(times)), os.replace

    def clean_and_replace(source: str, target: str) -> None:
        if next(left, None) is not None:
            Path(source).unlink()
        replace(source, target)

    monkeypatch.setattr(os, "replace", clean_and_replace)
    environ["SUPERMACHINE_RELEASE_URL"] = str(release)
    if times == 1:
        assert_right_bytes(environ)
    else:
        assert_refused(environ, "expected a cache that keeps what is written to it", "SUPERMACHINE_CACHE_DIR")


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_an_entry_that_is_swapped_while_it_is_looked_at_is_not_waited_for(
    kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The folder may be one in which others write: what is judged is what was opened."""
    wanted = measure(UNPACKED)
    path, looked = tmp_path / wanted.sha256, os.stat_result((0o100644, 1, 1, 1, 0, 0, wanted.size, 0, 0, 0))
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    monkeypatch.setattr(Path, "stat", lambda self, **_: looked)  # of the file that was there a moment ago
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(Cache(tmp_path).find(wanted)), daemon=True)
    thread.start()
    thread.join(10)
    assert found == [None]
