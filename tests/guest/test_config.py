"""The parser of init-oci.conf, compiled for this machine with sanitizers: what it takes, what it refuses, and noise."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support import guest, native

CORPUS = guest.SOURCES / "init-oci-conf"
PARSER = ("config.c", "config_values.c", "config_lists.c", "capabilities.c")
GOOD = "lower=/a\narg=b\n"


@pytest.fixture(scope="module")
def sources(project: Path) -> list[Path]:
    """The parser's files, and the program around it."""
    return [guest.SOURCES / "parse-config.c", *(project / "kernel-build" / "init-oci" / name for name in PARSER)]


@pytest.fixture(scope="module")
def parser(sources: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that says of each file in its arguments what the parser says."""
    program = tmp_path_factory.mktemp("parser") / "parse-config"
    native.compile_program(program, sources, sources[1].parent)
    return program


def parse(parser: Path, scratch: Path, *texts: bytes) -> list[str]:
    """What the parser says of each text: good, or the error without the file's name."""
    paths = [scratch / f"{index}.conf" for index in range(len(texts))]
    for path, text in zip(paths, texts):
        path.write_bytes(text)
    done = subprocess.run([parser, *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [line.replace("/init-oci.conf:", "", 1).lstrip() for line in done.stdout.splitlines()]


GOOD_LINES = [
    "lower=/dev/vdb",
    "lower=/with : , in it",
    "fstype=erofs",
    "upper=tmpfs\nupper_size=64m\nupper_inodes=100k",
    "upper_size=50%",
    "upper=/dev/vdb",
    "mount=/dev/vdb:/data\nmount=/dev/vdc:/more:ro\nmount=tag:/share:rw,dax",
    "shm_size=1g",
    "mask=/proc/kcore\nmask=/sys/firmware",
    f"hostname={'h' * 64}",
    "hosts=127.0.0.1 localhost\\n::1 localhost\\n",
    "hosts=",
    "resolv_conf=nameserver 10.0.2.3\\n",
    "address=eth0=10.0.2.15/24\naddress=eth0=fd00::1/64\ngateway=10.0.2.2\ngateway=fe80::1",
    "arg=\narg=back\\\\slash",
    "env=EMPTY=",
    "env=A=1\nenv=AB=2\nenv=A=3",
    "cwd=/made/for it",
    "user=app:staff\ngroup=video\ngroup=44",
    "capability=CAP_NET_RAW\ncapability=CHECKPOINT_RESTORE",
    "capability=none",
    "no_new_privs=yes\ntty=no\npid1=no",
    "rlimit=nofile=1024:4096\nrlimit=core=unlimited\nrlimit=memlock=0",
    "sysctl=net.core.somaxconn=1024\nsysctl=net/ipv4/conf/eth0.1/forwarding=1\nsysctl=kernel.domainname=",
    "stdout_prefix=O: \nstderr_prefix=E: ",
    "hold=exec\non_exit=idle\nheartbeat=250",
    "on_exit=poweroff",
    "# tty=perhaps\n\n#",
]


def test_every_form_of_every_key_is_taken(parser: Path, tmp_path: Path, project: Path) -> None:
    said = parse(parser, tmp_path, *[f"{GOOD}{lines}".encode() for lines in GOOD_LINES])
    assert dict(zip(GOOD_LINES, said)) == dict.fromkeys(GOOD_LINES, "good")
    page = (project / "docs" / "guest-contract.md").read_text()
    keys = {line.split("=")[0] for lines in GOOD_LINES for line in lines.splitlines() if line[:1] not in ("", "#")}
    assert [key for key in keys if f"`{key}`" not in page] == [], "each key is in the contract"


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ("entrypoint=/bin/sh", '3: unknown key "entrypoint"'),
        ("novalue", '3: expected key=value, found "novalue"'),
        ("=x", '3: unknown key ""'),
        ("arg=a\\tb", "3: a backslash is followed by n or another backslash"),
        ("arg=a\\", "3: a backslash is followed by n or another backslash"),
        ("hold=exec\nhold=exec", "4: hold is there twice"),
        ("hold=", '3: hold is "", expected exec'),
        ("user=", "3: user is empty"),
        ("group=", "3: group is empty"),
        ("lower=vda", '3: lower is "vda", expected an absolute path'),
        ("cwd=here", '3: cwd is "here", expected an absolute path'),
        ("fstype=xfs", '3: fstype is "xfs", expected squashfs, erofs or ext4'),
        ("upper=ram", '3: upper is "ram", expected tmpfs or a block device'),
        ("upper=/dev/vdb\nupper_size=1m", "upper_size and upper_inodes are for a tmpfs, and upper is /dev/vdb"),
        ("upper_size=0k", '3: upper_size is "0k", expected a number from 1, which k, m, g or % may follow'),
        ("upper_size=1mm", '3: upper_size is "1mm", expected a number from 1, which k, m, g or % may follow'),
        ("upper_inodes=5%", '3: upper_inodes is "5%", expected a number from 1, which k, m or g may follow'),
        ("shm_size=-1", '3: shm_size is "-1", expected a number from 1, which k, m, g or % may follow'),
        ("mount=/dev/vdb", '3: mount is "/dev/vdb", expected SOURCE:PATH or SOURCE:PATH:OPTIONS with an absolute '),
        ("mount=t:/:ro", '3: mount is "t:/:ro", expected SOURCE:PATH or SOURCE:PATH:OPTIONS with an absolute path'),
        ("mount=:/data", '3: mount is ":/data", expected SOURCE:PATH or SOURCE:PATH:OPTIONS with an absolute path'),
        ("mount=/dev/vdb:/d:dax", '3: mount has the option "dax", expected ro, rw, or dax for virtio-fs'),
        ("mask=kcore", '3: mask is "kcore", expected an absolute path'),
        ("hostname=a b", '3: hostname is "a b", expected at most 64 bytes without a space'),
        (f"hostname={'h' * 65}", f'3: hostname is "{"h" * 65}", expected at most 64 bytes without a space'),
        ("address=eth0", '3: address is "eth0", expected DEVICE=ADDRESS/BITS'),
        ("address=eth0=10.0.2/24", '3: address of eth0: "10.0.2" is no IPv4 or IPv6 address'),
        ("address=eth0=10.0.2.1/33", '3: address of eth0: "33" is no number of bits of 10.0.2.1'),
        ("address=a-name-that-is-long=10.0.2.1/8", '3: address is "a-name-that-is-long=10.0.2.1/8", expected DEVICE'),
        ("gateway=router", '3: gateway is "router", expected an IPv4 or IPv6 address'),
        ("gateway=10.0.2.2\ngateway=10.0.2.3", "4: gateway 10.0.2.3 is the second one for IPv4"),
        ("gateway=fe80::1\ngateway=10.0.2.2\ngateway=fe80::2", "5: gateway fe80::2 is the second one for IPv6"),
        ("upper=/dev/vda\r", "3: the line ends with CR LF, expected LF alone"),
        ("\r", "3: the line ends with CR LF, expected LF alone"),
        ("env=NAME", '3: expected env=NAME=VALUE, found "NAME"'),
        ("env==x", '3: expected env=NAME=VALUE, found "=x"'),
        ("capability=CAP_ALL", '3: capability is "CAP_ALL", expected a name like CAP_NET_ADMIN, or none'),
        ("tty=true", '3: tty is "true", expected yes or no'),
        ("tty=yes\nstderr_prefix=E", "stdout_prefix and stderr_prefix cannot be had with tty=yes"),
        ("rlimit=nofile", '3: rlimit is "nofile", expected NAME=SOFT or NAME=SOFT:HARD'),
        ("rlimit=files=1", '3: there is no resource limit "files"; one is nofile'),
        ("rlimit=nofile=2:1", "3: rlimit nofile: expected numbers or unlimited, the first not above the second"),
        ("rlimit=nofile=99999999999999999999", "3: rlimit nofile: expected numbers or unlimited, the first not above"),
        ("sysctl=vm.swappiness", '3: sysctl is "vm.swappiness", expected NAME=VALUE'),
        ("sysctl=/proc/sys/vm/swappiness=1", '3: sysctl "/proc/sys/vm/swappiness": expected a name like net.core.'),
        ("sysctl=net/../../etc/passwd=1", '3: sysctl "net/../../etc/passwd": expected a name like net.core.somaxconn'),
        ("on_exit=reboot", '3: on_exit is "reboot", expected poweroff or idle'),
        ("heartbeat=0", '3: heartbeat is "0", expected milliseconds, from 1 to 3600000'),
        ("heartbeat=1s", '3: heartbeat is "1s", expected milliseconds, from 1 to 3600000'),
        ("bad\x1bkey=\\n", '3: unknown key "bad?key"'),
    ],
)
def test_a_wrong_line_is_named(parser: Path, tmp_path: Path, lines: str, error: str) -> None:
    (said,) = parse(parser, tmp_path, f"{GOOD}{lines}\n".encode())
    assert said.startswith(error)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (b"", "no lower=, the image's block device or folder"),
        (b"lower=/a", "no arg=, the entrypoint and its arguments"),
        (GOOD.encode() + b"\0", "holds a NUL byte"),
        (GOOD.encode() + b"#" * (1 << 20), "more than 1048576 bytes"),
    ],
    ids=["empty", "no entrypoint", "NUL", "too long"],
)
def test_a_file_that_is_wrong_as_a_whole_is_refused(parser: Path, tmp_path: Path, text: bytes, error: str) -> None:
    assert parse(parser, tmp_path, text) == [error]


def test_a_file_of_the_greatest_size_is_taken(parser: Path, tmp_path: Path) -> None:
    many = b"arg=\n" * ((1 << 20) // 5 - len(GOOD))
    assert parse(parser, tmp_path, GOOD.encode() + many) == ["good"]


@pytest.mark.slow
def test_noise_neither_crashes_the_parser_nor_leaves_its_bounds(sources: list[Path], tmp_path: Path) -> None:
    native.fuzz(tmp_path, sources, sources[1].parent, CORPUS)
