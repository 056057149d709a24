"""The chain holds for the real wheel, and breaks at the right link for every wheel that was tampered with."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import audit as audit_program
from scripts.asset_build.audit.chain import audit
from scripts.asset_build.lock import LOCK_NAME, Lock, LockedAsset, LockedFile, LockedSet, format_lock
from scripts.asset_build.paths import PROJECT
from scripts.machine import environments
from supermachine_kernel._assets import ASSETS
from supermachine_kernel._version import VERSION
from tests.support import checkout
from tests.support.sets import SET
from tests.support.wheels import (
    INIT_OCI,
    KERNEL,
    SMPARK_KO,
    UNLOCKED,
    Members,
    Tamper,
    adding,
    archive_of,
    broken_link,
    change_kernel,
    dist_info,
    flipped,
    members_of,
    mend_manifest,
    mend_record,
    mend_sbom,
    mend_version,
    replacing,
    sha256,
    swapped,
    without,
    write,
)

LOCK = PROJECT / LOCK_NAME


@pytest.fixture(scope="module")
def members(custom_wheel: Path) -> Members:
    return members_of(custom_wheel)


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


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, audit_program.__file__, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


# --- what holds ---


def test_the_real_wheel_and_its_installation_hold(
    wheel: Path, installed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = audit_program.main([str(wheel), "--installed", str(installed), "--json"])
    report = json.loads(capsys.readouterr().out)
    assert status == 0 and report["holds"] and report["broken"] is report["error"] is None
    names = list(dict.fromkeys(link["name"] for link in report["links"]))
    assert names == [
        *("file", "structure", "lock"),
        *("RECORD", "METADATA", "licences", "module", "manifest", "SBOM", "installed"),
    ]
    assert report["links"][0]["digest"] == sha256(wheel.read_bytes())
    assert all(re.fullmatch("[0-9a-f]{64}", link["digest"]) for link in report["links"])


@pytest.mark.slow
def test_a_release_holds_against_its_lock_alone(released: tuple[Path, Path]) -> None:
    path, lock = released
    assert "+" not in path.name
    assert [link.proven for link in audit(path, PROJECT, lock) if link.name == "lock"] == ["the locked files"]
    empty = lock.with_name("empty.json")
    empty.write_text(format_lock(Lock(VERSION, {})))
    assert broken_link(path, empty).startswith("lock: ")


@pytest.mark.whole_run
def test_a_wheel_rewritten_as_it_was_holds(members: Members, tmp_path: Path) -> None:
    assert list(audit(write(dict(members), tmp_path), PROJECT, UNLOCKED))


# --- what was tampered with, by the link that must break ---


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tamper", "link"),
    [
        (change_kernel, r"lock: .*expected .*\+custom\.[0-9a-f]{8}, as the digest of its assets says"),
        (adding("supermachine_kernel/extra.py"), "members: supermachine_kernel/extra.py: expected no such file"),
        (without("/LICENSES/MIT"), "members: .*MIT.txt: expected in the wheel, found none"),
        (without("RECORD$"), "members: .*RECORD: expected in the wheel, found none"),
        (replacing("RECORD$", b"sha256=", b"md5="), "RECORD: .*expected the line 'supermachine_kernel/__init__.py,sha"),
        (replacing("RECORD$", b"\n", b"\r\n"), r"RECORD: .*expected \d+ bytes"),
        (replacing("RECORD$", b"", b'"'), "RECORD: .*expected the line"),
        (replacing("RECORD$", b"", b"x" * 131_073), "RECORD: .*expected the line"),
        (replacing("RECORD$", b"", b"\n"), "RECORD: .*found ''"),
        (replacing("RECORD$", b"RECORD,,\n", b"RECORD,,"), "RECORD: .*expected"),
        (replacing("RECORD$", b"RECORD,,\n", b"RECORD,,0\n"), "RECORD: .*RECORD,,', found .*RECORD,,0'"),
        (
            lambda members: members | {f"{dist_info(members)}/RECORD": reordered(members)},
            "RECORD: .*expected the line 'supermachine_kernel/__init__.py",
        ),
        (
            lambda members: members | {f"{dist_info(members)}/RECORD": members[f"{dist_info(members)}/RECORD"] * 2},
            "RECORD: .*expected the line",
        ),
    ],
)
def test_a_change_without_a_mended_record_is_found(
    tamper: Tamper, link: str, custom_wheel: Path, members: Members, tmp_path: Path
) -> None:
    path = tmp_path / custom_wheel.name
    path.write_bytes(archive_of(tamper(dict(members))))
    found = broken_link(path)
    assert re.match(link, found), found


def reordered(members: Members) -> bytes:
    """RECORD with its lines the other way round: every digest fits."""
    lines = members[f"{dist_info(members)}/RECORD"].splitlines(keepends=True)
    return b"".join(reversed(lines))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tamper", "link"),
    [
        (change_kernel, r"lock: .*expected .*\+custom\.[0-9a-f]{8}, as the digest of its assets says"),
        (swapped, r"lock: .*expected .*\+custom\.[0-9a-f]{8}, as the digest of its assets says"),
        (lambda members: {**members, KERNEL: members[INIT_OCI]}, "structure: kernel: expected an uncompressed arm64"),
        (adding("supermachine_kernel/extra.py"), "members: supermachine_kernel/extra.py: expected no such file"),
        (adding("supermachine_kernel/assets/extra"), "members: supermachine_kernel/assets/extra: expected no such"),
        (adding("other.pth"), "members: other.pth: expected no such file"),
        (without("/LICENSES/MIT"), "members: .*LICENSES/MIT.txt: expected in the wheel"),
        (without("NOTICE$"), "members: .*NOTICE: expected in the wheel"),
        (without("/sboms/"), "members: .*cdx.json: expected in the wheel"),
        (without("_manifest.py$"), "members: .*_manifest.py: expected in the wheel"),
        (without("assets/smpark.ko$"), "members: .*smpark.ko: expected the asset in the wheel"),
        (replacing("GPL-2.0-only.txt$", b"Version 2", b"Version 9"), "licences: .*GPL-2.0-only.txt: .*Version 9"),
        (replacing("METADATA$", b"License-File: NOTICE\n", b""), "METADATA: .*'License-File: NOTICE'"),
        (replacing("METADATA$", b"GPL-2.0-only AND ", b""), "METADATA: .*expected the line 'License-Expression"),
        (replacing("METADATA$", b"\nVersion: ", b"\nVersion: 1!"), "METADATA: .*expected the line 'Version: "),
        (replacing("METADATA$", b"\nVersion: ", b"\nRequires-Dist: requests\nVersion: "), "METADATA: .*found 'Req"),
        (replacing("METADATA$", b"Author: ", b"Author: X"), "METADATA: .*expected the line 'Author: "),
        (replacing("METADATA$", b"Project-URL: Source, ", b"Project-URL: Source, x"), "METADATA: .*Project-URL"),
        (replacing("METADATA$", b"Classifier: Typing", b"Classifier: Typed"), "METADATA: .*Classifier: Typing"),
        (replacing("METADATA$", b"pip install", b"pip inst4ll"), "METADATA: .*expected the line"),  # the description
        (replacing("METADATA$", b"Keywords: ", b"Keywords: a,"), "METADATA: .*expected the line 'Keywords"),
        (replacing("METADATA$", b"", b"X-Evil: 1\n"), "METADATA: .*found 'X-Evil: 1'"),
        (replacing("WHEEL$", b"_arm64", b"_x86_64"), "METADATA: .*WHEEL: expected the line 'Tag: "),
        (replacing("WHEEL$", b"Root-Is-Purelib: false", b"Root-Is-Purelib: true"), "METADATA: .*WHEEL: .*Purelib"),
        (replacing("WHEEL$", b"\nTag", b"\nTag: py3-none-any\nTag"), "METADATA: .*WHEEL: .*found 'Tag: py3-none-any'"),
        (replacing("WHEEL$", b"setuptools", b"setupt00ls"), "METADATA: .*WHEEL: expected the line 'Generator: "),
        (replacing("WHEEL$", b"\n\n", b"\n\nbody\n"), "METADATA: .*WHEEL: .*found 'body'"),
        (replacing("entry_points.txt$", b"__main__:main", b"_assets:verify"), "METADATA: .*entry_points.txt"),
        (replacing("entry_points.txt$", b"", b"\xff"), "METADATA: .*entry_points.txt"),
        (replacing("top_level.txt$", b"\n", b"\nrequests\n"), "METADATA: .*top_level.txt: .*found 'requests'"),
        (replacing("METADATA$", b"License-File: NOTICE", b"License-File: \xff"), "METADATA: .*METADATA"),
        (replacing("_write.py$", b"import os", b"import sys, os"), "module: supermachine_kernel/_write.py"),
        (replacing("_manifest.py$", b"\nMANIFEST", b"\nimport os\nMANIFEST"), "manifest: .*found 'import os'"),
        (replacing("_manifest.py$", b"'format': 1", b"'format': print('run')"), "manifest: .*expected the line"),
        (replacing("_manifest.py$", b"'format': 1", b"'format': True"), "manifest: .*expected the line .*'format': 1"),
        (replacing("_manifest.py$", b"}\n", b"}  # fine\n"), "manifest: .*# fine"),
        (replacing("_manifest.py$", b"\n", b"\r\n"), "manifest: .*expected"),
        (replacing("_manifest.py$", b"", b"\xef\xbb\xbf"), "manifest: .*expected the line"),
        (replacing("_manifest.py$", b"'origin': 'custom'", b"'origin': 'release'"), "manifest: .*'origin': 'custom'"),
        (replacing("_manifest.py$", b"'mode': 493", b"'mode': 511"), "manifest: .*found .*511"),
        (replacing("_manifest.py$", b"'af_tsi': True", b"'af_tsi': False"), "manifest: .*expected .*'af_tsi': True"),
        (replacing("_manifest.py$", b"'kernel_release': '6", b"'kernel_release': '5"), "manifest: .*kernel_release"),
        (replacing("_manifest.py$", b"MANIFEST = {", b"MANIFEST = " + b"-" * 1_000_000 + b"1, {"), "manifest: "),
        (replacing("cdx.json$", b"GPL-2.0-only WITH", b"GPL-3.0-only WITH"), "SBOM: .*GPL-2.0-only WITH"),
        (replacing("cdx.json$", b'"specVersion": "1.6"', b'"specVersion": "1.5"'), "SBOM: "),
        (replacing("cdx.json$", b'"bomFormat": "CycloneDX"', b'"bomFormat": "Evil"'), "SBOM: .*found .*Evil"),
        (replacing("cdx.json$", b'"phase": "build"', b'"phase": "design"'), "SBOM: .*found .*design"),
        (replacing("cdx.json$", b'"aggregate": "complete"', b'"aggregate": "unknown"'), "SBOM: .*found .*unknown"),
        (replacing("cdx.json$", b'"ref": "musl"', b'"ref": "libc"'), "SBOM: .*found .*libc"),
        (replacing("cdx.json$", b'"version": "1.2.3', b'"version": "1.2.4'), "SBOM: .*expected the line"),
        (replacing("cdx.json$", b'"value": "true"', b'"value": "false"'), "SBOM: .*expected the line"),
        (replacing("cdx.json$", b"{", b"["), "SBOM: .*expected a CycloneDX document"),
        (replacing("cdx.json$", b"", b"[" * 1_000_000), "SBOM: .*expected a CycloneDX document"),
        (replacing("cdx.json$", b"", b"\xff"), "SBOM: .*expected a CycloneDX document"),
        (replacing("cdx.json$", b'"properties": [', b'"properties": [0,'), "SBOM: .*expected a CycloneDX document"),
        (replacing("cdx.json$", b"{", b'{"components": [],'), "SBOM: .*expected the line"),  # a name said twice
        (replacing("cdx.json$", b"{", b"{ "), "SBOM: .*expected the line"),
    ],
)
def test_a_change_with_a_mended_record_is_found(tamper: Tamper, link: str, members: Members, tmp_path: Path) -> None:
    changed = tamper(dict(members))
    mend_record(changed)
    found = broken_link(write(changed, tmp_path))
    assert re.match(link, found, re.DOTALL), found


@pytest.mark.whole_run
def test_a_set_with_everything_mended_names_itself_custom(members: Members, tmp_path: Path) -> None:
    """A changed asset cannot keep the version: its digest is in the name."""
    changed = change_kernel(dict(members))
    mend_manifest(changed)
    mend_record(changed)
    assert re.match(r"lock: .*expected .*\+custom\.", broken_link(write(changed, tmp_path)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tamper", "link"),
    [
        (swapped, ""),
        (lambda members: {**members, KERNEL: members[KERNEL][:-8]}, ""),
        (replacing("assets/kernel$", b"IKCFG_ST", b"IKCFG_NO"), ""),  # of its .config only the record's word is left
        (lambda members: {**members, INIT_OCI: members[SMPARK_KO]}, "structure: init-oci"),
        (
            replacing("assets/smpark.ko$", b"vermagic=6", b"vermagic=5"),
            "structure: smpark.ko: expected a module of kernel 6",
        ),
    ],
)
def test_structure_is_the_last_line_when_all_digests_are_mended(
    tamper: Tamper, link: str, custom_wheel: Path, members: Members, tmp_path: Path
) -> None:
    changed = tamper(dict(members))
    mend_manifest(changed)
    changed = mend_version(changed)
    mend_sbom(changed)
    mend_record(changed)
    path = write(changed, tmp_path)
    if link:
        assert re.match(link, broken_link(path))
    else:  # other files of the right kind: an honest custom wheel under its own name, and never this one's
        assert list(audit(path, PROJECT, UNLOCKED)) and path.name != custom_wheel.name


@pytest.mark.slow
@pytest.mark.parametrize("tamper", [change_kernel, swapped])
def test_the_lock_catches_a_release_with_everything_mended(
    tamper: Tamper, released: tuple[Path, Path], tmp_path: Path
) -> None:
    path, lock = released
    changed = tamper(members_of(path))
    mend_manifest(changed)
    mend_sbom(changed)
    mend_record(changed)
    assert re.match(
        r"lock: (kernel|init-oci): expected .* this is not the release",
        broken_link(write(changed, tmp_path), lock),
    )


@pytest.mark.slow
def test_a_release_with_another_bill_of_materials(released: tuple[Path, Path], tmp_path: Path) -> None:
    path, lock = released
    changed = replacing("cdx.json$", b'"version": "1.2.3', b'"version": "1.2.4')(members_of(path))
    mend_sbom(changed)
    mend_record(changed)
    assert re.match(r'SBOM: .*expected the line .*"version": "1\.2\.3', broken_link(write(changed, tmp_path), lock))


@pytest.mark.slow
def test_the_locked_files_under_a_custom_version(custom_wheel: Path, released: tuple[Path, Path]) -> None:
    assert re.match(
        "lock: .*the files are locked, found a version that says they are not .*; build it again$",
        broken_link(custom_wheel, released[1]),
    )


def test_a_custom_wheel_beside_a_release_of_other_files(custom_wheel: Path, tmp_path: Path) -> None:
    """The lock's record of a build says nothing of files that are not the locked ones."""
    file = LockedFile(1, "0" * 64)
    assets = {asset.name: LockedAsset(file, file) for asset in ASSETS}
    lock = tmp_path / "lock.json"
    lock.write_text(format_lock(Lock(VERSION, {SET: LockedSet(SET, assets, {"config_sha256": "0" * 64})})))
    proven = [link.proven for link in audit(custom_wheel, PROJECT, lock) if link.name == "lock"]
    assert proven == ["not the locked files, as the version says"]


def test_a_line_of_a_megabyte_is_shown_shortened(members: Members, tmp_path: Path) -> None:
    changed = replacing("METADATA$", b"Summary: ", b"Summary: " + b"x" * 1_000_000)(members)
    mend_record(changed)
    assert len(broken_link(write(changed, tmp_path))) < 1000


# --- the command ---


def test_the_command_says_what_broke(custom_wheel: Path, tmp_path: Path) -> None:
    path = tmp_path / custom_wheel.name
    path.write_bytes(flipped(custom_wheel.read_bytes(), 2_000_000))
    done = run(path)
    assert done.returncode == 1 and done.stdout.startswith("BROKEN  file ") and "Traceback" not in done.stderr
    report = json.loads(run(path, "--json").stdout)
    assert report["broken"] == "file" and not report["holds"]


def test_an_argument_that_is_no_file_is_a_usage_error(tmp_path: Path) -> None:
    for arguments in (
        [],
        [tmp_path / "none.whl"],
        [tmp_path],
        [audit_program.__file__, "--lock", tmp_path / "none"],
        [audit_program.__file__, "--installed", tmp_path / "none"],
    ):
        done = run(*arguments)
        assert done.returncode == 2 and done.stderr.startswith("usage: ")
    help_text = run("--help").stdout
    assert "--installed" in help_text and "examples:" in help_text


def test_a_lock_that_is_none(custom_wheel: Path, tmp_path: Path) -> None:
    for text in ("{}", "[" * 1_000_000, '{"format": 1, "version": 1, "sets": {}}'):
        (tmp_path / "lock.json").write_text(text)
        assert re.match("lock: .*expected a lock of format 1, found", broken_link(custom_wheel, tmp_path / "lock.json"))
