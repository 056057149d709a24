"""The digest of a build's inputs, under which its results are kept."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Callable

import pytest

from tests.support.kernel_build import (
    KERNEL_BUILD,
    SMALL,
    build,
    digest,
)
from tests.support.quick import sampled


def test_digest_is_that_of_the_contents(checkout: Path) -> None:
    before = digest(KERNEL_BUILD, SMALL)
    assert digest(checkout, SMALL) == before
    for name in ("README.md", "patches/README.md", "scripts/build.sh"):
        with (checkout / name).open("a") as file:
            file.write("\n# said otherwise\n")
    (checkout / "smpark/smpark.mod.c").write_text("litter of a build")
    assert digest(checkout, SMALL) == before


@pytest.mark.parametrize(
    "name",
    sampled(
        [
            *("config/common.config", "config/aarch64.config", "scripts/recipe.sh", "scripts/programs.sh"),
            *("smpark/*.c", "smpark/Kbuild", "init-oci/*.c", "agent/*.c"),
        ]
    ),
)
def test_digest_changes_with_a_byte_of(name: str, checkout: Path) -> None:
    before = digest(checkout, SMALL)
    with next(checkout.glob(name)).open("a") as file:
        file.write("\n")
    assert digest(checkout, SMALL) != before


@pytest.mark.slow
def test_digest_changes_with_a_patch_and_its_name(checkout: Path) -> None:
    digests = {digest(checkout, SMALL)}
    patch = checkout / "patches/0001-first.patch"
    patch.write_text("")
    digests.add(digest(checkout, SMALL))
    patch.rename(patch.with_name("0002-first.patch"))
    digests.add(digest(checkout, SMALL))
    assert len(digests) == 3


@pytest.mark.slow
def test_digest_changes_with_the_source(tiny_source: Callable[[str], Path]) -> None:
    source = tiny_source("@true")
    before = digest(KERNEL_BUILD, source)
    assert before not in (digest(), digest(KERNEL_BUILD, SMALL))
    os.utime(source / "greeting", (0, 0))
    assert digest(KERNEL_BUILD, source) == before
    (source / "greeting").write_text("four\n")
    assert digest(KERNEL_BUILD, source) != before


def test_digest_changes_with_the_list_of_assets(checkout: Path) -> None:
    """Even with an asset that is made of the same files as another."""
    _know_another_asset(checkout, "agent")
    before = digest(checkout, SMALL)
    assert before == digest(KERNEL_BUILD, SMALL)
    _add_to_the_first_set(checkout)
    assert digest(checkout, SMALL) != before


@pytest.mark.parametrize("part", ["notes", "notes/notes.txt"])
def test_an_asset_whose_source_is_of_no_known_kind_is_refused(part: str, checkout: Path) -> None:
    """It would be left out of the digest and of the build."""
    _know_another_asset(checkout, part)
    _add_to_the_first_set(checkout)
    (checkout / "notes").mkdir()
    (checkout / "notes/notes.txt").write_text("notes\n")
    result = build("--print-digest", "--source", SMALL, tree=checkout)
    assert (result.returncode, result.stdout) == (1, "")
    expected = (
        f"build.sh: {checkout}/{part}: expected source (of a kind that guest_sources in scripts/inputs.sh names), "
    )
    assert result.stderr.startswith(f"{expected}found none: ")
    assert result.stderr.count("\n") == 1


def _know_another_asset(checkout: Path, part: str) -> None:
    """Have the build script know an asset `another`, which is built from `part`."""
    script = checkout / "scripts/inputs.sh"
    script.write_text(script.read_text().replace("kernel) ;;", f"kernel) ;;\n            another) echo {part} ;;"))


def _add_to_the_first_set(checkout: Path) -> None:
    table = checkout / "guest-sets.json"
    table.write_text(table.read_text().replace('"assets": [', '"assets": ["another", ', 1))


def test_every_set_has_a_configuration_and_a_digest_of_its_own() -> None:
    sets = json.loads((KERNEL_BUILD / "guest-sets.json").read_text())
    assert {file.stem for file in (KERNEL_BUILD / "config").iterdir()} == {"common", "aarch64-debug", *sets}
    assert len({digest(KERNEL_BUILD, SMALL, "--set", name) for name in sets}) == len(sets)
