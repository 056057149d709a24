"""A package index on loopback (pypiserver), filled by twine, and an environment in which it is the only one."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

Done = subprocess.CompletedProcess[str]

PIP_ON_A_MAC = """
import sys
from pip._vendor.packaging import markers
own = markers.default_environment
mac = {"os_name": "posix", "sys_platform": "darwin", "platform_system": "Darwin", "platform_machine": "arm64"}
markers.default_environment = lambda: {**own(), **mac}
from pip._internal.cli.main import main
sys.exit(main())
"""


@contextlib.contextmanager
def serve(packages: Path, log: Path) -> Iterator[str]:
    """Serve the folder `packages` on a free port of 127.0.0.1 and take uploads into it; gives the URL."""
    for _ in range(5):  # the free port may be another's by the time the server asks for it
        port = free_port()
        command = [sys.executable, "-m", "pypiserver", "run", "-i", "127.0.0.1", "-p", str(port), "-a", ".", "-P", "."]
        command += ["--disable-fallback", str(packages)]
        with log.open("ab") as output:
            server = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            if _answers(server, port):
                yield f"http://127.0.0.1:{port}/"
                return
        finally:
            server.terminate()
            server.wait(10)
    raise RuntimeError(f"pypiserver does not start: {log.read_text()}")


def upload(url: str, *files: Path) -> None:
    """Upload as a release does."""
    command = [sys.executable, "-m", "twine", "upload", "--non-interactive", "--disable-progress-bar"]
    command += ["--repository-url", url, "--username", "anyone", "--password", "anything", *map(str, files)]
    run(command).check_returncode()


def run(command: list[str], cwd: Path | None = None, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a tool without this machine's own settings of indexes, caches and Pythons; both outputs in `stdout`."""
    settings = ("PIP_", "UV_", "TWINE_", "PYTHON", "SUPERMACHINE_", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(settings)}
    environment.update(
        PIP_CONFIG_FILE=os.devnull,
        PIP_DISABLE_PIP_VERSION_CHECK="1",
        UV_NO_CONFIG="1",
        UV_PYTHON_DOWNLOADS="never",
        NO_COLOR="1",
        COLUMNS="1000",  # messages of one line stay on one
    )
    environment.update(more)
    return subprocess.run(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )


def pip(url: str, command: str, *arguments: str | Path, on_a_mac: bool = False) -> Done:
    start = ["-c", PIP_ON_A_MAC] if on_a_mac else ["-m", "pip"]
    options = ["--index-url", f"{url}simple/", "--no-cache-dir"]
    return run([sys.executable, *start, command, *options, *map(str, arguments)])


def uv(url: str, command: str, *arguments: str | Path) -> Done:
    options = ["--default-index", f"{url}simple/", "--no-cache", "--python", sys.executable]
    return run([sys.executable, "-m", "uv", *command.split(), *options, *map(str, arguments)])


def good(done: Done) -> str:
    assert done.returncode == 0, done.stdout
    return done.stdout


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens at, for now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _answers(server: subprocess.Popen[bytes], port: int) -> bool:
    for _ in range(200):
        if server.poll() is not None:
            return False
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/simple/", timeout=10):
            return True
        time.sleep(0.05)
    return False
