"""The command line, run as people run it."""

from __future__ import annotations

import json
import os
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import supermachine_kernel
from supermachine_kernel import ASSETS, KERNEL, MANIFEST
from supermachine_kernel.__main__ import main
from tests.support import child
from tests.support.quick import sampled

NAMES = [asset.name for asset in ASSETS]
COMMANDS = ["info", "path", "extract", "verify", "bundle", "doctor"]


class TestHelp:
    @pytest.mark.parametrize("command", ["", *COMMANDS])
    def test_help_has_examples_and_fits_80_columns(
        self, command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "80")
        status, output, _ = call([*command.split(), "--help"], capsys)
        assert status == 0
        assert "examples:\n  supermachine-kernel " in output
        assert output.startswith(f"usage: supermachine-kernel {command}".rstrip())
        assert max(map(len, output.splitlines())) <= 80

    def test_every_command_is_in_the_help(self) -> None:
        text = child.command_line("--help").stdout
        assert all(f"    {command} " in text for command in COMMANDS)

    def test_version_is_that_of_the_assets(self) -> None:
        assert child.command_line("--version").stdout == f"supermachine-kernel {supermachine_kernel.__version__}\n"

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "error: the following arguments are required: COMMAND"),
            (["frobnicate"], "invalid choice: 'frobnicate'"),
            (["path", "initrd"], "no asset 'initrd': the assets are kernel, init-oci, supermachine-agent, smpark.ko"),
            (["extract"], "error: the following arguments are required"),
            (["extract", "initrd", "DIR"], "no asset 'initrd': the assets are"),
            (["extract", "kernel"], "which folder? For one named like the asset: extract ./kernel"),
            (["bundle"], "error: the following arguments are required: TARGET"),
            (["bundle", ""], "the name is empty: is a variable unset?"),
            (["extract", ""], "the name is empty"),
            (["verify", ""], "the name is empty"),
            (["info", "--yaml"], "error: unrecognized arguments: --yaml"),
        ],
    )
    def test_usage_errors_are_2(self, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
        status, output, errors = call(arguments, capsys)
        assert (status, output) == (2, "")
        assert errors.startswith("usage: supermachine-kernel ")
        assert message in errors.splitlines()[-1]

    def test_usage_is_the_exit_status_too(self) -> None:
        assert child.command_line("frobnicate").returncode == 2


def call(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[object, str, str]:
    """`main` in this process: its status, or that of the SystemExit of argparse, and what it printed."""
    try:
        status: object = main(arguments)
    except SystemExit as ended:
        status = ended.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


class TestInfo:
    def test_the_table_has_every_asset_and_fits_80_columns(self, capsys: pytest.CaptureFixture[str]) -> None:
        status, output, errors = call(["info"], capsys)
        assert (status, errors) == (0, "")
        assert output.startswith(f"supermachine-kernel {supermachine_kernel.__version__}, an installed wheel\n")
        assert MANIFEST["set_digest"] in output
        for asset in ASSETS:
            row = [asset.name, str(asset.size), f"{asset.mode:04o}", asset.licence, f"{asset.sha256[:16]}..."]
            assert row in [line.split() for line in output.splitlines()]
        assert max(len(line) for line in output.splitlines() if os.sep not in line) <= 80

    def test_json_has_the_manifest_and_the_licences(self, installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
        found = json.loads(call(["info", "--json"], capsys)[1])
        assert (found["command"], found["format"], found["installation"]) == ("info", 1, "wheel")
        assert found["directory"] == str(installed / "supermachine_kernel" / "assets")
        assert {key: found[key] for key in MANIFEST if key != "assets"} == {
            key: value for key, value in MANIFEST.items() if key != "assets"
        }
        for asset in ASSETS:
            assert found["assets"][asset.name] == {
                "licence": asset.licence,
                "mode": asset.mode,
                "sha256": asset.sha256,
                "size": asset.size,
            }


class TestPath:
    def test_the_folder_or_the_named_asset_is_printed(
        self, installed: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = installed / "supermachine_kernel" / "assets"
        assert child.command_line("path").stdout == f"{folder}\n"
        for name in NAMES:
            assert call(["path", name], capsys) == (0, f"{folder / name}\n", "")
        assert json.loads(child.command_line("path", "kernel", "--json").stdout) == {
            "format": 1,
            "command": "path",
            "path": str(folder / "kernel"),
        }

    def test_missing_is_one_line_and_1(self, module_copy: Path) -> None:
        path = module_copy / "supermachine_kernel" / "assets" / "kernel"
        path.unlink()
        for arguments in (["path"], ["path", "kernel"]):
            done = child.command_line(*arguments, site=module_copy)
            assert (done.returncode, done.stdout) == (1, "")
            assert done.stderr.startswith(f"supermachine-kernel: error: {path}: expected a file of ")
            assert len(done.stderr.splitlines()) == 1
            done = child.command_line(*arguments, "--json", site=module_copy)
            assert done.returncode == 1
            assert len(done.stderr.splitlines()) == 1
            failed = json.loads(done.stdout)
            assert (failed["command"], failed["error"]["subject"]) == ("path", str(path))
            assert (failed["error"]["expected"], failed["error"]["found"]) == (
                f"a file of {KERNEL.size} bytes",
                "nothing",
            )
            assert failed["error"]["cure"].startswith("install the wheel again")

    @pytest.mark.skipif(sys.platform == "darwin", reason="APFS has no names that are not UTF-8")
    def test_a_folder_that_is_not_utf_8_goes_out_as_it_is(self, module_copy: Path) -> None:
        odd = os.fsencode(module_copy.parent) + b"/s\xffte"
        os.rename(module_copy, odd)
        command = [sys.executable, "-m", "supermachine_kernel", "path", "kernel"]
        environment = {**os.environb, b"PYTHONPATH": odd, b"LC_ALL": b"C.UTF-8"}
        done = subprocess.run(command, env=environment, cwd=odd, capture_output=True, check=True)
        assert done.stdout == odd + b"/supermachine_kernel/assets/kernel\n"


class TestExtract:
    def test_all_assets_or_those_named_are_written(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        status, output, _ = call(["extract", str(tmp_path / "a" / "all")], capsys)
        assert status == 0
        assert output.splitlines() == [str(tmp_path / "a" / "all" / name) for name in NAMES]
        for asset in ASSETS:
            assert (tmp_path / "a" / "all" / asset.name).read_bytes() == asset.read_bytes()
            if asset.mode & 0o111:
                assert stat.S_IMODE((tmp_path / "a" / "all" / asset.name).stat().st_mode) == asset.mode
        _, output, _ = call(["extract", "smpark.ko", "init-oci", str(tmp_path / "some"), "--json"], capsys)
        assert json.loads(output) == {
            "format": 1,
            "command": "extract",
            "directory": str(tmp_path / "some"),
            "files": [str(tmp_path / "some" / "smpark.ko"), str(tmp_path / "some" / "init-oci")],
        }
        assert sorted(os.listdir(tmp_path / "some")) == ["init-oci", "smpark.ko"]

    def test_into_a_folder_named_like_an_asset(self, tmp_path: Path) -> None:
        (tmp_path / "kernel").mkdir()
        environment = child.environment_with(None, {})
        command = [sys.executable, "-m", "supermachine_kernel", "extract"]
        subprocess.run([*command, "kernel"], cwd=tmp_path, env=environment, check=True, stdout=subprocess.DEVNULL)
        subprocess.run([*command, "./init-oci"], cwd=tmp_path, env=environment, check=True, stdout=subprocess.DEVNULL)
        assert sorted(os.listdir(tmp_path / "kernel")) == sorted(os.listdir(tmp_path / "init-oci")) == sorted(NAMES)

    def test_a_file_in_the_way_of_the_folder_is_one_line(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "file").write_text("mine")
        status, _, errors = call(["extract", str(tmp_path / "file")], capsys)
        assert status == 1
        assert errors == (
            f"supermachine-kernel: error: {tmp_path / 'file'}: expected a folder, found a file in its way; remove it, "
            "or name another folder\n"
        )


class TestVerify:
    def test_a_good_installation_is_ok_for_each_asset(self, capsys: pytest.CaptureFixture[str]) -> None:
        status, output, errors = call(["verify"], capsys)
        assert (status, errors) == (0, "")
        assert [line.split() for line in output.splitlines()] == [[name, "ok"] for name in NAMES]
        found = json.loads(call(["verify", "--json"], capsys)[1])
        assert found["ok"] is True

    @pytest.mark.parametrize("name", sampled(NAMES))
    def test_one_flipped_byte_is_1_and_named(self, name: str, module_copy: Path) -> None:
        path = module_copy / "supermachine_kernel" / "assets" / name
        self.flip(path)
        done = child.command_line("verify", site=module_copy)
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"supermachine-kernel: error: {path}: expected SHA-256 ")
        assert [line.split() for line in done.stdout.splitlines()] == [
            [each, "bad" if each == name else "ok"] for each in NAMES
        ]

    def test_every_bad_one_is_listed(self, module_copy: Path) -> None:
        for name in ("kernel", "smpark.ko"):
            self.flip(module_copy / "supermachine_kernel" / "assets" / name)
        done = child.command_line("verify", site=module_copy)
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 2
        done = child.command_line("verify", "--json", site=module_copy)
        assert (done.returncode, done.stderr) == (1, "")
        found = json.loads(done.stdout)
        assert [file["name"] for file in found["files"] if not file["ok"]] == ["kernel", "smpark.ko"]
        assert all((file["error"] is None) == file["ok"] for file in found["files"])
        error = found["files"][0]["error"]
        assert error["subject"] == str(module_copy / "supermachine_kernel" / "assets" / "kernel")
        assert error["cure"].startswith("install the wheel again")

    def test_a_flipped_byte_in_a_folder_or_an_app_is_named(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "My.app" / "Contents").mkdir(parents=True)
        for target in (tmp_path / "folder", tmp_path / "My.app"):
            assert call(["bundle", str(target)], capsys)[0] == 0
            status, _, errors = call(["verify", str(target)], capsys)
            assert status == 0, errors
            (kernel,) = target.rglob("kernel")
            self.flip(kernel)
            status, _, errors = call(["verify", str(target)], capsys)
            assert status == 1
            assert f"error: {kernel}: expected SHA-256 " in errors
            assert f"; put the set there again: supermachine-kernel bundle {target}\n" in errors

    def test_the_cure_is_a_command_that_works(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folder = tmp_path / "my app's"
        folder.mkdir()
        (folder / "manifest.json").write_text("{}")
        _, _, errors = call(["verify", str(folder)], capsys)
        (cure,) = {line.rpartition("; ")[2] for line in errors.splitlines()}
        command = shlex.join(["supermachine-kernel", "bundle", str(folder)])
        assert cure == f"move manifest.json away and put the set there again: {command}"
        (folder / "manifest.json").unlink()
        _, _, errors = call(["verify", str(folder)], capsys)
        (cure,) = {line.rpartition("; ")[2] for line in errors.splitlines()}
        assert cure == f"put the set there again: {command}"
        assert call(shlex.split(cure.rpartition(": ")[2])[1:], capsys)[0] == 0
        assert call(["verify", str(folder)], capsys)[0] == 0

    def test_quick_reads_no_file_that_was_proven(self, tmp_path: Path) -> None:
        folder = supermachine_kernel.ensure_assets(tmp_path)
        program = """\
import sys
from supermachine_kernel.__main__ import main
opened = []
sys.addaudithook(lambda name, arguments: opened.append(str(arguments[0])) if name == "open" else None)
status = main(["verify", *sys.argv[1:]])
print(status, sum(path.endswith("kernel") for path in opened))
"""
        assert child.python(program, folder, "--quick").stdout.splitlines()[-1] == "0 0"
        assert child.python(program, folder).stdout.splitlines()[-1] == "0 1"
        self.flip(folder / "kernel")
        assert child.python(program, folder, "--quick").stdout.splitlines()[-1] == "1 1"

    def test_a_folder_that_is_not_there_is_one_line_with_a_cure(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        status, _, errors = call(["verify", str(tmp_path / "none")], capsys)
        assert status == 1
        assert errors == (
            f"supermachine-kernel: error: {tmp_path / 'none'}: expected a folder with the set, found none; name one, "
            "or make it with bundle\n"
        )

    def flip(self, path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[len(content) // 3] ^= 4
        path.write_bytes(content)


class TestBundle:
    def test_a_second_run_writes_nothing_into_the_app(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        app = tmp_path / "My.app"
        (app / "Contents").mkdir(parents=True)
        resources = app / "Contents" / "Resources"
        for action in ("written", "kept"):
            status, output, errors = call(["bundle", str(app)], capsys)
            assert (status, errors) == (0, "")
            assert output.splitlines()[0] == str(resources)
            assert {tuple(line.split()) for line in output.splitlines()[1:]} == {
                (name, action) for name in [*NAMES, "manifest.json"]
            }
        found = json.loads(call(["bundle", str(app), "--json"], capsys)[1])
        assert found["directory"] == str(resources)
        assert {file["action"] for file in found["files"]} == {"kept"}

    def test_a_broken_signature_is_said(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        app = tmp_path / "My.app"
        (app / "Contents" / "_CodeSignature").mkdir(parents=True)
        status, _, errors = call(["bundle", str(app)], capsys)
        assert status == 0
        assert errors == (
            f"supermachine-kernel: warning: {app}: its signature seals the resources, which changed; sign it again\n"
        )
        assert call(["bundle", str(app)], capsys)[2] == "", "nothing changed, nothing to sign"

    def test_an_app_without_contents_is_one_line_with_a_cure(self, tmp_path: Path) -> None:
        done = child.command_line("bundle", tmp_path / "My.app")
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1
        assert "build the app first" in done.stderr
