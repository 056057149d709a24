"""AF_TSI beside what it is made of, and beside virtio-net, in one boot of one guest, in turns.

The guest has AF_TSI and a network device of QEMU's user networking. Python in it does the same with sockets of
AF_INET, which go through the host by AF_TSI, and of AF_VSOCK; both lead to the same server here. nginx in it is asked
by wrk here, through the host's listener and through the network device.
"""

from __future__ import annotations

import contextlib
import re
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from scripts.benchmarks.figure import MIB, BenchError, Figure, built_set
from scripts.guest import qemu
from scripts.guest.agent import Agent
from scripts.guest.agent_frames import PORT
from scripts.guest.behaviour import Behaviour
from scripts.guest.debian_root import debian_root
from scripts.guest.device import Device
from scripts.guest.initramfs import guest_initramfs
from scripts.guest.tsi import Host
from scripts.machine.packages import install_commands, install_packages
from scripts.machine.program import log

TURNS_A_ROUND = 5
SIZE = 64 * MIB
CONNECTIONS = 300
SECONDS = 3
LIMIT = 600.0
_HOST = Behaviour(buffer=8 << 20)
"""Present-day hosts announce buffers of 8 MiB."""

_CPU = ("-cpu", "max,pauth=off")
"""Linux enables pointer authentication for programs and not for its own threads, so a switch between the two writes
SCTLR_EL1. QEMU, unlike a processor, then forgets every address that it has translated: `info jit` of its monitor counts
that.
"""

_STREAM, _CONTROL, _WEB = 7000, 7001, 8090
_ASK, _TELL = bytes(8), bytes(136)
"""As long as CREATE and CONNECT are."""

_MEASURE = """\
import socket, sys, time
what, family, port, number = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
tsi = family == "AF_TSI"

def connected():
    sock = socket.socket(socket.AF_INET if tsi else socket.AF_VSOCK, socket.SOCK_STREAM)
    sock.connect(("127.0.0.1", port) if tsi else (2, port))
    return sock

if what == "send":
    sock, data = connected(), bytes(1 << 20)
    started = time.perf_counter()
    for _ in range(number >> 20):
        sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)
    assert sock.recv(1) == b"."
else:
    control = None
    if not tsi:
        control = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        control.connect((2, 7001))
    started = time.perf_counter()
    for _ in range(number):
        if control:
            control.send(bytes(8))
            control.send(bytes(136))
            assert control.recv(4)
        connected().close()
print(number / (time.perf_counter() - started))
"""
_SERVER = """\
import socket, threading

def take(sock):
    room = bytearray(1 << 20)
    with sock:
        while sock.recv_into(room):
            pass
        sock.sendall(b".")

with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
    print(listener.getsockname()[1], flush=True)
    while True:
        threading.Thread(target=take, args=(listener.accept()[0],), daemon=True).start()
"""
"""It takes whatever it is sent, and says when that has ended."""

_NGINX = (
    "daemon off; user root; worker_processes 1; error_log /tmp/error; pid /tmp/pid; events {} http { access_log off;"
    " root /www; client_body_temp_path /tmp/b; keepalive_requests 1000000; server { listen 8090; } }"
)
_CONFIG = "lower=/dev/vda\naddress=eth0=10.0.2.15/24\narg=nginx\narg=-c\narg=/etc/bench.conf\n"
_FILES = {
    "etc/bench.conf": _NGINX,
    "www/index.html": "a page\n",
    "var/lib/nginx/.keep": "",
    "var/log/nginx/.keep": "",
}


def network(rounds: int) -> list[Figure]:
    """AF_TSI beside AF_VSOCK and virtio-net: bytes, connections and requests a second, five times a round."""
    install_commands([qemu.PROGRAM])
    install_packages(["wrk"])
    took: dict[str, list[float]] = {}
    with _guest() as (agent, ports):
        for turn in range(TURNS_A_ROUND * rounds):
            log(f"turn {turn + 1} of {TURNS_A_ROUND * rounds}")
            for what, number in (("send", SIZE), ("connect", CONNECTIONS)):
                for family in ("AF_TSI", "AF_VSOCK"):
                    took.setdefault(f"{what} {family}", []).append(_measure(agent, what, family, ports, number))
            for name in ("nginx AF_TSI", "nginx virtio-net"):
                for what, value in _answers(agent, ports[name]).items():
                    took.setdefault(f"{name}{what}", []).append(value)
    return _figures(took)


def _figures(took: dict[str, list[float]]) -> list[Figure]:
    figures = []
    for mine, other, unit, most in (
        ("send AF_TSI", "send AF_VSOCK", "MiB/s", 1 / 0.9),
        ("connect AF_TSI", "connect AF_VSOCK", "1/s", 1 / 0.8),
        ("nginx AF_TSI", "nginx virtio-net", "1/s", 1.0),
    ):
        figures += [Figure(name, statistics.median(took[name]), unit) for name in (mine, other)]
        ratios = [theirs / ours for theirs, ours in zip(took[other], took[mine])]
        figures.append(Figure.ratio(f"{other} / {mine.partition(' ')[2]}", ratios, round(most, 3)))
    figures += [Figure(name, statistics.median(took[name]), "an answer") for name in took if ", " in name]
    return figures


@contextlib.contextmanager
def _guest() -> Iterator[tuple[Agent, dict[str, int]]]:
    """A guest that runs nginx, its agent, and the ports here that lead to the server and, by each path, to nginx."""
    assets = built_set()
    root = debian_root(["python3-minimal", "libpython3-stdlib", "nginx-light"], _FILES)
    device = Device(_HOST)
    host = Host(device.link)
    outside = _free_port()
    with tempfile.TemporaryDirectory(prefix="supermachine-kernel-bench-") as folder, _server() as port, device:
        device.call(_serve_vsock, device, port)
        forward = f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{outside}-10.0.2.15:{_WEB}"
        extra = [*_CPU, *qemu.root_disk(root), "-netdev", forward, "-device", "virtio-net-device,netdev=net"]
        initramfs = Path(folder, "initramfs.cpio.gz")
        initramfs.write_bytes(guest_initramfs(assets, _CONFIG, module=False).pack())
        with qemu.Machine(
            assets / "kernel",
            initramfs,
            cpus=1,
            memory="512M",
            command_line=f"{qemu.HOST_COMMAND_LINE} tsi_hijack",
            vsock=device,
            extra=extra,
        ) as machine:
            machine.wait_for(f"listening on vsock port {PORT}", LIMIT)
            agent = Agent(lambda: device.connect(PORT))
            agent.write("/etc/measure.py", _MEASURE.encode())
            _, web = host.wait_for_listener(_WEB, LIMIT)
            yield agent, {"AF_TSI": port, "AF_VSOCK": _STREAM, "nginx AF_TSI": web, "nginx virtio-net": outside}
            agent.power_off()
            machine.wait(LIMIT)


def _serve_vsock(device: Device, port: int) -> None:
    """Have vsock streams of the guest lead to the server, and answer questions; in the device's thread."""
    link = device.link

    def to_server(guest_port: int) -> socket.socket:
        return socket.create_connection(("127.0.0.1", port))

    def to_answers(guest_port: int) -> socket.socket:
        mine, theirs = socket.socketpair()
        mine.setblocking(False)
        asked = 0

        def answer() -> None:
            nonlocal asked
            got = mine.recv(4096)
            asked += len(got)
            if not got:
                link.loop.remove_reader(mine)
                mine.close()
            elif asked >= len(_ASK) + len(_TELL):
                asked = 0
                mine.send(bytes(4))

        link.loop.add_reader(mine, answer)
        return theirs

    link.ports[_STREAM], link.ports[_CONTROL] = to_server, to_answers


@contextlib.contextmanager
def _server() -> Iterator[int]:
    """The port of a server in a process of its own, so that it does not keep the device's thread waiting."""
    with subprocess.Popen([sys.executable, "-c", _SERVER], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout
            yield int(server.stdout.readline())
        finally:
            server.terminate()


def _measure(agent: Agent, what: str, family: str, ports: dict[str, int], number: int) -> float:
    """How many a second."""
    command = ["python3", "/etc/measure.py", what, family, str(ports[family]), str(number)]
    done = agent.exec(*command, timeout=LIMIT)
    if done.status != (0, 0):
        raise BenchError(f"{what} {family}", "to succeed", done.stderr.decode("utf-8", "replace").strip())
    return float(done.stdout) / (MIB if what == "send" else 1)


def _answers(agent: Agent, port: int) -> dict[str, float]:
    """How many of nginx's pages come a second, and what the guest does for each."""
    before = _counts(agent)
    command = ["wrk", "-t", "1", "-c", "10", "-d", str(SECONDS), f"http://127.0.0.1:{port}/"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    after = _counts(agent)
    rate = re.search(r"Requests/sec: +([\d.]+)", done.stdout)
    number = re.search(r"(\d+) requests in ", done.stdout)
    if done.returncode or not rate or not number or "Socket errors" in done.stdout or "Non-2xx" in done.stdout:
        raise BenchError("wrk", "to be answered by nginx in the guest", f"{done.stdout}{done.stderr}".strip())
    each = {what: (after[what] - before[what]) / int(number.group(1)) for what in before}
    return {"": float(rate.group(1)), ", interrupts": each["intr"], ", switches of tasks": each["ctxt"]}


def _counts(agent: Agent) -> dict[str, int]:
    """How often the guest was interrupted and switched tasks since its boot."""
    stat = agent.exec("cat", "/proc/stat", timeout=LIMIT).stdout.decode()
    return {what: int(value) for what, value in re.findall(r"(?m)^(intr|ctxt) (\d+)", stat)}


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
