"""The bill of materials: valid, read by others, true to the files, and silent on what is not known."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packageurl import PackageURL

from scripts.asset_build.errors import BuildError
from scripts.asset_build.wheel.sbom import format_sbom, record_in, sbom_of, serial_number
from scripts.asset_build.wheel.sources import Source
from scripts.asset_build.wheel.verifiers.kernel_facts import embedded_config
from scripts.asset_build.wheel.verify import VerifiedSet, verify_set
from supermachine_kernel._assets import ASSETS, BUSYBOX
from supermachine_kernel._version import VERSION
from tests.support.sets import GUEST_SET

LIBRARIES = ["musl", "libgcc"]


@pytest.fixture(scope="module")
def verified(built_set: Path) -> VerifiedSet:
    """The real set, with its build record."""
    files = {asset.name: built_set / asset.name for asset in ASSETS}
    return verify_set(Source(GUEST_SET, "tree", files, built_set / "build-info.json"))


@pytest.fixture(scope="module")
def sbom(custom_wheel: Path) -> dict[str, Any]:
    """The one in the finished wheel."""
    with zipfile.ZipFile(custom_wheel) as archive:
        (name,) = (name for name in archive.namelist() if ".dist-info/sboms/" in name)
        document: dict[str, Any] = json.loads(archive.read(name))
    return document


def unrecorded(verified: VerifiedSet) -> VerifiedSet:
    """The same files, as an override without a build-info.json gives them."""
    return dataclasses.replace(verified, build=None)


def with_record(verified: VerifiedSet, **changes: Any) -> VerifiedSet:
    return dataclasses.replace(verified, build={**(verified.build or {}), **changes})


def component(sbom: dict[str, Any], ref: str) -> dict[str, Any]:
    (found,) = (component for component in sbom["components"] if component["bom-ref"] == ref)
    return dict(found)


def properties(holder: dict[str, Any]) -> dict[str, str]:
    return {item["name"].removeprefix("supermachine:"): item["value"] for item in holder["properties"]}


def is_valid(text: str) -> bool:
    """What the strict validator says. Its import takes seconds: no quick test needs it."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None


def released(verified: VerifiedSet) -> VerifiedSet:
    """This very set as the release."""
    return dataclasses.replace(verified, origin="release", version=VERSION)


def test_the_wheel_has_the_one_of_its_set(sbom: dict[str, Any], verified: VerifiedSet) -> None:
    assert verified.build is not None, "the real build leaves a record"
    assert sbom == sbom_of(verified)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wheel", "unrecorded", "patched", "folder", "release"])
def test_the_strict_validator_finds_nothing(kind: str, sbom: dict[str, Any], verified: VerifiedSet) -> None:
    documents = {
        "wheel": lambda: sbom,
        "unrecorded": lambda: sbom_of(unrecorded(verified)),
        "patched": lambda: sbom_of(with_record(verified, patches=[{"name": "0001-a b.patch", "sha256": "1" * 64}])),
        "folder": lambda: sbom_of(with_record(verified, source={"package": None, "version": "6.12.1", "sha256": None})),
        "release": lambda: sbom_of(released(verified)),
    }
    text = format_sbom(documents[kind]())
    assert is_valid(text)


@pytest.mark.whole_run
def test_the_validator_would_have_found_something(sbom: dict[str, Any]) -> None:
    sbom = copy.deepcopy(sbom)
    sbom["components"][0]["hashes"][0]["alg"] = "SHA-255"
    assert not is_valid(format_sbom(sbom))


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # lib4sbom leaves files open
def test_another_tool_reads_the_same(sbom: dict[str, Any], verified: VerifiedSet, tmp_path: Path) -> None:
    path = tmp_path / "supermachine-kernel.cdx.json"
    path.write_text(format_sbom(sbom))
    from lib4sbom.parser import SBOMParser  # type: ignore[import-untyped]

    parser = SBOMParser()
    parser.parse_file(str(path))
    packages = {package["bom-ref"]: package for package in parser.get_packages()}
    for asset in ASSETS:
        assert packages[asset.name]["checksum"] == [["SHA256", verified.sha256[asset.name]]]
    assert packages["kernel"]["version"] == verified.kernel.release
    assert packages["kernel"]["licensedeclared"] == "GPL-2.0-only WITH Linux-syscall-note"
    assert packages["musl"]["licensedeclared"] == "MIT"
    relations = {(item["source_id"], item["type"], item["target_id"]) for item in parser.get_relationships()}
    assert {("init-oci", "DEPENDS_ON", "musl"), ("smpark.ko", "DEPENDS_ON", "kernel")} <= relations


def test_the_kernel_is_named_with_source_config_and_af_tsi(sbom: dict[str, Any], verified: VerifiedSet) -> None:
    assert verified.build is not None
    source, kernel = verified.build["source"], component(sbom, "kernel")
    assert kernel["version"] == verified.kernel.release
    (ancestor,) = kernel["pedigree"]["ancestors"]
    assert ancestor["hashes"] == [{"alg": "SHA-256", "content": source["sha256"]}]
    assert ancestor["version"] == source["version"]
    url = PackageURL.from_string(ancestor["purl"])
    assert (url.type, url.name, url.version) == ("deb", source["package"], source["version"])
    assert properties(kernel)["kernel:af_tsi"] == ("true" if verified.kernel.af_tsi else "false")
    assert properties(kernel)["kernel:config_sha256"] == verified.build["config_sha256"]
    assert properties(kernel)["kernel:patches"] == str(len(verified.build["patches"]))


def test_the_config_digest_is_that_of_the_config_in_the_image(verified: VerifiedSet) -> None:
    config = embedded_config(verified.contents["kernel"])
    assert config is not None and b"\nCONFIG_VSOCKETS=y\n" in config
    kernel = component(sbom_of(unrecorded(verified)), "kernel")
    assert properties(kernel)["kernel:config_sha256"] == hashlib.sha256(config).hexdigest()


def test_a_record_of_another_config_stops_the_build(verified: VerifiedSet) -> None:
    with pytest.raises(BuildError, match=r"build-info\.json: expected the config digest .*, found 0000"):
        sbom_of(with_record(verified, config_sha256="0" * 64))


@pytest.mark.parametrize("image", [b"", b"IKCFG_ST", b"IKCFG_ST\x1f\x8b\x08 not gzip", b"IKCFG_ST\x1f\x8b"])
def test_an_image_without_a_whole_config_has_none(image: bytes) -> None:
    assert embedded_config(image) is None


def test_patches_are_named_in_order_with_their_digests(verified: VerifiedSet) -> None:
    patches = [{"name": f"000{n}-af tsi.patch", "sha256": str(n) * 64} for n in (1, 2)]
    kernel = component(sbom_of(with_record(verified, patches=patches)), "kernel")
    urls = [f"kernel-build/patches/000{n}-af%20tsi.patch" for n in (1, 2)]
    assert [patch["diff"]["url"] for patch in kernel["pedigree"]["patches"]] == urls
    assert [reference["url"] for reference in kernel["externalReferences"]] == urls
    assert [reference["hashes"][0]["content"] for reference in kernel["externalReferences"]] == ["1" * 64, "2" * 64]
    assert [part["name"] for part in kernel["components"]] == urls
    assert [part["hashes"][0]["content"] for part in kernel["components"]] == ["1" * 64, "2" * 64]
    assert {part["licenses"][0]["license"]["id"] for part in kernel["components"]} == {"GPL-2.0-only"}
    assert properties(kernel)["kernel:patches"] == "2"


def test_every_component_has_licence_and_supplier(sbom: dict[str, Any]) -> None:
    for part in (sbom["metadata"]["component"], *sbom["components"]):
        assert part["licenses"], part["name"]
        assert part["supplier"]["name"] not in ("", "unknown"), part["name"]
        assert "hashes" in part or part["bom-ref"] == "supermachine-kernel" or "sha256" in properties(part)


def test_relations_name_what_is_there_and_leave_nothing_out(sbom: dict[str, Any]) -> None:
    depends = {entry["ref"]: entry.get("dependsOn", []) for entry in sbom["dependencies"]}
    refs = {part["bom-ref"] for part in sbom["components"]}
    assert set(depends) == refs | {"supermachine-kernel"}
    assert set(depends["supermachine-kernel"]) == {asset.name for asset in ASSETS}
    assert depends["init-oci"] == depends["supermachine-agent"] == LIBRARIES
    assert {entry["aggregate"] for entry in sbom["compositions"]} == {"complete"}


def test_what_is_not_known_is_said_to_be_unknown(verified: VerifiedSet) -> None:
    sbom = sbom_of(unrecorded(verified))
    assert [part["bom-ref"] for part in sbom["components"]] == [asset.name for asset in ASSETS]
    kernel = component(sbom, "kernel")
    assert "pedigree" not in kernel and "purl" not in kernel
    assert properties(kernel)["kernel:source"] == properties(kernel)["kernel:patches"] == "unknown"
    assert kernel["version"] == verified.kernel.release, "the Image itself says so"
    assert component(sbom, "init-oci")["version"] == component(sbom, "init-oci")["supplier"]["name"] == "unknown"
    (programs,) = (entry for entry in sbom["compositions"] if "init-oci" in entry["dependencies"])
    assert programs["aggregate"] == "unknown"
    assert properties(sbom["metadata"])["build:gcc"] == "unknown"


@pytest.mark.whole_run
def test_a_record_that_lacks_things_is_unknown_there(verified: VerifiedSet) -> None:
    sbom = sbom_of(dataclasses.replace(verified, build={"source": "?", "patches": [1], "toolchain": None}))
    kernel = component(sbom, "kernel")
    assert properties(kernel)["kernel:patches"] == "unknown"
    assert kernel["pedigree"]["ancestors"][0]["version"] == "unknown"
    assert is_valid(format_sbom(sbom))


def test_a_package_url_is_given_only_where_it_is_true(verified: VerifiedSet) -> None:
    own_toolchain = {"gcc": "aarch64-linux-gnu-gcc (crosstool-NG 1.26.0) 12.2.0", "binutils": "x", "musl": "1.2.5"}
    sbom = sbom_of(with_record(verified, toolchain=own_toolchain))
    assert '"purl"' not in format_sbom(sbom)
    release = sbom_of(released(verified))
    assert (
        release["metadata"]["component"]["purl"]
        == "pkg:pypi/supermachine-kernel@" + release["metadata"]["component"]["version"]
    )
    assert "purl" not in sbom_of(verified)["metadata"]["component"], "a custom wheel is not on the index"


def test_serial_number_and_time_come_from_the_content(sbom: dict[str, Any], verified: VerifiedSet) -> None:
    assert sbom["serialNumber"] == serial_number(sbom)
    other = with_record(verified, inputs_sha256="0" * 64)
    assert sbom_of(other)["serialNumber"] != sbom_of(verified)["serialNumber"]
    assert sbom["metadata"]["timestamp"] == "2026-01-01T00:00:00Z", "KBUILD_BUILD_TIMESTAMP of recipe.sh"


def test_a_banner_without_a_utc_date_gives_no_time(verified: VerifiedSet) -> None:
    image = verified.kernel.content.replace(b" UTC 2026\n", b" CET 2026\n")
    changed = dataclasses.replace(verified, kernel=dataclasses.replace(verified.kernel, content=image))
    assert "timestamp" not in sbom_of(changed)["metadata"]


@pytest.mark.parametrize("gcc", ["", " ", "\n", None, 1, []])
def test_a_compiler_that_is_not_named_is_not_listed(verified: VerifiedSet, gcc: Any) -> None:
    document = sbom_of(with_record(verified, toolchain={"gcc": gcc}))
    assert "libgcc" not in [component["bom-ref"] for component in document["components"]]


@pytest.mark.parametrize("text", ["\ud800", "1\n2", "\x1b[2J"], ids=["surrogate", "newline", "escape"])
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("source.version", lambda text: {"source": {"package": "linux-source-6.12", "version": text}}),
        ("toolchain.gcc", lambda text: {"toolchain": {"gcc": f"gcc {text} 12"}}),
        ("patches", lambda text: {"patches": [{"name": text, "sha256": ""}]}),
    ],
)
def test_text_that_is_not_printable_is_refused(verified: VerifiedSet, name: str, change: Any, text: str) -> None:
    changed = with_record(verified, **change(text))
    for one, where in ((changed, "build-info.json: "), (released(changed), "build in assets.lock.json: ")):
        with pytest.raises(BuildError, match=f"{where}expected printable text for {name}, found ") as refused:
            sbom_of(one)
        assert str(refused.value).isprintable()


RECORDS: dict[str, dict[str, Any]] = {
    "as the build left it": {},
    "with patches": {"patches": [{"name": "0001-a b.patch", "sha256": "1" * 64}, {"name": "2/ü", "sha256": "2" * 64}]},
    "without patches": {"patches": None},
    "of a folder": {"source": {"package": None, "version": "6.12.1", "sha256": None}},
    "of another tarball": {"source": {"package": None, "version": "6.12.1", "sha256": "3" * 64}},
    "of a package without version": {"source": {"package": "linux-source-6.12", "version": None, "sha256": None}},
    "of a package called linux": {"source": {"package": "linux", "version": "1", "sha256": None}},
    "with a toolchain of its own": {"toolchain": {"gcc": "gcc (Own) 15", "musl": "1.2.5+git"}},
    "that says nothing": {"inputs_sha256": None, "config_sha256": None, "toolchain": {}, "source": {}},
}


@pytest.mark.parametrize("changes", RECORDS.values(), ids=RECORDS)
def test_the_record_in_a_bill_of_materials_gives_that_very_document(
    changes: dict[str, Any], verified: VerifiedSet
) -> None:
    """So the audit of a custom wheel compares every byte, though only the wheel tells how its assets were built."""
    sbom = sbom_of(with_record(verified, **changes))
    assert sbom_of(dataclasses.replace(verified, build=record_in(sbom))) == sbom


def test_the_source_of_busybox_is_named_and_comes_back_out(verified: VerifiedSet) -> None:
    """A set with busybox has a source package more: the version without epoch and revision, and its files by digest."""
    files = {"busybox_1.35.0-4.dsc": "1" * 64, "busybox_1.35.0.orig.tar.bz2": "2" * 64}
    recorded = {"package": "busybox", "version": "1:1.35.0-4+b3", "files": files}
    with_busybox = dataclasses.replace(
        with_record(verified, busybox=recorded),
        guest_set=dataclasses.replace(GUEST_SET, assets=(*GUEST_SET.assets, BUSYBOX)),
        contents={**verified.contents, BUSYBOX.name: verified.contents["init-oci"]},
        sha256={**verified.sha256, BUSYBOX.name: verified.sha256["init-oci"]},
    )
    sbom = sbom_of(with_busybox)
    busybox = component(sbom, BUSYBOX.name)
    assert busybox["version"] == "1.35.0" and busybox["cpe"].startswith("cpe:2.3:a:busybox:busybox:1.35.0:")
    (ancestor,) = busybox["pedigree"]["ancestors"]
    assert ancestor["purl"] == "pkg:deb/debian/busybox@1:1.35.0-4%2Bb3?arch=source"
    again = record_in(sbom)
    assert again is not None and again["busybox"] == recorded
    assert sbom_of(dataclasses.replace(with_busybox, build=again)) == sbom


def test_a_bill_of_materials_without_a_record_has_none_in_it(verified: VerifiedSet) -> None:
    assert record_in(sbom_of(unrecorded(verified))) is None
