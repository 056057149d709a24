"""assets.lock.json: what is written is read, and what is none is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.asset_build.errors import BuildError
from scripts.asset_build.guest_sets import GUEST_SETS
from scripts.asset_build.lock import (
    LOCK_NAME,
    Lock,
    LockedAsset,
    LockedFile,
    LockedSet,
    format_lock,
    parse_lock,
    read_lock,
    read_lock_file,
)
from supermachine_kernel._assets import ASSETS
from supermachine_kernel._version import VERSION
from tests.support.sets import SET

digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
files = st.builds(LockedFile, st.integers(0, 2**50), digests)
assets = st.builds(LockedAsset, unpacked=files, packed=files)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
builds = st.none() | st.dictionaries(st.text(), json_values, max_size=3)


def sets(name: str) -> st.SearchStrategy[LockedSet]:
    return st.builds(
        LockedSet,
        st.just(name),
        st.fixed_dictionaries({asset.name: assets for asset in GUEST_SETS[name].assets}),
        build=builds,
    )


locks = st.builds(
    Lock,
    st.text(),
    st.lists(st.sampled_from([*GUEST_SETS]), max_size=2, unique=True).flatmap(
        lambda names: st.fixed_dictionaries({name: sets(name) for name in names})
    ),
)


@settings(deadline=None, max_examples=50)
@given(locks)
def test_what_is_formatted_is_parsed(lock: Lock) -> None:
    text = format_lock(lock)
    assert parse_lock(text) == lock
    assert format_lock(parse_lock(text)) == text


@settings(deadline=None, max_examples=50)
@given(st.text() | json_values.map(json.dumps))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    with pytest.raises((ValueError, KeyError, TypeError, AttributeError)):
        parse_lock(text)


@settings(deadline=None, max_examples=50)
@given(sets(SET), st.data())
def test_a_changed_value_is_refused(locked: LockedSet, data: st.DataObject) -> None:
    """A size that is none, a digest that is none, one asset's digest changed alone: each is noticed."""
    document = json.loads(format_lock(Lock(VERSION, {SET: locked})))
    asset = document["sets"][SET]["assets"][data.draw(st.sampled_from([asset.name for asset in ASSETS]))]
    holder = asset if data.draw(st.booleans()) else asset["xz"]
    change: dict[str, Any] = data.draw(
        st.sampled_from([{"size": -1}, {"size": "1"}, {"size": True}, {"sha256": "0"}, {"sha256": None}])
    )
    holder.update(change)
    with pytest.raises((ValueError, TypeError)):
        parse_lock(json.dumps(document))


@settings(deadline=None, max_examples=50)
@given(sets(SET), digests)
def test_a_digest_changed_alone_is_refused(locked: LockedSet, other: str) -> None:
    document = json.loads(format_lock(Lock(VERSION, {SET: locked})))
    kernel = document["sets"][SET]["assets"]["kernel"]
    if other != kernel["sha256"]:
        kernel["sha256"] = other
        with pytest.raises(ValueError, match="set_digest"):
            parse_lock(json.dumps(document))


@settings(deadline=None, max_examples=50)
@given(sets(SET))
def test_a_lock_of_another_version_locks_nothing(locked: LockedSet) -> None:
    assert Lock(VERSION, {SET: locked}).set(SET) == locked
    assert Lock("0.0.1", {SET: locked}).set(SET) is None


def test_the_lock_of_the_project_is_one(project: Path) -> None:
    text = (project / LOCK_NAME).read_text(encoding="utf-8")
    assert format_lock(read_lock(project)) == text


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (None, "nothing readable"),
        (b"", "Expecting value"),
        (b"[]", "list indices"),
        (b'{"format": 2}', "format 2"),
        (b'{"format": true, "version": "0", "sets": {}}', "format True"),
        (b'{"format": 1.0, "version": "0", "sets": {}}', "format 1.0"),
        (b'{"format": 1, "version": "0", "sets": {}, "version": "1"}', "'version' twice"),
        (b"\xff", "invalid start byte"),
        (b"<html>", "Expecting value"),
        (b"[" * 200_000, "recursion"),
    ],
    ids=["missing", "empty", "list", "format", "true", "float", "twice", "binary", "page", "nested"],
)
def test_what_is_no_lock_is_said_in_one_line(tmp_path: Path, content: bytes | None, found: str) -> None:
    path = tmp_path / "lock"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BuildError) as error:
        read_lock_file(path)
    line = str(error.value)
    assert line.startswith(f"{path}: expected ")
    assert found in line
    assert "scripts/release.py" in line
    assert "\n" not in line


@pytest.mark.parametrize("build", ["x", ["x"], 1, True, "", 0, False, []])
@settings(deadline=None, max_examples=3)
@given(locked=sets(SET))
def test_a_build_that_is_no_record_is_refused(build: Any, locked: LockedSet) -> None:
    document = json.loads(format_lock(Lock(VERSION, {SET: locked})))
    document["sets"][SET]["build"] = build
    with pytest.raises(TypeError, match=r"build .* where an object or null should be"):
        parse_lock(json.dumps(document))


@pytest.mark.parametrize("place", ["version", "name", "build"])
@settings(deadline=None, max_examples=3)
@given(locked=sets(SET))
def test_half_a_surrogate_pair_is_refused(place: str, locked: LockedSet) -> None:
    """It is no character: it can neither be printed nor written."""
    document = json.loads(format_lock(Lock(VERSION, {SET: locked})))
    if place == "version":
        document["version"] = "\ud800"
    elif place == "name":
        document["sets"]["\ud800"] = document["sets"][SET]
    else:
        document["sets"][SET]["build"] = {"inputs_sha256": "\ud800"}
    with pytest.raises(ValueError, match="surrogates"):
        parse_lock(json.dumps(document))
