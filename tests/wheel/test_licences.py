"""Licences that hold: whatever is in the wheel has its text there, and NOTICE says which covers what."""

from __future__ import annotations

import email
import json
import re
import zipfile
from pathlib import Path

import pytest

from scripts.asset_build.wheel.sbom import LICENCES
from supermachine_kernel._assets import ASSETS

# What a text must say to be that licence: enough to tell it from any other.
MARKS = {
    "Apache-2.0": "Apache License\n                           Version 2.0, January 2004",
    "GPL-2.0-only": "GNU GENERAL PUBLIC LICENSE\n                       Version 2, June 1991",
    "GPL-3.0-or-later": "GNU GENERAL PUBLIC LICENSE\n                       Version 3, 29 June 2007",
    "MIT": "Rich Felker, et al.\n\nPermission is hereby granted, free of charge",
    "GCC-exception-3.1": "GCC RUNTIME LIBRARY EXCEPTION\n\nVersion 3.1, 31 March 2009",
    "Linux-syscall-note": "does *not* cover user programs that use kernel\n services by normal system calls",
}


@pytest.fixture(scope="module")
def dist_info(wheel: Path) -> dict[str, str]:
    """The files of the wheel's .dist-info, by their name in it."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" in name]
        return {name.partition(".dist-info/")[2]: archive.read(name).decode() for name in names}


def identifiers(expression: str) -> set[str]:
    return set(re.findall(r"[\w.+-]+", expression)) - {"AND", "OR", "WITH"}


def test_every_licence_of_every_component_has_its_text_in_the_wheel(dist_info: dict[str, str]) -> None:
    sbom = json.loads(dist_info["sboms/supermachine-kernel.cdx.json"])
    parts = [sbom["metadata"]["component"], *sbom["components"]]
    parts += [ancestor for part in sbom["components"] for ancestor in part.get("pedigree", {}).get("ancestors", ())]
    expressions = {entry.get("expression") or entry["license"]["id"] for part in parts for entry in part["licenses"]}
    wanted = set().union(*map(identifiers, expressions | {asset.licence for asset in ASSETS}))
    for identifier in wanted:
        assert MARKS[identifier] in dist_info[f"licenses/LICENSES/{identifier}.txt"], identifier


def test_there_is_no_text_without_a_component(project: Path) -> None:
    used = set().union(*map(identifiers, LICENCES.values()))
    assert {path.stem for path in (project / "LICENSES").iterdir()} == used


def test_the_metadata_names_expression_and_texts(dist_info: dict[str, str]) -> None:
    metadata = email.message_from_string(dist_info["METADATA"])
    assert metadata["License-Expression"] == "Apache-2.0 AND GPL-2.0-only AND MIT"
    texts = {name.removeprefix("licenses/") for name in dist_info if name.startswith("licenses/")}
    assert (
        set(metadata.get_all("License-File", []))
        == texts
        == {
            "NOTICE",
            *(f"LICENSES/{identifier}.txt" for identifier in MARKS),
        }
    )


def test_notice_says_which_covers_what(dist_info: dict[str, str]) -> None:
    notice = dist_info["licenses/NOTICE"]
    lines = {line.split()[0]: line.split(None, 1)[1] for line in notice.splitlines() if re.match(r"\S+ {2,}\S", line)}
    assert lines == {
        **{name: licence for name, licence in LICENCES.items() if name != "supermachine-kernel"},
        "supermachine_kernel": "Apache-2.0",
    }
    assert "release.py source" in notice


def test_the_exceptions_only_widen_what_the_asset_table_says() -> None:
    for asset in ASSETS:
        assert LICENCES[asset.name].partition(" WITH ")[0] == asset.licence


@pytest.mark.parametrize(
    ("folder", "licence"), [("smpark", "GPL-2.0-only"), ("init-oci", "Apache-2.0"), ("agent", "Apache-2.0")]
)
def test_the_guest_sources_say_what_their_asset_is_under(project: Path, folder: str, licence: str) -> None:
    sources = [path for path in (project / "kernel-build" / folder).iterdir() if path.suffix in (".c", ".S")]
    assert sources
    for source in sources:
        assert source.read_text().splitlines()[0].endswith(f"SPDX-License-Identifier: {licence}"), source
