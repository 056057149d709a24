"""scripts/boot.py as its users run it: the finished wheel passes, and what is broken fails at its own stage."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NoReturn

import pytest

from scripts import boot as boot_program
from scripts.boot import NETWORK_STAGES, STAGES
from scripts.guest.initramfs import guest_initramfs
from scripts.guest.network_boot import CONFIG, PROOFS, boot_network
from scripts.guest.qemu import Boot, Line
from scripts.guest.stages import describe_failure, stages_of
from scripts.guest.virtqueue import GuestError
from tests.support.guest import assert_ended_well
from tests.support.native_agent import wait_until

BOOT = Path(__file__).resolve().parents[2] / "scripts" / "boot.py"


def run(
    *arguments: object, path: Path | None = None, python: Path | str = sys.executable
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **({"PATH": str(path)} if path else {})}
    command = [str(python), str(BOOT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.fixture
def broken(built_set: Path, tmp_path: Path) -> Path:
    """A copy of the four files, for a test to break one."""
    folder = tmp_path / "assets"
    folder.mkdir()
    for asset in ("init-oci", "kernel", "smpark.ko", "supermachine-agent"):
        shutil.copy(built_set / asset, folder)
    return folder


@pytest.mark.slow
def test_every_stage_of_the_wheel_s_boot_is_seen_in_order(wheel: Path) -> None:
    done = run(wheel, "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["result"], report["failure"]) == (0, "PASS", None), done.stdout
    assert [stage["name"] for stage in report["stages"]] == [stage.name for stage in STAGES]
    times = [stage["ms"] for stage in report["stages"]]
    assert times == sorted(times)
    assert times[0] > 0
    assert times[-1] <= report["ms"]
    lines = {stage["name"]: stage["line"] for stage in report["stages"]}
    assert lines["PARK and UNPARK"] == "selftest: smpark: ok: parked and released 3 of 4 CPUs"


@pytest.mark.slow
def test_wheel_passes_with_a_python_that_has_no_pip(wheel: Path, tmp_path: Path) -> None:
    """As Debian's python3 is."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    python = tmp_path / "bare/bin/python"
    assert subprocess.run([python, "-c", "import pip"], capture_output=True, check=False).returncode
    done = run(wheel, python=python)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_folder_passes_on_one_cpu(built_set: Path) -> None:
    done = run(built_set, "--cpus", 1, "--verbose")
    assert done.returncode == 0, done.stdout
    *stages, result = done.stdout.splitlines()
    assert re.fullmatch(rf"PASS: {len(STAGES)} stages in \d+ ms", result)
    assert [re.split(r" ms  ", line)[1].startswith(stage.name) for line, stage in zip(stages, STAGES)] == [True] * 10
    assert "parked and released 0 of 1 CPUs" in done.stdout
    assert re.search(r"^ *\d+ ms  init-oci: guest contract 2$", done.stderr, re.MULTILINE)


@pytest.mark.slow
def test_guest_is_started_as_the_real_host_does(built_set: Path) -> None:
    """512 KiB above the beginning of memory, which the kernel bears and mentions, and with its command line."""
    done = run(built_set, "--cpus", 1, "--verbose")
    assert done.returncode == 0, done.stdout
    assert "[Firmware Bug]: Kernel image misaligned at boot" in done.stderr
    assert re.search(r"Kernel command line: console=ttyAMA0 reboot=t panic=-1\s*$", done.stderr, re.MULTILINE)
    assert "/262144K available" in done.stderr
    assert "GICv3: GICv3 features" in done.stderr


@pytest.mark.slow
def test_curl_uses_the_network_of_the_host(wheel: Path) -> None:
    """In a guest without a network device it resolves a name, fetches a page, and is served one."""
    done = run(wheel, "--network", "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["failure"]) == (0, None), done.stdout
    assert [stage["name"] for stage in report["stages"]] == [stage.name for stage in NETWORK_STAGES]


@pytest.mark.slow
def test_curl_has_no_network_with_af_tsi_switched_off(built_set: Path, tmp_path: Path) -> None:
    initramfs = tmp_path / "initramfs"
    initramfs.write_bytes(guest_initramfs(built_set, CONFIG).pack())
    seen = boot_network(
        built_set / "kernel",
        initramfs,
        cpus=2,
        memory="256M",
        limit=200.0,
        on_line=lambda line: None,
        switch="tsi_hijack=0",
    )
    assert_ended_well(seen)
    assert [proof for proof in PROOFS.values() if re.search(proof, seen.text, re.MULTILINE)] == [PROOFS["no device"]]


@pytest.mark.slow
def test_a_truncated_module_fails_at_its_stage(broken: Path) -> None:
    module = broken / "smpark.ko"
    module.write_bytes(module.read_bytes()[:4096])
    assert_fails_at(run(broken), "smpark.ko", "QEMU ended with 0")


@pytest.mark.slow
def test_a_program_that_is_none_fails_at_its_stage(broken: Path) -> None:
    shutil.copy(broken / "smpark.ko", broken / "init-oci")
    done = run(broken)
    assert_fails_at(done, "init-oci", "QEMU ended with 0")
    assert "No working init found" in done.stdout


@pytest.mark.slow
def test_agent_that_is_none(broken: Path) -> None:
    shutil.copy(broken / "smpark.ko", broken / "supermachine-agent")
    done = run(broken)
    assert_fails_at(done, "entrypoint", "QEMU ended with 0")
    assert "Exec format error" in done.stdout


@pytest.mark.slow
def test_a_boot_that_hangs_is_ended_by_the_time_limit(broken: Path) -> None:
    shutil.copy(broken / "supermachine-agent", broken / "init-oci")  # as PID 1 it serves for ever
    listening = "supermachine-agent: listening on vsock port 777"
    for limit in (10, 60, 300):  # a busy machine needs longer to come so far
        done = run(broken, "--timeout", limit)
        if listening in done.stdout:
            break
    assert_fails_at(done, "init-oci", f"the time limit of {limit} s ended the boot")
    assert listening in done.stdout
    assert not still_running(broken)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_ended_by_a_signal(number: signal.Signals, broken: Path, tmp_path: Path) -> None:
    shutil.copy(broken / "supermachine-agent", broken / "init-oci")  # as PID 1 it serves for ever
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    command = [sys.executable, str(BOOT), str(broken)]
    with subprocess.Popen(command, env={**os.environ, "TMPDIR": str(temporary)}, stderr=subprocess.PIPE) as running:
        wait_until(lambda: still_running(temporary), 60)
        running.send_signal(number)
        assert running.wait(timeout=60) != 0
    assert not still_running(temporary)
    assert not list(temporary.iterdir())


@pytest.mark.slow
def test_qemu_ends_when_the_program_is_killed(broken: Path, tmp_path: Path) -> None:
    """No program can clean up then; QEMU ends all the same."""
    shutil.copy(broken / "supermachine-agent", broken / "init-oci")  # as PID 1 it serves for ever
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    command = [sys.executable, str(BOOT), str(broken)]
    with subprocess.Popen(command, env={**os.environ, "TMPDIR": str(temporary)}) as running:
        wait_until(lambda: still_running(temporary), 60)
        running.kill()
    wait_until(lambda: not still_running(temporary), 60)


@pytest.mark.slow
def test_kernel_that_is_none(broken: Path) -> None:
    (broken / "kernel").write_bytes(bytes(range(256)) * 4096)
    done = run(broken, "--timeout", 3)
    assert_fails_at(done, "kernel", "the time limit of 3 s ended the boot")
    assert done.stdout.splitlines()[-1] == "the console said nothing"
    assert not still_running(broken)


@pytest.mark.slow
def test_kernel_that_qemu_refuses(broken: Path) -> None:
    (broken / "kernel").write_bytes(b"")
    os.truncate(broken / "kernel", 513 << 20)  # more than the guest's memory
    done = run(broken)
    assert_fails_at(done, "kernel", "QEMU ended with 1")
    assert "too large to fit in RAM" in done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("status", "failure"),
    [(0, None), (1, "QEMU ended with 1 after 30 ms"), (None, "the time limit of 5 s ended the boot")],
)
def test_every_stage_and_another_ending(status: int | None, failure: str | None) -> None:
    said = ["Linux version 6.12.1", "init-oci: guest contract 2"]
    said += ["init-oci: /supermachine-smpark.ko loaded, /dev/smpark is there"]
    said += ["init-oci: overlay root on 1 layers, upper tmpfs", "selftest: pid1: ok: 1", "selftest: root: ok: /"]
    said += ["selftest: smpark: ok: 3", "selftest: agent: ok: ran", "init-oci: exit status 0", "reboot: Power down"]
    boot = Boot([Line(ms, text) for ms, text in enumerate(said)], status, 30)
    reached = stages_of(boot, STAGES)
    assert [stage.text for stage in reached] == said
    assert describe_failure(boot, reached, 5.0, STAGES) == failure


def assert_fails_at(done: subprocess.CompletedProcess[str], stage: str, ending: str) -> None:
    assert (done.returncode, done.stderr) == (1, ""), done.stderr
    (failure,) = (line for line in done.stdout.splitlines() if line.startswith("FAIL: "))
    assert failure.startswith(f"FAIL: {stage}: expected a console line like ")
    assert ending in failure


def still_running(folder: Path) -> bool:
    found = False
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            words = path.read_bytes()
            found |= str(folder).encode() in words and b"qemu" in words
    return found


def test_an_incomplete_folder_names_the_files_that_are_missing(tmp_path: Path) -> None:
    (tmp_path / "kernel").touch()
    done = run(tmp_path)
    expected = (
        f"boot.py: {tmp_path}: expected init-oci, kernel, smpark.ko, supermachine-agent,"
        " found no init-oci, smpark.ko, supermachine-agent; build the set first\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "", expected)


def test_what_keeps_the_guest_from_booting_has_its_fields_in_json(tmp_path: Path) -> None:
    done = run(tmp_path, "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout) == {
        "error": {
            "subject": str(tmp_path),
            "expected": "init-oci, kernel, smpark.ko, supermachine-agent",
            "found": "no init-oci, kernel, smpark.ko, supermachine-agent",
            "cure": "build the set first",
        }
    }
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_wheel_of_another_package(tmp_path: Path) -> None:
    wheel = tmp_path / "other-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("other-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: other\nVersion: 1\n")
        archive.writestr("other-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("other-1.dist-info/RECORD", "")
        archive.writestr("supermachine_kernel.py", "")
    done = run(wheel)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        f"boot.py: {wheel}: expected an installed module that hands out the assets, found an error: "
    )


def test_wheel_that_is_none(tmp_path: Path) -> None:
    wheel = tmp_path / "supermachine_kernel-0.7.62-py3-none-any.whl"
    wheel.write_bytes(b"no wheel")
    done = run(wheel)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"boot.py: {wheel.name}: expected a wheel that pip installs, found ERROR: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: WHEEL_OR_DIR"),
        (["/no/such.whl"], "/no/such.whl: expected a file or a folder, found nothing"),
        ([__file__], f"{__file__}: expected a wheel or a folder with the assets of a set"),
        ([".", "--cpus", "9"], "9: expected a number from 1 to 8"),
        ([".", "--timeout", "0"], "0: expected a number of seconds above 0"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.rstrip().endswith(message)


def test_help_names_the_options_and_shows_examples() -> None:
    done = run("--help")
    assert done.returncode == 0
    for word in ("WHEEL_OR_DIR", "--timeout", "--cpus", "--json", "PASS", "examples:"):
        assert word in done.stdout


def test_a_machine_without_qemu_and_apt_is_told_what_to_install(tmp_path: Path) -> None:
    done = run(tmp_path, path=tmp_path)  # a PATH without QEMU, and without the apt-get that would install it
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("boot.py: qemu-system-arm: expected to be installed, found no apt-get")


def test_a_guest_that_breaks_the_protocol_of_its_devices_is_one_line(
    built_set: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> NoReturn:
        raise GuestError("the vsock device has failed: expected a ring")

    monkeypatch.setattr(boot_program, "boot_assets", broken)
    assert boot_program.main([str(built_set)]) == 1
    assert capsys.readouterr().err.endswith(
        ": the guest's devices: found the vsock device has failed: expected a ring\n"
    )
