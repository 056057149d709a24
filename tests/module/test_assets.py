"""An asset as path, view and bytes; what is said when it is not as it should be."""

from __future__ import annotations

import copy
import hashlib
import os
import pickle
import shutil
import sys
from pathlib import Path

import pytest

import supermachine_kernel
from supermachine_kernel import ASSETS, Asset, AssetError, _assets
from tests.support import child
from tests.support.quick import sampled

IDS = [asset.name for asset in ASSETS]
each_asset = pytest.mark.parametrize("asset", ASSETS, ids=IDS)
one_asset_when_quick = pytest.mark.parametrize("asset", sampled(ASSETS), ids=IDS)


def test_the_four_assets_in_order() -> None:
    assert [asset.name for asset in ASSETS] == ["kernel", "init-oci", "supermachine-agent", "smpark.ko"]
    assert [oct(asset.mode) for asset in ASSETS] == ["0o644", "0o755", "0o755", "0o644"]


@each_asset
def test_path_view_bytes_and_constants_are_the_same_file(asset: Asset, installed: Path) -> None:
    assert asset.path == installed / "supermachine_kernel" / "assets" / asset.name
    content = asset.path.read_bytes()
    assert hashlib.sha256(content).hexdigest() == asset.sha256
    assert len(content) == asset.size == getattr(supermachine_kernel, f"{asset.prefix}_LEN")
    assert asset.read_bytes() == content == getattr(supermachine_kernel, f"{asset.prefix}_BYTES")
    with asset.view() as view:
        assert view == content
    asset.verify()


@each_asset
def test_view_is_read_only_and_mapped(asset: Asset) -> None:
    view = asset.view()
    assert view.readonly
    with pytest.raises(TypeError):
        view[0] = 0
    assert type(view.obj).__name__ == "mmap"
    view.release()


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/maps is of Linux")
def test_view_outlives_what_it_came_from_and_goes_with_its_last_user() -> None:
    path = str(supermachine_kernel.KERNEL.path)
    view = supermachine_kernel.KERNEL.view()
    part = view[:4096]
    del view
    assert path in Path("/proc/self/maps").read_text()
    assert bytes(part) == supermachine_kernel.KERNEL.read_bytes()[:4096]
    del part
    assert path not in Path("/proc/self/maps").read_text()


def test_assets_dir_is_the_flat_folder(installed: Path) -> None:
    folder = supermachine_kernel.assets_dir()
    assert folder == installed / "supermachine_kernel" / "assets"
    assert sorted(os.listdir(folder)) == sorted(asset.name for asset in ASSETS)


def test_manifest_speaks_of_these_files() -> None:
    manifest = supermachine_kernel.MANIFEST
    lines = sorted(f"{asset.sha256}  {asset.name}\n" for asset in ASSETS)
    lines.sort(key=lambda line: line.split()[1])
    assert manifest["set_digest"] == hashlib.sha256("".join(lines).encode()).hexdigest()
    assert manifest["version"] == supermachine_kernel.__version__
    assert {name: entry["mode"] for name, entry in manifest["assets"].items()} == {a.name: a.mode for a in ASSETS}


def test_the_manifest_is_the_callers_own() -> None:
    program = """\
import supermachine_kernel
manifest = supermachine_kernel.MANIFEST
manifest["assets"]["kernel"].clear()
manifest.clear()
supermachine_kernel.verify()
print(supermachine_kernel.MANIFEST["assets"]["kernel"]["sha256"])
"""
    done = child.python(program)
    assert done.stdout.strip() == supermachine_kernel.KERNEL.sha256, done.stderr


@each_asset
def test_a_copy_of_an_asset_is_that_asset(asset: Asset) -> None:
    assert copy.copy(asset) is asset
    assert copy.deepcopy([asset])[0] is asset
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(asset, protocol)) is asset


@one_asset_when_quick
def test_missing_asset_is_named_with_a_cure(asset: Asset, module_copy: Path) -> None:
    path = module_copy / "supermachine_kernel" / "assets" / asset.name
    path.unlink()
    uses = ("read_bytes()", "view()", "verify()", "extract_to('never')", "path")
    messages = child.errors_of([f"supermachine_kernel.{asset.prefix}.{use}" for use in uses], site=module_copy)
    for use, message in zip(uses, messages):
        kind = "AssetAttributeError" if use == "path" else "AssetMissingError"
        assert message.startswith(f"{kind}: {path}: expected a file of {asset.size} bytes, found nothing; ")
        assert "pip install --force-reinstall" in message
    message = child.error_of("supermachine_kernel.assets_dir()", site=module_copy)
    assert str(path) in message


@one_asset_when_quick
def test_asset_of_another_size_is_never_read(asset: Asset, module_copy: Path) -> None:
    path = module_copy / "supermachine_kernel" / "assets" / asset.name
    uses = ("path", "read_bytes()", "view()", "verify()", "extract_to('never')")
    for size in (0, asset.size - 1, asset.size + 1):
        os.truncate(path, size)
        codes = [f"supermachine_kernel.{asset.prefix}.{use}" for use in uses]
        for use, message in zip(uses, child.errors_of(codes, site=module_copy)):
            kind = "AssetAttributeError" if use == "path" else "AssetError"
            assert message.startswith(f"{kind}: {path}: expected {asset.size} bytes, found {size}; ")
            assert "pip install --force-reinstall" in message


def test_a_set_that_is_not_whole_is_not_begun(module_copy: Path, tmp_path: Path) -> None:
    (module_copy / "supermachine_kernel" / "assets" / "smpark.ko").unlink()
    child.error_of("supermachine_kernel.extract_all_to(sys.argv[1])", tmp_path / "out", site=module_copy)
    assert not (tmp_path / "out").exists()


DAMAGED = "expected the manifest of the assets, found a damaged one; "


@pytest.mark.parametrize(
    "text", sampled(["MANIFEST = (", "\0", "MANIFEST = {}", "MANIFEST = 1", 'MANIFEST = {"assets": {}}'])
)
def test_a_damaged_manifest_is_said_when_it_is_asked_for(module_copy: Path, text: str) -> None:
    path = module_copy / "supermachine_kernel" / "_manifest.py"
    path.write_text(text)
    message = child.error_of("supermachine_kernel.verify()", site=module_copy)
    assert message.startswith(f"AssetError: {path}: {DAMAGED}")
    for command in (["info"], ["bundle", module_copy / "never"]):
        done = child.command_line(*command, site=module_copy)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"supermachine-kernel: error: {path}: {DAMAGED}")
    done = child.command_line("doctor", site=module_copy)
    assert (done.returncode, done.stderr) == (1, "")
    assert not (module_copy / "never").exists()


def test_every_field_of_a_manifest_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = supermachine_kernel.MANIFEST
    places: list[tuple[str, ...]] = [(name,) for name in whole]
    places += [("assets", asset.name) for asset in ASSETS]
    places += [("assets", asset.name, field) for asset in ASSETS for field in whole["assets"][asset.name]]
    for *way, last in places:
        for changes in (dict[str, object](), {last: None}, {last: 1.5}):
            broken = parent = copy.deepcopy(whole)
            for name in way:
                parent = parent[name]
            del parent[last]
            parent.update(changes)
            monkeypatch.setattr(_assets, "MANIFEST", broken)
            with pytest.raises(AssetError, match=DAMAGED):
                supermachine_kernel.KERNEL.size  # noqa: B018
    more = {**whole, "more": 1}
    monkeypatch.setattr(_assets, "MANIFEST", more)
    assert more == supermachine_kernel.MANIFEST


@one_asset_when_quick
def test_one_flipped_byte_fails_verify(asset: Asset, module_copy: Path) -> None:
    path = module_copy / "supermachine_kernel" / "assets" / asset.name
    flip(path, asset.size // 2)
    message = child.error_of("supermachine_kernel.verify()", site=module_copy)
    assert message.startswith(f"AssetError: {path}: expected SHA-256 {asset.sha256}, found ")


def test_unreadable_asset_is_an_asset_error(module_copy: Path) -> None:
    path = module_copy / "supermachine_kernel" / "assets" / "kernel"
    path.chmod(0)
    loaded = "import importlib.metadata, os; from supermachine_kernel import KERNEL, _read"
    as_nobody = f"{loaded}; os.geteuid() or os.seteuid(65534)"
    message = child.error_of(f"{as_nobody}; supermachine_kernel.KERNEL.view()", site=module_copy)
    assert message.startswith(
        f"AssetError: {path}: expected a file of {ASSETS[0].size} bytes, found one that cannot be read "
    )
    assert "(Permission denied); " in message


def test_a_folder_in_the_place_of_an_asset_is_an_asset_error(module_copy: Path) -> None:
    path = module_copy / "supermachine_kernel" / "assets" / "kernel"
    path.unlink()
    path.mkdir()
    uses = ("read_bytes()", "view()", "extract_to('never')")
    for message in child.errors_of([f"supermachine_kernel.KERNEL.{use}" for use in uses], site=module_copy):
        assert message.startswith(f"AssetError: {path}: expected a file of ")


def test_a_file_in_the_place_of_the_folder_is_missing_assets(module_copy: Path) -> None:
    folder = module_copy / "supermachine_kernel" / "assets"
    shutil.rmtree(folder)
    folder.write_text("")
    uses = ("assets_dir()", "KERNEL.read_bytes()", "KERNEL.view()", "KERNEL.extract_to('never')")
    for message in child.errors_of([f"supermachine_kernel.{use}" for use in uses], site=module_copy):
        assert message.startswith(f"AssetMissingError: {folder / 'kernel'}: expected a file of ")


@pytest.mark.parametrize(
    ("version", "cure"),
    [
        ("0.7.62", 'pip install --force-reinstall "supermachine-kernel==0.7.62"'),
        ("0.7.62.post1", 'pip install --force-reinstall "supermachine-kernel==0.7.62.post1"'),
        (
            "0.7.62+custom.0a1b2c3d",
            "pip install --force-reinstall, with the file of the wheel: PyPI has no custom builds",
        ),
    ],
)
def test_the_cure_is_that_very_build(version: str, cure: str, module_copy: Path) -> None:
    manifest = module_copy / "supermachine_kernel" / "_manifest.py"
    manifest.write_text(manifest.read_text().replace(repr(supermachine_kernel.__version__), repr(version)))
    (module_copy / "supermachine_kernel" / "assets" / "kernel").unlink()
    message = child.error_of("supermachine_kernel.KERNEL.path", site=module_copy)
    assert f"; install the wheel again ({cure})" in message


def test_frozen_app_without_its_data_is_told_to_collect_it(module_copy: Path) -> None:
    (module_copy / "supermachine_kernel" / "assets" / "kernel").unlink()
    message = child.error_of("sys.frozen = True; supermachine_kernel.KERNEL.path", site=module_copy)
    assert message.endswith("; build the app again, with the data files of the package supermachine_kernel")


def test_a_checkout_is_told_to_build(module_copy: Path) -> None:
    """And an editable install: tests/wheel/test_editable.py."""
    for metadata in module_copy.glob("*.dist-info"):
        shutil.rmtree(metadata)
    (module_copy / "setup.cfg").touch()
    (module_copy / "supermachine_kernel" / "assets" / "kernel").unlink()
    message = child.error_of("supermachine_kernel.KERNEL.path", site=module_copy)
    assert message.endswith("; build the assets (python3 scripts/wheel.py --from-source), then pip install -e . again")


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))
