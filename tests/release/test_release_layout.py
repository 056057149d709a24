"""The release layout: names, and SHA256SUMS as sha256sum has it."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.asset_build.release_layout import format_sums, packed_name, parse_sums, release_folder

digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,30}", fullmatch=True)


def test_a_published_name_has_version_set_and_asset() -> None:
    assert f"{release_folder('1.2.3')}/{packed_name('aarch64', 'smpark.ko')}" == "v1.2.3/aarch64-smpark.ko.xz"


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(names, digests))
def test_what_is_formatted_is_parsed(sums: dict[str, str]) -> None:
    assert parse_sums(format_sums(sums)) == sums


@settings(deadline=None, max_examples=50)
@given(st.text())
def test_text_is_parsed_or_refused(text: str) -> None:
    try:
        sums = parse_sums(text)
    except ValueError:
        return
    assert all(len(digest) == 64 and "/" not in name for name, digest in sums.items())


@pytest.mark.parametrize("binary", [[], ["--binary"]], ids=["text", "binary"])
def test_sha256sum_writes_what_is_parsed(tmp_path: Path, binary: list[str]) -> None:
    (tmp_path / "aarch64-kernel.xz").write_bytes(b"kernel")
    done = subprocess.run(
        ["sha256sum", *binary, "aarch64-kernel.xz"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert parse_sums(done.stdout) == {"aarch64-kernel.xz": hashlib.sha256(b"kernel").hexdigest()}


@pytest.mark.parametrize(
    "text",
    [
        f"{'0' * 63}  short",
        f"{'0' * 64} one-space",
        f"{'0' * 64}  ../elsewhere",
        f"{'0' * 64}  .hidden",
        f"{'G' * 64}  no-hex",
        f"\\{'0' * 64}  escaped",
        f"{'0' * 64}  twice\n{'1' * 64}  twice",
    ],
)
def test_other_lines_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"[01G]{63}"):
        parse_sums(text)
