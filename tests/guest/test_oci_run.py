"""scripts/boot.py --oci, as its users run it."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import tarfile
import time
import urllib.request
from pathlib import Path

import pytest

from scripts.guest.oci_image import ImageError
from scripts.guest.oci_run import stop_signal
from tests.support import debian
from tests.support.index import free_port
from tests.support.oci_layout import TAG, busybox_layer, entry, layer, write

LIMIT = 300
"""Seconds for one command, on a machine that does many things at once."""


def boot(project: Path, assets: Path, image: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(project / "scripts" / "boot.py"), "--oci", image, str(assets), "--cpus", "1", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT)


@pytest.mark.slow
def test_an_image_runs_as_its_configuration_says(project: Path, built_set: Path, tmp_path: Path) -> None:
    """Layers in order, variables, working directory, user; output and errors apart; its exit status is ours."""
    script = "echo $GREETING $0; cat /etc/a; ls /etc/removed; pwd; id -u; id -g; echo to errors >&2; exit 7"
    config = {
        "Entrypoint": ["/bin/sh", "-c"],
        "Cmd": [script],
        "Env": ["GREETING=hello", "PATH=/bin"],
        "WorkingDir": "/made/for it",
        "User": "1000:50",
        "ExposedPorts": {"80/tcp": {}},
    }
    first = layer(entry("etc/a", data=b"lower\n"), entry("etc/removed", data=b""))
    second = layer(entry("etc/a", data=b"upper\n"), entry("etc/.wh.removed"))
    layout = write(tmp_path / "layout", [busybox_layer(), first, second], config)

    done = boot(project, built_set, f"{layout}:{TAG}")

    assert done.returncode == 7, done.stderr
    assert done.stdout.splitlines() == ["hello /bin/sh", "upper", "/made/for it", "1000", "50"]
    assert done.stderr.splitlines() == [
        "boot.py: the image exposes 80/tcp: --port HOST:80 publishes it",
        "ls: /etc/removed: No such file or directory",
        "to errors",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("count", [31, 32])
def test_an_image_has_as_many_layers_as_qemu_has_places_for(
    count: int, project: Path, built_set: Path, tmp_path: Path
) -> None:
    """From the 27th on the guest's names have two letters; the machine's 32nd place is that of vsock."""
    files = [layer(entry(f"layer-{number}")) for number in range(1, count)]
    config = {"Cmd": ["sh", "-c", "ls -d /layer-*"], "Env": ["PATH=/bin"]}
    done = boot(project, built_set, str(write(tmp_path / "layout", [busybox_layer(), *files], config)))
    if count == 32:
        assert done.returncode == 125
        assert "the image: expected at most 31 layers and volumes, for QEMU, found 32; make" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert sorted(done.stdout.split()) == sorted(f"/layer-{number}" for number in range(1, count))


@pytest.mark.slow
def test_a_command_replaces_cmd_and_a_volume_keeps_what_it_writes(
    project: Path, built_set: Path, tmp_path: Path
) -> None:
    layout = write(tmp_path / "layout", [busybox_layer()], {"Cmd": ["/bin/false"], "Env": ["PATH=/bin"]})
    volume = tmp_path / "volume.ext4"
    subprocess.run(["mkfs.ext4", "-q", volume, "8M"], check=True, capture_output=True)
    words = ["--volume", f"{volume}:/data", "--", "sh", "-c"]
    assert boot(project, built_set, str(layout), *words, "echo kept > /data/file").returncode == 0
    done = boot(
        project, built_set, str(layout), *words[:1], f"{words[1]}:ro", *words[2:], "cat /data/file; touch /data/x"
    )
    assert (done.returncode, done.stdout) == (1, "kept\n"), done.stderr


@pytest.mark.slow
def test_the_folder_of_each_declared_volume_is_there_and_can_be_written(
    project: Path, built_set: Path, tmp_path: Path
) -> None:
    """One that the image has keeps its owner, mode and content; links on the way lead to a place in the image."""
    first = layer(
        entry("full", tarfile.DIRTYPE, mode=0o700, uid=1000, gid=50),
        entry("full/file", data=b"kept\n"),
        entry("gone", tarfile.DIRTYPE, mode=0o711),
        entry("gone/file", data=b"gone\n"),
        entry("link", tarfile.SYMTYPE, linkname="/run"),
        entry("run", tarfile.DIRTYPE),
        entry("once", tarfile.SYMTYPE, linkname="/run"),
    )
    last = layer(entry(".wh.gone"), entry(".wh.once"), entry("etc/file", data=b""))
    names = ["full", "gone/folder", "link/below", "new/folder", "once/more"]
    script = (
        "for name; do echo x > $name/written && stat -c '%n %a %u:%g' $name && ls $name; done; ls -d /run/* /gone/*"
    )
    config = {
        "Entrypoint": ["sh", "-c", script, "sh", *(f"/{name}" for name in names)],
        "Env": ["PATH=/bin"],
        "Volumes": {f"/{name}": {} for name in [*names, "new/../link/./below/"]},
    }

    done = boot(project, built_set, str(write(tmp_path / "layout", [busybox_layer(), first, last], config)))

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        *("/full 700 1000:50", "file", "written"),
        *("/gone/folder 755 0:0", "written"),
        *("/link/below 755 0:0", "written"),
        *("/new/folder 755 0:0", "written"),
        *("/once/more 755 0:0", "written"),
        *("/gone/folder", "/run/below"),
    ]


@pytest.mark.slow
def test_ctrl_c_sends_the_image_its_stop_signal(project: Path, built_set: Path, tmp_path: Path) -> None:
    script = "trap 'echo stopping; exit 3' USR2; echo ready; while :; do sleep 0.1; done"
    config = {"Cmd": ["sh", "-c", script], "Env": ["PATH=/bin"], "StopSignal": "SIGUSR2"}
    layout = write(tmp_path / "layout", [busybox_layer()], config)
    command = [sys.executable, str(project / "scripts" / "boot.py"), "--oci", str(layout), "--cpus", "1"]
    with subprocess.Popen([*command, str(built_set)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == "stopping\n"
    assert process.returncode == 3


@pytest.mark.parametrize(
    ("text", "number"), [(None, 15), ("SIGQUIT", 3), ("INT", 2), ("SIGRTMIN+3", 37), ("9", 9), ("0", 0), ("SIG_DFL", 0)]
)
def test_a_stop_signal_is_a_name_or_a_number(text: str | None, number: int) -> None:
    if number:
        assert stop_signal({"StopSignal": text}) == number
    else:
        with pytest.raises(ImageError, match="StopSignal: expected a signal"):
            stop_signal({"StopSignal": text})


@pytest.mark.slow
def test_debian_s_python_runs(project: Path, built_set: Path, tmp_path: Path) -> None:
    tar = debian.layer("python3-minimal").read_bytes()
    layout = write(tmp_path / "layout", [tar], {"Entrypoint": ["python3", "-c"]})
    done = boot(project, built_set, str(layout), "--", "import sys, os; print(os.uname().machine, sys.version_info[0])")
    assert (done.returncode, done.stdout) == (0, "aarch64 3\n"), done.stderr


@pytest.mark.slow
def test_a_server_in_the_image_is_reached_at_the_port_of_this_machine(
    project: Path, built_set: Path, tmp_path: Path
) -> None:
    config = {"WorkingDir": "/etc", "ExposedPorts": {"8000/tcp": {}}}
    layout = write(tmp_path / "layout", [debian.layer("python3").read_bytes()], config)
    command = [
        sys.executable,
        str(project / "scripts" / "boot.py"),
        "--oci",
        str(layout),
        str(built_set),
        "--cpus",
        "1",
    ]
    port = free_port()
    command += ["--port", f"{port}:8000", "--", "python3", "-m", "http.server"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            page = _fetch(f"http://127.0.0.1:{port}/debian_version", process)
        finally:
            process.terminate()
            errors = process.stderr.read() if process.stderr else ""
    assert page.strip().startswith(b"12"), errors
    assert "exposes" not in errors


def _fetch(url: str, process: subprocess.Popen[str]) -> bytes:
    """The page, once the server listens."""
    end = time.monotonic() + LIMIT
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=LIMIT) as answer:
            return bytes(answer.read())
        time.sleep(0.5)
    return b""


def test_what_cannot_be_run_ends_with_125_and_one_line(project: Path, built_set: Path, tmp_path: Path) -> None:
    done = boot(project, built_set, str(tmp_path))
    assert done.returncode == 125
    assert done.stderr == (
        f"boot.py: {tmp_path}: expected an OCI layout or a docker archive, found neither index.json nor manifest.json; "
        "name its folder or file\n"
    )
    done = boot(project, built_set, str(write(tmp_path / "layout", [busybox_layer()], {})))
    assert done.returncode == 125
    assert (
        done.stderr == "boot.py: the image: expected an Entrypoint or a Cmd, found neither; name a command after --\n"
    )
    done = boot(project, built_set, str(write(tmp_path / "layout", [busybox_layer()], {"ExposedPorts": {"0/tcp": {}}})))
    assert done.returncode == 125
    assert done.stderr == (
        "boot.py: the image: ExposedPorts: expected ports from 1 to 65535, such as 80/tcp, found '0/tcp'; "
        "make the image again\n"
    )
