"""A real nginx on loopback, serving a folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from scripts.machine.packages import install_commands
from tests.support.index import free_port

_CONFIG = """\
{user}
daemon off;
worker_processes 1;
pid {work}/pid;
error_log {work}/error.log;
events {{ worker_connections 64; }}
http {{
    client_body_temp_path {work}/body; proxy_temp_path {work}/proxy; fastcgi_temp_path {work}/fastcgi;
    uwsgi_temp_path {work}/uwsgi; scgi_temp_path {work}/scgi;
    log_format short '$status $request_uri $http_range';
    access_log {work}/access.log short;
    sendfile on;
    server {{
        listen 127.0.0.1:{port};
        root {root};
    }}
}}
"""


@contextlib.contextmanager
def serve(root: Path, work: Path) -> Iterator[int]:
    """Serve the folder `root` on a free port of 127.0.0.1; `work` gets the logs (access.log: status, path, Range)."""
    install_commands(["nginx"])
    work.mkdir(exist_ok=True)
    for _ in range(5):  # the free port may be another's by the time nginx asks for it
        port = free_port()
        config = work / "nginx.conf"
        user = "user root;" if os.geteuid() == 0 else ""
        config.write_text(_CONFIG.format(user=user, work=work, root=root, port=port))
        command = [shutil.which("nginx") or "/usr/sbin/nginx", "-p", str(work), "-c", str(config)]
        with (work / "output").open("wb") as output:
            server = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            if _answers(server, port):
                yield port
                return
        finally:
            server.terminate()
            server.wait(10)
    raise RuntimeError(f"nginx does not start: {(work / 'output').read_text()}")


def _answers(server: subprocess.Popen[bytes], port: int) -> bool:
    for _ in range(200):
        if server.poll() is not None:
            return False
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        time.sleep(0.02)
    return False
