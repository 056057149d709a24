"""The chain holds for the real wheel, and breaks at the right link for every wheel that was tampered with."""

from __future__ import annotations

import base64
import copy
import csv
import hashlib
import io
import json
import os
import random
import re
import shutil
import stat
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scripts import audit
from scripts.asset_build.digests import set_digest
from scripts.asset_build.guest_sets import wheel_row
from scripts.asset_build.lock import LOCK_NAME, Lock, LockedAsset, LockedFile, LockedSet, format_lock
from scripts.asset_build.paths import PROJECT
from scripts.asset_build.wheel.archive import write_wheel
from scripts.asset_build.wheel.sbom import format_sbom, serial_number
from scripts.machine import environments
from supermachine_kernel._assets import ASSETS, SET
from supermachine_kernel._version import VERSION
from tests.support import checkout

Members = dict[str, bytes]
TAG = f"py3-none-{wheel_row().platform_tag}"
LOCK = PROJECT / LOCK_NAME
UNLOCKED = Path(__file__).parents[1] / "fixtures" / "unlocked.json"
"""A lock that locks nothing: for what is done to a custom wheel, whether or not its files are the release by now."""
KERNEL = "supermachine_kernel/assets/kernel"
INIT_OCI = "supermachine_kernel/assets/init-oci"
AGENT = "supermachine_kernel/assets/supermachine-agent"
MANIFEST = "supermachine_kernel/_manifest.py"


@pytest.fixture(scope="module")
def members(custom_wheel: Path) -> Members:
    with zipfile.ZipFile(custom_wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def released(built_set: Path, members: Members, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel of a copy of the checkout in which these very files are the release, and the lock that says so."""
    folder = tmp_path_factory.mktemp("released")
    project = checkout.copy(built_set.parents[2], folder / "checkout")
    lock = project / "assets.lock.json"
    assets = {name.rpartition("/")[2]: content for name, content in members.items() if "/assets/" in name}
    files = {name: LockedFile(len(content), sha256(content)) for name, content in assets.items()}
    build = json.loads((built_set / "build-info.json").read_text())
    locked = LockedSet("aarch64", {name: LockedAsset(file, file) for name, file in files.items()}, build)
    lock.write_text(format_lock(Lock(VERSION, {"aarch64": locked})))
    (folder / "set").mkdir()
    for name, content in assets.items():
        (folder / "set" / name).write_bytes(content)
    python = str(environments.ensure("build"))
    command = [python, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(project)]
    inside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    inside["SUPERMACHINE_ASSETS_DIR"] = str(folder / "set")
    subprocess.run(command, check=True, env=inside, stdout=subprocess.DEVNULL)
    (path,) = folder.glob("*.whl")
    return path, lock


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def dist_info(members: Mapping[str, bytes]) -> str:
    (name,) = (name for name in members if name.endswith(".dist-info/RECORD"))
    return name.rpartition("/")[0]


def mend_record(members: Members) -> None:
    """Write a RECORD that fits, whatever was done."""
    record = f"{dist_info(members)}/RECORD"
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for name, content in members.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        writer.writerow([name, "", ""] if name == record else [name, f"sha256={digest}", len(content)])
    members[record] = text.getvalue().encode()


def mend_manifest(members: Members) -> None:
    """Write a manifest that fits the assets, but for the version, which is in every name."""
    text = members[MANIFEST].decode()
    assets = {name.rpartition("/")[2]: content for name, content in members.items() if "/assets/" in name}
    for name, content in assets.items():
        text = re.sub(
            rf"('{re.escape(name)}'): {{.*?'mode'",
            rf"\1: {{'size': {len(content)}, 'sha256': '{sha256(content)}', 'mode'",
            text,
        )
    digest = set_digest({name: sha256(content) for name, content in assets.items()})
    members[MANIFEST] = re.sub(r"'set_digest': '[0-9a-f]+'", f"'set_digest': '{digest}'", text).encode()


def mend_version(members: Members) -> Members:
    """Rename everything to the version of the set: what is left is an honest custom wheel."""
    text = members[MANIFEST].decode()
    (old,) = re.findall(r"'version': '([^']+)'", text)
    (digest,) = re.findall(r"'set_digest': '([0-9a-f]+)'", text)
    new = f"{VERSION}+custom.{digest[:8]}" if "+" in old else old
    changed = {name.replace(old, new): content for name, content in members.items()}
    for name in (MANIFEST, f"{dist_info(changed)}/METADATA"):
        changed[name] = changed[name].replace(old.encode(), new.encode())
    return changed


def mend_sbom(members: Members) -> None:
    name = f"{dist_info(members)}/sboms/supermachine-kernel.cdx.json"
    sbom = json.loads(members[name])
    for part in sbom["components"]:
        if f"supermachine_kernel/assets/{part['bom-ref']}" in members:
            part["hashes"][0]["content"] = sha256(members[f"supermachine_kernel/assets/{part['bom-ref']}"])
    (digest,) = re.findall(r"'set_digest': '([0-9a-f]+)'", members[MANIFEST].decode())
    sbom["metadata"]["properties"][0]["value"] = digest
    sbom["metadata"]["component"]["version"] = dist_info(members).split("-")[1].removesuffix(".dist")
    sbom["serialNumber"] = serial_number(sbom)
    members[name] = format_sbom(sbom).encode()


def write(members: Members, folder: Path, like: Path) -> Path:
    """A well-formed wheel of these members, under the name that its .dist-info says."""
    version = dist_info(members).removeprefix("supermachine_kernel-").removesuffix(".dist-info")
    path = folder / f"supermachine_kernel-{version}-{like.name.split('-', 2)[2]}"
    with path.open("wb") as file:
        write_wheel(members.items(), file)
    return path


def broken_link(path: Path, lock: Path = UNLOCKED, installed: Path | None = None) -> str:
    """The link at which the audit ends, with its message."""
    with pytest.raises(audit.AuditError) as caught:
        list(audit.audit(path, lock, installed))
    return str(caught.value)


def flipped(content: bytes, offset: int) -> bytes:
    return content[:offset] + bytes([content[offset] ^ 1]) + content[offset + 1 :]


def swapped(members: Members) -> Members:
    return {**members, INIT_OCI: members[AGENT], AGENT: members[INIT_OCI]}


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, audit.__file__, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


# --- what holds ---


def test_the_real_wheel_and_its_installation_hold(wheel: Path, installed: Path) -> None:
    done = run(wheel, "--installed", installed, "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0 and report["holds"] and report["broken"] is None
    names = list(dict.fromkeys(link["name"] for link in report["links"]))
    assert names == [
        "file",
        "RECORD",
        "METADATA",
        "licences",
        "module",
        "manifest",
        "lock",
        "SBOM",
        "structure",
        "installed",
    ]
    assert report["links"][0]["digest"] == sha256(wheel.read_bytes())
    assert all(re.fullmatch("[0-9a-f]{64}", link["digest"]) for link in report["links"])


def test_a_release_holds_against_its_lock_alone(released: tuple[Path, Path]) -> None:
    path, lock = released
    assert "+" not in path.name
    assert [link.proven for link in audit.audit(path, lock) if link.name == "lock"] == ["the locked files"]
    empty = lock.with_name("empty.json")
    empty.write_text(format_lock(Lock(VERSION, {})))
    assert broken_link(path, empty).startswith("lock: ")


def test_a_wheel_rewritten_as_it_was_holds(custom_wheel: Path, members: Members, tmp_path: Path) -> None:
    assert list(audit.audit(write(dict(members), tmp_path, custom_wheel), UNLOCKED))


# --- what was tampered with, by the link that must break ---


def change_kernel(members: Members) -> Members:
    return {**members, KERNEL: flipped(members[KERNEL], 4_000_000)}


def without(pattern: str) -> Callable[[Members], Members]:
    return lambda members: {name: content for name, content in members.items() if not re.search(pattern, name)}


def replacing(pattern: str, old: bytes, new: bytes) -> Callable[[Members], Members]:
    def change(members: Members) -> Members:
        (name,) = (name for name in members if re.search(pattern, name))
        assert old in members[name], f"{name} has no {old!r}"
        return {**members, name: members[name].replace(old, new, 1)}

    return change


def adding(name: str) -> Callable[[Members], Members]:
    return lambda members: {**members, name: b"# extra\n"}


@pytest.mark.parametrize(
    ("tamper", "link"),
    [
        (change_kernel, "RECORD: supermachine_kernel/assets/kernel: expected sha256="),
        (
            adding("supermachine_kernel/extra.py"),
            "RECORD: supermachine_kernel/extra.py: in the wheel, and not recorded",
        ),
        (without("/LICENSES/MIT"), "RECORD: .*MIT.txt: recorded, and not in the wheel"),
        (without("RECORD$"), "RECORD: .*RECORD: expected in the wheel, found none"),
        (replacing("RECORD$", b"sha256=", b"md5="), "RECORD: "),
        (replacing("RECORD$", b"\n", b"\r\n"), r"RECORD: .*__init__.py: expected sha256=[^,]+,\d+\\r, found"),
        (replacing("RECORD$", b"\n", b"\r"), "RECORD: .*__init__.py: in the wheel, and not recorded"),
        (replacing("RECORD$", b"", b'"'), 'RECORD: ".*__init__.py: recorded, and not in the wheel'),
        (replacing("RECORD$", b"", b"x" * 131_073), "RECORD: .*__init__.py: in the wheel, and not recorded"),
        (replacing("RECORD$", b"", b"\n"), "RECORD: : recorded, and not in the wheel"),
        (replacing("RECORD$", b"RECORD,,\n", b"RECORD,,"), "RECORD: .*half a line"),
        (replacing("RECORD$", b"RECORD,,\n", b"RECORD,,0\n"), "RECORD: .*RECORD: expected ,0, found ,$"),
        (
            lambda members: members | {f"{dist_info(members)}/RECORD": members[f"{dist_info(members)}/RECORD"] * 2},
            "RECORD: .*one line a file",
        ),
    ],
)
def test_what_does_not_fit_record(
    tamper: Callable[[Members], Members], link: str, custom_wheel: Path, members: Members, tmp_path: Path
) -> None:
    changed = tamper(dict(members))
    path = tmp_path / custom_wheel.name
    with path.open("wb") as file:
        write_wheel(changed.items(), file)
    assert re.match(link, broken_link(path))


@pytest.mark.parametrize(
    ("tamper", "link"),
    [
        (change_kernel, r"manifest: .*expected .*\+custom\.[0-9a-f]{8}, as the digest of its assets says"),
        (swapped, r"manifest: .*expected .*\+custom\.[0-9a-f]{8}, as the digest of its assets says"),
        (lambda members: {**members, KERNEL: members[INIT_OCI]}, "structure: kernel: expected an uncompressed arm64"),
        (adding("supermachine_kernel/extra.py"), "RECORD: supermachine_kernel/extra.py: no file of"),
        (adding("supermachine_kernel/assets/extra"), "RECORD: supermachine_kernel/assets/extra: no file of"),
        (adding("other.pth"), "RECORD: other.pth: no file of"),
        (without("/LICENSES/MIT"), "RECORD: .*LICENSES/MIT.txt: expected in a wheel of"),
        (without("NOTICE$"), "RECORD: .*NOTICE: expected in a wheel of"),
        (without("/sboms/"), "RECORD: .*cdx.json: expected in a wheel of"),
        (without("_manifest.py$"), "RECORD: .*_manifest.py: expected in a wheel of"),
        (without("assets/smpark.ko$"), "RECORD: .*smpark.ko: expected in a wheel of"),
        (replacing("GPL-2.0-only.txt$", b"Version 2", b"Version 9"), "licences: LICENSES/GPL-2.0-only.txt"),
        (replacing("METADATA$", b"License-File: NOTICE\n", b""), "licences: METADATA"),
        (replacing("METADATA$", b"GPL-2.0-only AND ", b""), "METADATA: METADATA: expected License-Expression"),
        (replacing("METADATA$", b"\nVersion: ", b"\nVersion: 1!"), "METADATA: METADATA: expected Version"),
        (replacing("METADATA$", b"\nVersion: ", b"\nRequires-Dist: requests\nVersion: "), "METADATA: .*no requirement"),
        (replacing("WHEEL$", b"_arm64", b"_x86_64"), "METADATA: WHEEL: expected Tag"),
        (replacing("WHEEL$", b"Root-Is-Purelib: false", b"Root-Is-Purelib: true"), "METADATA: WHEEL: .*Purelib"),
        (replacing("WHEEL$", b"\nTag", b"\nTag: py3-none-any\nTag"), "METADATA: WHEEL: expected Tag"),
        (replacing("entry_points.txt$", b"__main__:main", b"_assets:verify"), "METADATA: entry_points.txt"),
        (replacing("entry_points.txt$", b"[console_scripts]", b"no section"), "METADATA: entry_points.txt"),
        (replacing("entry_points.txt$", b"supermachine-kernel =", b"Supermachine-kernel ="), "METADATA: entry_points"),
        (replacing("entry_points.txt$", b"", b"\xff"), "METADATA: entry_points.txt"),
        (replacing("top_level.txt$", b"\n", b"\nrequests\n"), "METADATA: top_level.txt: .*found 'requests'"),
        (replacing("METADATA$", b"License-File: NOTICE", b"License-File: \xff"), "licences: METADATA"),
        (replacing("_write.py$", b"import os", b"import sys, os"), "module: supermachine_kernel/_write.py"),
        (replacing("_manifest.py$", b"\nMANIFEST", b"\nimport os\nMANIFEST"), "manifest: .*found 'import os'"),
        (replacing("_manifest.py$", b"'format': 1", b"'format': print('run')"), "manifest: .*expected the line"),
        (replacing("_manifest.py$", b"'format': 1", b"'format': True"), "manifest: .*expected the line .*'format': 1"),
        (replacing("_manifest.py$", b"'format': 1", b"'note': 0, 'format': 1"), "manifest: .*found .*note"),
        (replacing("_manifest.py$", b"this wheel says", b"a wheel says"), "manifest: .*found .*a wheel says"),
        (replacing("_manifest.py$", b"}\n", b"}  # fine\n"), "manifest: .*# fine"),
        (replacing("_manifest.py$", b"\n", b"\r\n"), "manifest: .*expected the line"),
        (replacing("_manifest.py$", b"", b"\xef\xbb\xbf"), "manifest: .*expected the line"),
        (replacing("_manifest.py$", b"", b"\n" * 9), "manifest: .*expected the line"),
        (replacing("_manifest.py$", b"'origin': 'custom'", b"'origin': 'release'"), "manifest: .*'origin': 'custom'"),
        (replacing("_manifest.py$", b"'mode': 493", b"'mode': 511"), "manifest: .*found .*511"),
        (replacing("_manifest.py$", b"'set_digest': '", b"'set_digest': 'f"), "manifest: .*set_digest"),
        (replacing("_manifest.py$", b"'af_tsi': False", b"'af_tsi': True"), "manifest: .*expected .*'af_tsi': False"),
        (replacing("_manifest.py$", b"'af_tsi': False", b"'af_tsi': 0"), "manifest: .*expected .*'af_tsi': False"),
        (replacing("_manifest.py$", b"'kernel_release': '6", b"'kernel_release': '5"), "manifest: .*kernel_release"),
        (replacing("_manifest.py$", b"'kernel_release': '", b"'kernel_release': 6, 'x': '"), "manifest: "),
        (replacing("_manifest.py$", b"MANIFEST = {", b"MANIFEST = " + b"-" * 1_000_000 + b"1, {"), "manifest: "),
        (replacing("cdx.json$", b"GPL-2.0-only WITH", b"GPL-3.0-only WITH"), "SBOM: .*GPL-2.0-only WITH"),
        (replacing("cdx.json$", b'"specVersion": "1.6"', b'"specVersion": "1.5"'), "SBOM: "),
        (replacing("cdx.json$", b'"version": "1.2.3', b'"version": "1.2.4'), 'SBOM: .*expected .*"urn:uuid:'),
        (replacing("cdx.json$", b'"value": "false"', b'"value": "true"'), 'SBOM: .*expected .*"af_tsi": "false"'),
        (replacing("cdx.json$", b"{", b"["), "SBOM: .*expected a CycloneDX document"),
        (replacing("cdx.json$", b"", b"[" * 1_000_000), "SBOM: .*expected a CycloneDX document"),
        (replacing("cdx.json$", b"", b"\xff"), "SBOM: .*expected a CycloneDX document"),
        (replacing("cdx.json$", b'"properties": [', b'"properties": [0,'), "SBOM: .*expected a CycloneDX document"),
        (replacing("cdx.json$", b"{", b'{"components": [],'), "SBOM: .*expected the line"),  # a name said twice
        (replacing("cdx.json$", b"{", b"{ "), "SBOM: .*expected the line"),
    ],
)
def test_what_fits_a_mended_record(
    tamper: Callable[[Members], Members], link: str, custom_wheel: Path, members: Members, tmp_path: Path
) -> None:
    changed = tamper(dict(members))
    mend_record(changed)
    found = broken_link(write(changed, tmp_path, custom_wheel))
    assert re.match(link, found, re.DOTALL), found


def test_a_set_with_everything_mended_names_itself_custom(custom_wheel: Path, members: Members, tmp_path: Path) -> None:
    """A changed asset cannot keep the version: its digest is in the name."""
    changed = change_kernel(dict(members))
    mend_manifest(changed)
    mend_record(changed)
    assert re.match(r"manifest: .*expected .*\+custom\.", broken_link(write(changed, tmp_path, custom_wheel)))


@pytest.mark.parametrize(
    ("tamper", "link"),
    [
        (swapped, ""),
        (lambda members: {**members, KERNEL: members[KERNEL][:-8]}, ""),
        (replacing("assets/kernel$", b"IKCFG_ST", b"IKCFG_NO"), ""),  # of its .config only the record's word is left
        (lambda members: {**members, INIT_OCI: members["supermachine_kernel/assets/smpark.ko"]}, "structure: init-oci"),
        (
            replacing("assets/smpark.ko$", b"vermagic=6", b"vermagic=5"),
            "structure: smpark.ko: expected a module of kernel 6",
        ),
    ],
)
def test_structure_is_the_last_line_when_all_digests_are_mended(
    tamper: Callable[[Members], Members], link: str, custom_wheel: Path, members: Members, tmp_path: Path
) -> None:
    changed = tamper(dict(members))
    mend_manifest(changed)
    changed = mend_version(changed)
    mend_sbom(changed)
    mend_record(changed)
    path = write(changed, tmp_path, custom_wheel)
    if link:
        assert re.match(link, broken_link(path))
    else:  # other files of the right kind: an honest custom wheel under its own name, and never this one's
        assert list(audit.audit(path, UNLOCKED)) and path.name != custom_wheel.name


@pytest.mark.parametrize("tamper", [change_kernel, swapped])
def test_the_lock_catches_a_release_with_everything_mended(
    tamper: Callable[[Members], Members], released: tuple[Path, Path], tmp_path: Path
) -> None:
    path, lock = released
    with zipfile.ZipFile(path) as archive:
        changed = tamper({name: archive.read(name) for name in archive.namelist()})
    mend_manifest(changed)
    mend_sbom(changed)
    mend_record(changed)
    assert re.match(
        r"lock: (kernel|init-oci): expected .* this is not the release",
        broken_link(write(changed, tmp_path, path), lock),
    )


def test_a_release_with_another_bill_of_materials(released: tuple[Path, Path], tmp_path: Path) -> None:
    path, lock = released
    with zipfile.ZipFile(path) as archive:
        changed = replacing("cdx.json$", b'"version": "1.2.3', b'"version": "1.2.4')(
            {name: archive.read(name) for name in archive.namelist()}
        )
    mend_sbom(changed)
    mend_record(changed)
    assert re.match(
        r'SBOM: .*expected the line .*"version": "1\.2\.3', broken_link(write(changed, tmp_path, path), lock)
    )


def test_the_locked_files_under_a_custom_version(custom_wheel: Path, released: tuple[Path, Path]) -> None:
    assert re.match("lock: .*these are the locked files.*; build it again$", broken_link(custom_wheel, released[1]))


def test_a_custom_wheel_beside_a_release_of_other_files(custom_wheel: Path, tmp_path: Path) -> None:
    """The lock's record of a build says nothing of files that are not the locked ones."""
    file = LockedFile(1, "0" * 64)
    assets = {asset.name: LockedAsset(file, file) for asset in ASSETS}
    lock = tmp_path / "lock.json"
    lock.write_text(format_lock(Lock(VERSION, {SET: LockedSet(SET, assets, {"config_sha256": "0" * 64})})))
    proven = [link.proven for link in audit.audit(custom_wheel, lock) if link.name == "lock"]
    assert proven == ["not the locked files, as the version says"]


# --- whatever a member has in it ---

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


@st.composite
def tampered(draw: st.DrawFn, content: bytes) -> bytes:
    """Any bytes; or the right ones, with any bytes for a part of them."""
    if draw(st.booleans()):
        return draw(st.binary(max_size=100))
    start, end = draw(st.integers(0, len(content))), draw(st.integers(0, 40))
    return content[:start] + draw(st.binary(max_size=8) | st.sampled_from(HOSTILE)) + content[start + end :]


@pytest.mark.slow
@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
        links = list(audit.audit(write(changed, tmp_path, custom_wheel), UNLOCKED))
    except audit.AuditError as error:
        assert str(error).isprintable()
    else:
        assert links[-1].name == "structure"
        assert changed[name] == members[name] or name.rpartition("/")[2] in ("METADATA", "WHEEL", "RECORD")


# --- the archive itself ---


def rewritten(wheel: Path, folder: Path, change: Callable[[zipfile.ZipInfo], None], twice: str = "") -> Path:
    """The same members in another archive: `change` edits each entry; the member `twice` is written again."""
    path = folder / wheel.name
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(path, "w") as new, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # zipfile's, of the duplicate name
        for entry in old.infolist():
            content = old.read(entry)
            change(entry)
            new.writestr(entry, content)
            if entry.filename == twice:
                new.writestr(entry, content)
    return path


def plain_entry(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    return info


def set_mode(name: str, mode: int) -> Callable[[zipfile.ZipInfo], None]:
    def change(entry: zipfile.ZipInfo) -> None:
        if entry.filename == name:
            entry.external_attr = mode << 16

    return change


def deflate(entry: zipfile.ZipInfo) -> None:
    entry.compress_type = zipfile.ZIP_DEFLATED


def date(entry: zipfile.ZipInfo) -> None:
    entry.date_time = (2026, 1, 1, 0, 0, 0)


@pytest.mark.parametrize(
    ("change", "twice", "message"),
    [
        (set_mode(INIT_OCI, stat.S_IFREG | 0o644), "", "file: .*init-oci: expected mode 100755, found 100644"),
        (set_mode(KERNEL, stat.S_IFREG | 0o755), "", "file: .*kernel: expected mode 100644"),
        (set_mode(KERNEL, stat.S_IFREG | 0o4644), "", "file: .*kernel: expected mode 100644, found 104644"),
        (set_mode(KERNEL, stat.S_IFLNK | 0o644), "", "file: .*kernel: expected mode 100644, found 120644"),
        (lambda entry: None, KERNEL, "file: .*kernel: expected once, found twice"),
        (deflate, "", "file: .*expected to be stored"),
        (date, "", "file: .*expected the archive as this build writes it"),
    ],
)
def test_another_archive_of_the_same_members(
    change: Callable[[zipfile.ZipInfo], None], twice: str, message: str, custom_wheel: Path, tmp_path: Path
) -> None:
    assert re.match(message, broken_link(rewritten(custom_wheel, tmp_path, change, twice)))


@pytest.mark.parametrize("name", ["../evil.py", "/etc/evil", "supermachine_kernel//evil.py", "a\\b"])
def test_a_name_that_leads_elsewhere(name: str, custom_wheel: Path, members: Members, tmp_path: Path) -> None:
    changed = {**members, name: b""}
    mend_record(changed)
    assert re.match("file: .*expected a plain relative name", broken_link(write(changed, tmp_path, custom_wheel)))


def test_a_name_that_speaks_to_the_terminal(custom_wheel: Path, members: Members, tmp_path: Path) -> None:
    path = write({**members, "\x1b[2Jok\n": b""}, tmp_path, custom_wheel)
    assert broken_link(path) == "RECORD: \\x1b[2Jok\\n: in the wheel, and not recorded"
    path = path.rename(tmp_path / custom_wheel.name.replace("custom", "\x1b[2J"))
    assert re.match(r"file: .*\\x1b\[2J.*expected supermachine_kernel-VERSION", broken_link(path))


def test_members_that_share_their_bytes(custom_wheel: Path, tmp_path: Path) -> None:
    """Each entry of the directory may name the same bytes: a small file with any number of large members."""
    path = tmp_path / custom_wheel.name
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(plain_entry("a"), b"x" * 10_000)
        for name in ("b", "c"):
            archive.filelist.append(copy.copy(archive.filelist[0]))
            archive.filelist[-1].filename = name
    assert re.match(r"file: expected members of less than the archive's \d+ bytes, found 30000", broken_link(path))


def test_an_offset_that_no_file_has(custom_wheel: Path, tmp_path: Path) -> None:
    """In zip64 an entry may begin anywhere below 2**64 (PKWARE APPNOTE 4.5.3)."""
    path = tmp_path / custom_wheel.name
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(plain_entry("a"), b"")
        archive.filelist[0].header_offset = 2**64 - 1
    assert broken_link(path).startswith("file: ")


def test_another_tag_in_the_file_name(custom_wheel: Path, tmp_path: Path) -> None:
    for tag in ("py3-none-any", "py3-none-macosx_11_0_x86_64", "py3-none-macosx_12_0_arm64"):
        path = tmp_path / custom_wheel.name.replace(TAG, tag)
        shutil.copy(custom_wheel, path)
        assert re.match(f"file: .*expected supermachine_kernel-VERSION-{TAG}", broken_link(path))


def test_another_version_in_the_file_name(custom_wheel: Path, tmp_path: Path) -> None:
    path = tmp_path / f"supermachine_kernel-{VERSION}-{TAG}.whl"
    shutil.copy(custom_wheel, path)
    assert broken_link(path).startswith("RECORD: ")
    path = path.rename(tmp_path / f"supermachine_kernel-9.9.9-{TAG}.whl")
    assert "audit from the checkout of that version" in broken_link(path)


@pytest.mark.parametrize(
    "change", [lambda data: data + b"\0", lambda data: b"\0" + data, lambda data: data[:-1], lambda data: b""]
)
def test_bytes_around_or_missing(change: Callable[[bytes], bytes], custom_wheel: Path, tmp_path: Path) -> None:
    path = tmp_path / custom_wheel.name
    path.write_bytes(change(custom_wheel.read_bytes()))
    assert broken_link(path).startswith("file: ")


def test_one_changed_byte_anywhere(custom_wheel: Path, tmp_path: Path) -> None:
    data, path = custom_wheel.read_bytes(), tmp_path / custom_wheel.name
    chance = random.Random(4)
    offsets = [chance.randrange(len(data)) for _ in range(20)]
    offsets += [len(data) - chance.randrange(1, 70_000) for _ in range(30)]  # licences, RECORD and the directory
    for offset in offsets:
        path.write_bytes(data[:offset] + bytes([data[offset] ^ 1 << chance.randrange(8)]) + data[offset + 1 :])
        with pytest.raises(audit.AuditError):
            list(audit.audit(path, UNLOCKED))


# --- what is installed ---


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (lambda site, info: change_file(site / INIT_OCI), "init-oci: expected SHA-256 .*, found"),
        (lambda site, info: (site / KERNEL).unlink(), "kernel: expected a file, found none"),
        (lambda site, info: (site / INIT_OCI).chmod(0o644), "init-oci: expected to be executable, found mode 644"),
        (lambda site, info: (site / "supermachine_kernel/old.py").touch(), "old.py: not in the wheel"),
        (lambda site, info: (site / "supermachine_kernel-0.1.dist-info").mkdir(), "another version is installed"),
        (lambda site, info: (site / info / "RECORD").unlink(), "RECORD: expected the installer's record, found none"),
        (lambda site, info: (site / info / "RECORD").write_text(""), "RECORD: expected .* with .*, found None"),
        (lambda site, info: replace_by_link(site / KERNEL), "kernel: expected a file, found a link"),
    ],
)
def test_an_installation_that_was_tampered_with(
    tamper: Callable[[Path, str], Any], message: str, wheel: Path, installed: Path, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    shutil.copytree(installed, site)
    tamper(site, f"supermachine_kernel-{wheel.name.split('-')[1]}.dist-info")
    assert re.search(f"installed: .*{message}", broken_link(wheel, LOCK, installed=site))


def change_file(path: Path) -> None:
    path.write_bytes(flipped(path.read_bytes(), 0))


def replace_by_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


# --- the command ---


def test_the_command_says_what_broke(custom_wheel: Path, tmp_path: Path) -> None:
    path = tmp_path / custom_wheel.name
    path.write_bytes(flipped(custom_wheel.read_bytes(), 2_000_000))
    done = run(path)
    assert done.returncode == 1 and done.stdout.startswith("BROKEN  file ") and "Traceback" not in done.stderr
    report = json.loads(run(path, "--json").stdout)
    assert report["broken"]["name"] == "file" and not report["holds"]


def test_usage(tmp_path: Path) -> None:
    for arguments in (
        [],
        [tmp_path / "none.whl"],
        [tmp_path],
        [audit.__file__, "--lock", tmp_path / "none"],
        [audit.__file__, "--installed", tmp_path / "none"],
    ):
        done = run(*arguments)
        assert done.returncode == 2 and done.stderr.startswith("usage: ")
    help_text = run("--help").stdout
    assert "--installed" in help_text and "examples:" in help_text


def test_a_lock_that_is_none(custom_wheel: Path, tmp_path: Path) -> None:
    for text in ("{}", "[" * 1_000_000, '{"format": 1, "version": 1, "sets": {}}'):
        (tmp_path / "lock.json").write_text(text)
        assert re.match("lock: .*expected a lock of format 1, found", broken_link(custom_wheel, tmp_path / "lock.json"))
