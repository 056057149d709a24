"""Whatever a member of a wheel has in it, the chain holds or breaks at a link."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scripts.asset_build.audit.chain import audit
from scripts.asset_build.audit.errors import AuditError
from scripts.asset_build.paths import PROJECT
from tests.support.wheels import UNLOCKED, Members, members_of, mend_record, write

HOSTILE = (
    *(b"\0", b"\r", b"\n", b'"', b",", b"\xff", b"\xed\xa0\x80", b"\\ud800", b"%(x)s", b"x" * 131_073, b"9" * 5000),
    *(
        b"[" * 100_000,
        b"-" * 100_000,
        b'{"a":' * 900,
        b"[" * 300 + b"]" * 300,
        b"null",
        b"None",
        b"{}",
        b"[]",
        b"1e999",
    ),
)


@pytest.fixture(scope="module")
def members(custom_wheel: Path) -> Members:
    return members_of(custom_wheel)


@st.composite
def tampered(draw: st.DrawFn, content: bytes) -> bytes:
    """Any bytes; or the right ones, with any bytes for a part of them."""
    if draw(st.booleans()):
        return draw(st.binary(max_size=100))
    start, end = draw(st.integers(0, len(content))), draw(st.integers(0, 40))
    return content[:start] + draw(st.binary(max_size=8) | st.sampled_from(HOSTILE)) + content[start + end :]


@pytest.mark.slow
@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), mended=st.booleans())
def test_any_content_holds_or_breaks_a_link(
    data: st.DataObject, mended: bool, custom_wheel: Path, members: Members, tmp_path: Path
) -> None:
    parsed = [name for name in members if re.search(r"/assets/|_manifest.py$|dist-info/[^/]+$|/sboms/", name)]
    name = data.draw(st.sampled_from(parsed))
    changed = {**members, name: data.draw(tampered(members[name]))}
    if mended and not name.endswith("/RECORD"):
        mend_record(changed)
    try:
        links = list(audit(write(changed, tmp_path), PROJECT, UNLOCKED))
    except AuditError as error:
        assert str(error).isprintable()
    else:
        assert links[-1].name == "SBOM"
        assert changed == members or (name.endswith("cdx.json") and mended), name
