"""The guest contract of docs/guest-contract.md, in guests that are booted with it."""

from __future__ import annotations

import errno
import hashlib
import re
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from scripts.guest import qemu
from scripts.machine.packages import install_commands
from tests.support import guest
from tests.support.guest import Container, assert_ended_well, boot, said

pytestmark = pytest.mark.slow

EXEC, STDIN, SIGNAL, STDOUT, STDERR, EXIT = 1, 2, 3, 16, 17, 18
FRAME_LIMIT = 1 << 20
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def configuration(*argv: str, **keys: str) -> str:
    """An init-oci.conf: what to run, with the container as the image unless a key says otherwise."""
    lines = [f"{key}={value}" for key, value in {"lower": "/container", **keys}.items()]
    lines += [f"arg={word}" for word in argv]
    return "\n".join(lines).replace("\\", "\\\\") + "\n"


def scripted(assets: Path, script: str) -> Container:
    """A container with tests/guest/`script` and the agent, which is a caller too."""
    container = Container()
    container.file(f"bin/{script}", (guest.SOURCES / script).read_bytes(), 0o755)
    container.file("bin/supermachine-agent", (assets / "supermachine-agent").read_bytes(), 0o755)
    return container


def frame(kind: int, payload: bytes = b"") -> bytes:
    return struct.pack("<II", len(payload), kind) + payload


def command(*argv: str, env: Sequence[str] = (), cwd: str = "") -> bytes:
    strings = b"".join(word.encode() + b"\0" for word in [*argv, *env, cwd])
    return frame(EXEC, struct.pack("<II", len(argv), len(env)) + strings)


def frames(data: bytes) -> list[tuple[int, bytes]]:
    """The frames of a whole stream, written down from the contract and from nothing else."""
    found = []
    while data:
        size, kind = struct.unpack_from("<II", data)
        assert len(data) >= 8 + size
        found.append((kind, data[8 : 8 + size]))
        data = data[8 + size :]
    return found


def output(answer: list[tuple[int, bytes]], kind: int) -> bytes:
    return b"".join(payload for found, payload in answer if found == kind)


def test_entrypoint(built_set: Path, tmp_path: Path) -> None:
    """What the entrypoint finds: arguments, environment, folders, mounts, and PID 1 at its duties."""
    words = {"cwd": "/made/for/it", "hostname": "micro", "env": "GREETING=hello = world"}
    config = configuration("entrypoint.sh", "two words", "back\\slash", **words)
    config = "# a comment\n\n" + config + "env=TWO_LINES=a\\nb"
    seen = boot(built_set, tmp_path, config, scripted(built_set, "entrypoint.sh"))
    assert_ended_well(seen)
    assert said(seen, "arg: ") == ["two words", "back\\slash"]
    assert said(seen, "cwd: ") == ["/made/for/it"]
    assert said(seen, "env: ") == [f"hello = world|{DEFAULT_PATH}|/root|micro"]
    assert "two lines: a\nb\n" in seen.text
    assert said(seen, "mount: ") == ["/dev/pts", "/dev/shm", "/proc", "/sys", "/sys/fs/cgroup"]
    for word in ("ptmx", "fd", "stderr", "written", "trapped"):
        assert said(seen, word) == [""], word
    assert said(seen, "lo: ") == ["0x9"]
    assert not said(seen, "/"), "nothing of the initramfs is in sight"
    assert said(seen, "pid: ") != ["1"]
    assert said(seen, "umask: ") == ["0022 0022"]
    assert said(seen, "zombies: ") == ["0"]
    assert said(seen, "init-oci: exit status ") == ["7"]
    assert said(seen, "init-oci: guest contract ") == ["1"]
    assert not said(seen, "init-oci: warning")


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("app", "1000 1000 1000 44 50 /home/app"),
        ("1000:staff", "1000 50 50 /home/app"),
        ("4321", "4321 0 0 /"),
    ],
)
def test_user(built_set: Path, tmp_path: Path, user: str, expected: str) -> None:
    script = 'echo "who: $(id -u) $(id -g) $(id -G) $HOME"; echo again > /dev/stdout; kill -9 $$'
    config = configuration("sh", "-c", script, user=user)
    seen = boot(built_set, tmp_path, config, Container(), without=["supermachine-agent"])
    assert_ended_well(seen)
    who = said(seen, "who: ")[0].split()
    assert [*who[:2], *sorted(who[2:-1], key=expected.split().index), who[-1]] == expected.split()
    assert said(seen, "again") == [""], "the entrypoint may open its own console"
    assert said(seen, "init-oci: exit status ") == ["137"]
    assert said(seen, "init-oci: no /supermachine-agent") == [", so no agent"]


def test_user_in_many_groups(built_set: Path, tmp_path: Path) -> None:
    """More than musl's initgroups() takes, which is 32."""
    container = Container()
    gids = range(2000, 2200)
    container.file("etc/group", "app:x:1000:\n" + "".join(f"g{gid}:x:{gid}:other,app\n" for gid in gids))
    config = configuration("sh", "-c", "grep ^Groups: /proc/self/status", user="app")
    seen = boot(built_set, tmp_path, config, container, without=["supermachine-agent"])
    assert_ended_well(seen)
    assert not said(seen, "init-oci: error: ")
    assert [line.split() for line in said(seen, "Groups:")] == [[str(gid) for gid in (1000, *gids)]]


@pytest.mark.parametrize("then", ["", "trap '' HUP; yes & sleep 1; "], ids=["stopped", "stopped and full"])
def test_stopped_console(built_set: Path, tmp_path: Path, then: str) -> None:
    """A Ctrl-S on the console stops its output, and nothing else."""
    config = configuration("sh", "-c", f"echo READY; sleep 1; {then}exit 5")
    seen = boot(built_set, tmp_path, config, Container(), typed={"READY": b"\x13"})
    assert_ended_well(seen)
    assert "init-oci: exit status 5" in seen.text


@pytest.mark.parametrize(("kind", "named"), [("squashfs", None), ("erofs", None), ("ext4", "ext4")])
def test_block_device(built_set: Path, tmp_path: Path, kind: str, named: str | None) -> None:
    image = make_image(kind, tmp_path)
    before = hashlib.sha256(image.read_bytes()).digest()
    keys = {"lower": "/dev/vda", "upper_size": "8m", **({"fstype": named} if named else {})}
    fill = "head -c 9000000 /dev/zero > /big 2> /dev/null || echo too big"
    config = configuration("sh", "-c", f"echo changed > /etc/passwd; cat /etc/passwd; {fill}", **keys)
    drive = ["-drive", f"file={image},format=raw,if=none,id=lower,readonly=on"]
    drive += ["-device", "virtio-blk-device,drive=lower"]
    seen = boot(built_set, tmp_path, config, without=["supermachine-agent"], extra=drive)
    assert_ended_well(seen)
    assert said(seen, "init-oci: overlay root on /dev/vda ") == [f"({kind})"]
    assert said(seen, "changed") == [""]
    assert said(seen, "too big") == [""]
    assert said(seen, "init-oci: exit status ") == ["0"]
    assert hashlib.sha256(image.read_bytes()).digest() == before


def make_image(kind: str, scratch: Path) -> Path:
    folder, image = scratch / "root", scratch / "image"
    folder.mkdir()
    Container().into_folder(folder)
    commands = {
        "squashfs": ["mksquashfs", str(folder), str(image), "-comp", "zstd", "-quiet", "-no-progress"],
        "erofs": ["mkfs.erofs", str(image), str(folder)],
        "ext4": ["mkfs.ext4", "-q", "-d", str(folder), str(image), "16m"],
    }
    install_commands([commands[kind][0]])
    subprocess.run(commands[kind], check=True, stdout=subprocess.DEVNULL)
    return image


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "/init-oci.conf: No such file or directory; the host puts it into the initramfs"),
        ("lower=/container\nentrypoint=/bin/sh\n", '/init-oci.conf:2: unknown key "entrypoint"'),
        ("lower=/a\nlower=/b\n", "/init-oci.conf:2: lower is there twice"),
        ("arg=a\\tb\n", "/init-oci.conf:1: a backslash is followed by n or another backslash"),
        ("lower=/container\n", "/init-oci.conf: no arg=, the entrypoint and its arguments"),
        ("lower=/dev/vdz\narg=a\n", "lower /dev/vdz: No such file or directory"),
        ("lower=/dev/vda\narg=a\n", "lower /dev/vda is no squashfs, erofs or ext4 that can be mounted"),
        ("lower=/container\nuser=nobody\narg=a\n", 'user "nobody" is not in the image\'s /etc/passwd'),
    ],
)
def test_error_powers_off(built_set: Path, tmp_path: Path, config: str | None, message: str) -> None:
    extra = []
    if config and "vda" in config:
        (tmp_path / "noise").write_bytes(b"no file system " * 4096)
        extra = ["-drive", f"file={tmp_path}/noise,format=raw,if=none,id=d", "-device", "virtio-blk-device,drive=d"]
    seen = boot(built_set, tmp_path, config, Container(), without=["supermachine-agent", "smpark.ko"], extra=extra)
    assert_ended_well(seen)
    assert said(seen, "init-oci: error: ") == [message]
    assert not said(seen, "init-oci: exit status ")


@pytest.mark.parametrize(
    ("program", "reason", "status"),
    [
        ("missing", "No such file or directory", 127),
        ("/bin/damaged", "Exec format error", 126),
    ],
)
def test_entrypoint_that_cannot_run(built_set: Path, tmp_path: Path, program: str, reason: str, status: int) -> None:
    container = Container()
    container.file("bin/damaged", b"\x7fELF and no more", 0o755)
    seen = boot(built_set, tmp_path, f"lower=/container\narg={program}\n", container, without=["supermachine-agent"])
    assert_ended_well(seen)
    assert said(seen, "init-oci: error: ") == [f"cannot run the entrypoint {program}: {reason}"]
    assert said(seen, "init-oci: exit status ") == [str(status)]


@pytest.mark.parametrize("fault", ["absent", "truncated"])
def test_module_that_does_not_load(built_set: Path, tmp_path: Path, fault: str) -> None:
    module = (built_set / "smpark.ko").read_bytes()
    without = ["smpark.ko"] if fault == "absent" else []
    damaged = {"smpark.ko": module[: len(module) // 2]}
    config = configuration("sh", "-c", "echo ran")
    seen = boot(built_set, tmp_path, config, Container(), without=without, instead=damaged)
    assert_ended_well(seen)
    reason = ": No such file or directory" if fault == "absent" else " refused: Exec format error"
    assert said(seen, "init-oci: warning: ") == [f"/smpark.ko{reason}; going on without it"]
    assert said(seen, "ran") == [""]
    assert said(seen, "init-oci: exit status ") == ["0"]


@pytest.mark.parametrize("cpus", [1, 4])
def test_smpark(built_set: Path, tmp_path: Path, cpus: int) -> None:
    checks = ["smpark"] if cpus == 1 else ["smpark", "smpark-faults", "smpark"]
    seen = selftest(built_set, tmp_path, checks, cpus)
    assert_ended_well(seen)
    parked = f"smpark: ok: parked and released {cpus - 1} of {cpus} CPUs"
    faults = "smpark-faults: ok: a late CPU, a killed caller, unloading and CPU hotplug end well"
    assert said(seen, "selftest: ") == ([parked] if cpus == 1 else [parked, faults, parked])
    assert said(seen, "init-oci: exit status ") == ["0"]
    assert not re.search(r"WARNING|BUG|rcu:.*stall|Call trace", seen.text)


def test_power_off_while_parked(built_set: Path, tmp_path: Path) -> None:
    seen = selftest(built_set, tmp_path, ["poweroff"], 4)
    assert_ended_well(seen)
    assert not said(seen, "selftest: ")


def selftest(assets: Path, scratch: Path, checks: list[str], cpus: int) -> qemu.Boot:
    container = Container()
    container.file("agent", (assets / "supermachine-agent").read_bytes(), 0o755)
    return boot(assets, scratch, configuration("/agent", "selftest", *checks), container, cpus=cpus)


def test_agent_commands(built_set: Path, tmp_path: Path) -> None:
    """Commands through the agent's own caller: what goes in, what comes out, how they end, several at once."""
    container = scripted(built_set, "agent-commands.sh")
    container.file("bin/nonblocking", guest.compile_guest_program("nonblocking.c", tmp_path), 0o755)
    seen = boot(built_set, tmp_path, configuration("agent-commands.sh"), container)
    assert_ended_well(seen)
    expected = {
        "out: ": "a b",
        "err: ": "no",
        "status: ": "9",
        "signal: ": "143",
        "missing: ": "127",
        "not a program: ": "126",
        "no folder: ": "127",
        "cwd: ": "/etc /",
        "env: ": "A=1 B=2",
        "own env: ": f"HOME=/root PATH={DEFAULT_PATH}",
        "big: ": "3000000",
        "both ways: ": "6000000",
        "unread: ": "enough",
        "left behind: ": "y",
        "unheard: ": "/done",
        "nonblocking: ": "3000000",
        "late: ": "200000 9",
        "closed input: ": "0",
        "closed output: ": "9",
        "closed errors: ": "9",
        "together: ": "8",
        "gone: ": "/dev/null",
        "gone: /dev/z": "ero",
        "not root: ": "125",
    }
    assert {prefix: said(seen, prefix)[:1] for prefix in expected} == {k: [v] for k, v in expected.items()}


def test_agent_frames(built_set: Path, tmp_path: Path) -> None:
    """The wire format, spoken by another program; what is not valid ends its own connection only."""
    valid = {
        "output": command("sh", "-c", "echo out; echo err >&2; exit 3"),
        "stdin": command("cat") + frame(STDIN, b"one ") + frame(STDIN, b"two") + frame(STDIN),
        "signal": command("sleep", "60") + frame(SIGNAL, struct.pack("<I", 15)),
        "not run": command("/no/such/file"),
        "environment": command("/bin/sh", "-c", "echo $WORD; pwd", env=["WORD=x y"], cwd="/etc"),
    }
    invalid = {
        "not EXEC first": frame(STDIN, b"x"),
        "no arguments": frame(EXEC, struct.pack("<II", 0, 0) + b"\0"),
        "empty EXEC": frame(EXEC),
        "more strings than said": frame(EXEC, struct.pack("<II", 1, 0) + b"id\0\0\0"),
        "fewer strings than said": frame(EXEC, struct.pack("<II", 3, 0) + b"id\0\0"),
        "a count beyond memory": frame(EXEC, struct.pack("<II", 0xFFFFFFFF, 0xFFFFFFFF) + b"id\0\0"),
        "no last NUL": frame(EXEC, struct.pack("<II", 1, 0) + b"id\0/"),
        "too long": struct.pack("<II", FRAME_LIMIT + 1, EXEC),
        "a second EXEC": command("sleep", "60") + command("id"),
        "unknown kind": command("sleep", "60") + frame(77),
        "signal 0": command("sleep", "60") + frame(SIGNAL, struct.pack("<I", 0)),
        "signal of 2 bytes": command("sleep", "60") + frame(SIGNAL, b"\x0f\0"),
        "noise": bytes(range(256)),
        "too long after a valid one": command("sleep", "60") + struct.pack("<II", 0xFFFFFFFF, STDIN),
    }
    cases = [*valid.values(), *invalid.values()]
    container = scripted(built_set, "agent-frames.sh")
    container.file("bin/vsock-raw", guest.compile_guest_program("vsock-raw.c", tmp_path), 0o755)
    container.file("half", command("sleep", "60"))
    for index, case in enumerate(cases):
        container.file(f"cases/{index}", case)
    seen = boot(built_set, tmp_path, configuration("agent-frames.sh"), container)
    assert_ended_well(seen)
    answers = {}
    for line in said(seen, "case "):
        number, status, *data = line.replace(":", "").split()
        assert status == "0", f"case {number}: the agent did not close"
        answers[int(number)] = frames(bytes.fromhex("".join(data)))
    named = dict(zip([*valid, *invalid], (answers[index] for index in range(len(cases)))))
    assert output(named["output"], STDOUT) == b"out\n"
    assert output(named["output"], STDERR) == b"err\n"
    assert named["output"][-1] == (EXIT, struct.pack("<II", 0, 3))
    assert output(named["stdin"], STDOUT) == b"one two"
    assert named["stdin"][-1] == (EXIT, struct.pack("<II", 0, 0))
    assert named["signal"] == [(EXIT, struct.pack("<II", 1, 15))]
    assert named["not run"] == [(EXIT, struct.pack("<II", 2, errno.ENOENT))]
    assert output(named["environment"], STDOUT) == b"x y\n/etc\n"
    assert {name: named[name] for name in invalid} == {name: [] for name in invalid}
    assert said(seen, "unprivileged: ") == ["0 "]
    assert said(seen, "half: ") == ["0 "], "a caller that ends its side is gone"
    assert said(seen, "left: ") == ["0"], "the commands of broken connections are gone"
    assert said(seen, "good: ") == ["still here"]
