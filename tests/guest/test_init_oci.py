"""init-oci by the guest contract, docs/guest-contract.md: what it finds, mounts, starts and says, in booted guests."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from scripts.guest import qemu
from tests.support import guest
from tests.support.guest import Container, assert_ended_well, boot, configuration, said, scripted

pytestmark = pytest.mark.slow

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MODULE = "/supermachine-smpark.ko"


def test_the_entrypoint_finds_its_arguments_its_mounts_and_a_reaper(built_set: Path, tmp_path: Path) -> None:
    variables = ["PATH=/nowhere", "GREETING=nothing", "GREETING=hello = world", f"PATH={DEFAULT_PATH}"]
    words = {"cwd": "/made/for/it", "hostname": "micro", "env": [*variables, "TWO_LINES=a\nb"]}
    config = "# a comment\n\n" + configuration("entrypoint.sh", "two words", "back\\slash", **words)
    seen = boot(built_set, tmp_path, config, scripted(built_set, "entrypoint.sh"))
    assert_ended_well(seen)
    assert said(seen, "arg: ") == ["two words", "back\\slash"]
    assert said(seen, "cwd: ") == ["/made/for/it"]
    assert said(seen, "env: ") == [f"hello = world|{DEFAULT_PATH}|/root|micro"]
    assert "two lines: a\nb\n" in seen.text
    assert said(seen, "mount: ") == ["/dev/mqueue", "/dev/pts", "/dev/shm", "/proc", "/sys", "/sys/fs/cgroup"]
    for word in ("ptmx", "fd", "stderr", "written", "no terminal", "a line without an endtrapped"):
        assert said(seen, word) == [""], word
    assert said(seen, "input: ") == ["0"], "the input is at its end"
    assert said(seen, "lo: ") == ["0x9"]
    assert not said(seen, "/"), "nothing of the initramfs is in sight"
    assert said(seen, "pid: ") == ["2 of init-oci"]
    assert said(seen, "foreign files: ") == ["0"], "PID 1 of the image has nothing open of the guest's"
    assert said(seen, "umask: ") == ["0022 0022"]
    assert said(seen, "zombies: ") == ["0"]
    assert said(seen, "init-oci: exit status ") == ["7"]
    assert said(seen, "init-oci: guest contract ") == ["2"]
    assert said(seen, "init-oci: entrypoint ") == ["entrypoint.sh as 0:0 in /made/for/it"]
    assert said(seen, f"init-oci: {MODULE} ") == ["loaded, /dev/smpark is there"]
    assert not said(seen, "init-oci: warning")


def test_the_host_sets_rights_limits_settings_names_and_addresses(built_set: Path, tmp_path: Path) -> None:
    container = scripted(built_set, "surroundings.sh")
    container.file("etc/secret/key", "secret")
    container.links["etc/resolv.conf"] = "/run/systemd/resolve/stub-resolv.conf"
    config = configuration(
        "surroundings.sh",
        user="app:staff",
        group=["video", "4711"],
        capability=["CAP_NET_RAW", "CHOWN"],
        no_new_privs="yes",
        rlimit="core=0:unlimited",
        sysctl="net.core.somaxconn=1234",
        hostname="micro",
        hosts="10.0.2.2 host\n",
        resolv_conf="nameserver 10.0.2.3\n",
        upper_size="20m",
        upper_inodes="5k",
        shm_size="3m",
        mask=["/proc/config.gz", "/etc/secret", "/not/there"],
        address=["eth0=10.0.2.15/24", "eth0=fd00::15/64"],
        gateway=["10.0.2.2", "fe80::2"],
        stdout_prefix="out ",
        stderr_prefix="err ",
    )
    network = ["-netdev", "user,id=n", "-device", "virtio-net-device,netdev=n"]
    seen = boot(built_set, tmp_path, config, container, extra=network)
    assert_ended_well(seen)
    expected = {
        "files": "1048576 1048576",
        "core": "0 unlimited",
        "somaxconn": "1234",
        "ports": "0",
        "ping": "0 2147483647",
        "groups": "50 44 4711",
        "CapBnd": "0000000000002001",
        "CapEff": "0000000000000000",
        "NoNewPrivs": "1",
        "hostname": "micro micro",
        "hosts": "10.0.2.2 host",
        "resolver": "nameserver 10.0.2.3",
        "upper": "20480 5120",
        "shm": "3072",
        "fuse": "can be opened",
        "tun": "can be opened",
        "masked file": "0",
        "masked folder": "0 read-only",
        "eth0": "inet 10.0.2.15/24",
    }
    assert {name: said(seen, f"out {name}: ")[0] for name in expected} == expected
    assert said(seen, "out resolver is no link") == [""]
    assert said(seen, "out inet6 ") == ["fd00::15/64"]
    (route,) = said(seen, "out route: ")
    assert "default via 10.0.2.2 dev eth0" in route and "default via fe80::2 dev eth0" in route
    assert said(seen, "out port 80 ") == ["is open to us"]
    assert said(seen, "err to ") == ["error"]
    halves = ["out half of a line", "err between", "out  and the other"]
    assert [line.text for line in seen.lines if line.text in halves] == halves, "a line is of one stream"


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("app", "1000 1000 1000 44 50 /home/app"),
        ("1000:staff", "1000 50 50 /home/app"),
        ("4321", "4321 0 0 /"),
    ],
)
def test_the_user_is_one_of_the_image_or_a_number(built_set: Path, tmp_path: Path, user: str, expected: str) -> None:
    script = 'echo "who: $(id -u) $(id -g) $(id -G) $HOME"; cat /etc/hostname /etc/hosts; '
    script += "echo again > /dev/stdout; kill -9 $$"
    config = configuration("sh", "-c", script, user=user)
    container = Container()
    container.file("etc/hostname", "of-the-image\n")
    container.file("etc/hosts", "" if user == "app" else "127.0.0.1 its-own\n")
    seen = boot(built_set, tmp_path, config, container, without=["supermachine-agent"])
    assert_ended_well(seen)
    who = said(seen, "who: ")[0].split()
    assert [*who[:2], *sorted(who[2:-1], key=expected.split().index), who[-1]] == expected.split()
    assert said(seen, "of-the-image") == [""]
    assert said(seen, "127.0.0.1") == (["\tlocalhost"] if user == "app" else [" its-own"])
    assert said(seen, "127.0.1.1") == (["\tof-the-image"] if user == "app" else [])
    assert said(seen, "again") == [""], "the entrypoint may open its own output"
    assert said(seen, "init-oci: exit status ") == ["137"]
    assert said(seen, "init-oci: no /supermachine-agent") == [", so no agent"]


def test_a_user_may_be_in_more_groups_than_the_c_library_takes(built_set: Path, tmp_path: Path) -> None:
    """musl's initgroups() takes 32."""
    container = Container()
    gids = range(2000, 2200)
    container.file("etc/group", "app:x:1000:\n" + "".join(f"g{gid}:x:{gid}:other,app\n" for gid in gids))
    config = configuration("sh", "-c", "grep ^Groups: /proc/self/status", user="app")
    seen = boot(built_set, tmp_path, config, container, without=["supermachine-agent"])
    assert_ended_well(seen)
    assert not said(seen, "init-oci: error: ")
    assert [line.split() for line in said(seen, "Groups:")] == [[str(gid) for gid in (1000, *gids)]]


@pytest.mark.parametrize("tty", ["yes", "no"])
def test_a_stopped_console_stops_its_output_and_nothing_else(built_set: Path, tmp_path: Path, tty: str) -> None:
    """A Ctrl-S is typed on it, and then more is written than it takes."""
    script = "readlink /proc/self/fd/2; echo READY; sleep 1; trap '' HUP; yes & sleep 1; exit 5"
    config = configuration("sh", "-c", script, tty=tty)
    seen = boot(built_set, tmp_path, config, Container(), typed={"READY": b"\x13"})
    assert_ended_well(seen)
    assert said(seen, "/dev/") == (["console"] if tty == "yes" else [])
    assert len(said(seen, "pipe:")) == (tty == "no")
    assert "init-oci: exit status 5" in seen.text


def test_a_flood_of_output_arrives_whole_and_in_order(built_set: Path, tmp_path: Path) -> None:
    script = "seq 1 20000; seq 1 1000 >&2; printf end"
    config = configuration("sh", "-c", script, stdout_prefix="o", stderr_prefix="e")
    silent = f"{qemu.COMMAND_LINE} loglevel=1"  # the kernel writes into lines
    seen = boot(built_set, tmp_path, config, Container(), without=["supermachine-agent"], command_line=silent)
    assert_ended_well(seen)
    lines = [line.text for line in seen.lines]
    assert [line for line in lines if line.startswith("o")] == [*(f"o{n}" for n in range(1, 20001)), "oend"]
    assert [line for line in lines if line.startswith("e") and line[1:].isdigit()] == [f"e{n}" for n in range(1, 1001)]
    assert said(seen, "init-oci: exit status ") == ["0"], "a line of its own, though the output did not end one"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "/init-oci.conf: No such file or directory; the host puts it into the initramfs"),
        ("lower=/container\nentrypoint=/bin/sh\n", '/init-oci.conf:2: unknown key "entrypoint"'),
        ("lower=/dev/vdz\narg=a\n", "lower /dev/vdz: No such file or directory"),
        ("lower=/dev/vda\narg=a\n", "lower /dev/vda is no squashfs, erofs or ext4 that can be mounted"),
        ("lower=/container\nuser=nobody\narg=a\n", 'user "nobody" is not in the image\'s /etc/passwd'),
        ("lower=/container\nhold=exec\narg=a\n", "hold=exec: there is no /supermachine-agent that could be told to "),
        ("lower=/container\nmount=tag:/share\narg=a\n", "volume tag: no virtio-fs share has this tag, or it cannot"),
    ],
)
def test_what_goes_wrong_is_one_line_and_a_power_off(
    built_set: Path, tmp_path: Path, config: str | None, message: str
) -> None:
    extra = []
    if config and "vda" in config:
        (tmp_path / "noise").write_bytes(b"no file system " * 4096)
        extra = ["-drive", f"file={tmp_path}/noise,format=raw,if=none,id=d", "-device", "virtio-blk-device,drive=d"]
    seen = boot(built_set, tmp_path, config, Container(), without=["supermachine-agent", "smpark.ko"], extra=extra)
    assert_ended_well(seen)
    (error,) = said(seen, "init-oci: error: ")
    assert error.startswith(message)
    assert not said(seen, "init-oci: exit status ")


def test_a_guest_that_nobody_could_tell_to_go_on_ends(built_set: Path, tmp_path: Path) -> None:
    no_program = {"supermachine-agent": b"no program"}
    seen = boot(built_set, tmp_path, configuration("sh", hold="exec"), Container(), instead=no_program)
    assert_ended_well(seen)
    assert said(seen, "init-oci: warning: ") == ["/supermachine-agent: Exec format error; going on without it"]
    (error,) = said(seen, "init-oci: error: ")
    assert error.startswith("hold=exec: /supermachine-agent, which could be told to go on, cannot be run")


@pytest.mark.parametrize(
    ("program", "reason", "status", "pid1"),
    [
        ("missing", "No such file or directory", 127, "no"),
        ("/bin/damaged", "Exec format error", 126, "yes"),
    ],
)
def test_an_entrypoint_that_cannot_run_has_the_exit_status_of_a_shell(
    built_set: Path, tmp_path: Path, program: str, reason: str, status: int, pid1: str
) -> None:
    container = Container()
    container.file("bin/damaged", b"\x7fELF and no more", 0o755)
    seen = boot(built_set, tmp_path, configuration(program, pid1=pid1), container, without=["supermachine-agent"])
    assert_ended_well(seen)
    assert said(seen, "init-oci: error: ") == [f"cannot run the entrypoint {program}: {reason}"]
    assert said(seen, "init-oci: exit status ") == [str(status)]


@pytest.mark.parametrize("fault", ["absent", "truncated"])
def test_a_module_that_does_not_load_is_a_warning(built_set: Path, tmp_path: Path, fault: str) -> None:
    module = (built_set / "smpark.ko").read_bytes()
    without = ["smpark.ko"] if fault == "absent" else []
    damaged = {"smpark.ko": module[: len(module) // 2]}
    config = configuration("sh", "-c", "echo ran")
    seen = boot(built_set, tmp_path, config, Container(), without=without, instead=damaged)
    assert_ended_well(seen)
    reason = ": No such file or directory" if fault == "absent" else " refused: Exec format error"
    assert said(seen, "init-oci: warning: ") == [f"{MODULE}{reason}; going on without it"]
    assert said(seen, "ran") == [""]
    assert said(seen, "init-oci: exit status ") == ["0"]


def test_the_agent_outlives_the_image_and_tells_init_oci_to_go_on(built_set: Path, tmp_path: Path) -> None:
    """A stand-in speaks for the agent: init-oci's half of what they agreed on, and a life of waiting and staying."""
    container = scripted(built_set, "held-entrypoint.sh")
    container.file("agent.sh", (guest.SOURCES / "held-agent.sh").read_bytes())
    program = guest.compile_guest_program("init-request.c", tmp_path)
    container.file("bin/init-request", program, 0o755)
    config = configuration("held-entrypoint.sh", hold="exec", on_exit="idle", heartbeat="100")
    seen = boot(built_set, tmp_path, config, container, instead={"supermachine-agent": program})
    assert_ended_well(seen)
    assert said(seen, "agent: ") == ["in the namespace of init-oci"] * 2
    ended, *tries = said(seen, "init-oci: warning: ")
    assert ended == "the agent ended with status 3; starting it again"
    assert set(tries) == {"cannot start the agent: Resource temporarily unavailable; trying again"}
    (go,) = said(seen, "go: ")
    pid = go.rpartition(" ")[2]
    answers = {
        "command in /proc: ": "(cut)",
        "held: ": "0 1 0 0 0",
        "signal while held: ": "3 1 0 0 0",
        "unknown request: ": "22 1 0 0 0",
        "entrypoint: ": pid,
        "go: ": f"0 2 0 0 {pid}",
        "go again: ": f"114 2 0 0 {pid}",
        "no such signal: ": f"22 2 0 0 {pid}",
        "signal: ": f"0 2 0 0 {pid}",
        "ended: ": "0 3 0 7 0",
        "left behind: ": "sleep",
        "off: ": "0 3 0 7 0",
    }
    assert {prefix: said(seen, prefix) for prefix in answers} == {prefix: [text] for prefix, text in answers.items()}
    assert not said(seen, "/started"), "nothing of the image runs while it is held"
    order = [
        "held before the entrypoint",
        "going on",
        "entrypoint held-entrypoint.sh as 0:0 in /",
        "exit status 7",
        "idle",
    ]
    assert [line for line in said(seen, "init-oci: ") if line in order] == order
    beats = said(seen, "init-oci: heartbeat counter=")
    assert beats == [str(number) for number in range(1, len(beats) + 1)] and len(beats) > 10


def test_commands_have_a_namespace_after_an_entrypoint_that_was_pid_1(built_set: Path, tmp_path: Path) -> None:
    container = Container()
    program = guest.compile_guest_program("init-request.c", tmp_path)
    container.file("bin/init-request", program, 0o755)
    container.file(
        "agent.sh",
        'sleep 0.1; echo "agent: $(init-request 1 0), PID 1 is $(cat /proc/1/comm)"\n'
        'if init-request 1 0 | grep -q "^0 1 "; then init-request 2 0; exec sleep 60; fi\n'
        'echo "masked: $(wc -c < /proc/config.gz) $(grep -c " /processes " /proc/mounts)"; reboot -f\n',
    )
    container.file("processes", "its name begins as that of /proc does")
    script = 'echo "pid: $$"; until [ -e /stop ]; do touch /stop; sleep 0.1; done; exit 9'
    config = configuration(
        "sh", "-c", script, hold="exec", on_exit="idle", pid1="yes", mask=["/proc/config.gz", "/processes"]
    )
    seen = boot(built_set, tmp_path, config, container, instead={"supermachine-agent": program})
    assert seen.status == 0
    assert said(seen, "pid: ") == ["1"]
    assert said(seen, "agent: ") == ["0 1 0 0 0, PID 1 is init-oci", "0 3 0 9 0, PID 1 is init-oci"]
    assert said(seen, "masked: ") == ["0 1"], "each is masked once"
    order = ["exit status 9", "idle", "the image restarts"]
    assert [line for line in said(seen, "init-oci: ") if line in order] == order
    assert "reboot: Restarting system" in seen.text


def end_with_changed_psci(built_set: Path, scratch: Path, find: str, changed: int) -> list[str]:
    """The last lines of a guest in whose device tree changed-psci.S changes something."""
    assets = scratch / "assets"
    shutil.copytree(built_set, assets)
    first = guest.assemble("changed-psci.S", scratch, f'FIND="{find}"', f"CHANGED={changed}")
    (assets / "kernel").write_bytes(first.ljust(2 << 20, b"\0") + (built_set / "kernel").read_bytes())
    config = configuration("sh", "-c", "exit 3")
    with guest.running(assets, scratch, config, Container(), cpus=1) as machine:
        machine.wait_for("reboot: ", guest.LIMIT)
        lines = [line.text for line in machine.lines]
    return [line for line in lines if line.startswith(("init-oci: exit", "init-oci: error")) or "reboot: " in line]


def test_psci_in_a_node_of_another_name_powers_off(built_set: Path, tmp_path: Path) -> None:
    end = end_with_changed_psci(built_set, tmp_path, r"\0\0\0\1psci", changed=4)
    assert end[0] == "init-oci: exit status 3"
    assert end[1].endswith("reboot: Power down")


def test_where_nothing_can_power_off_it_restarts(built_set: Path, tmp_path: Path) -> None:
    """Linux would turn the power off into a halt that never ends. Without PSCI QEMU's machine cannot restart either."""
    end = end_with_changed_psci(built_set, tmp_path, "arm,psci", changed=0)
    assert end[:2] == ["init-oci: exit status 3", "init-oci: error: no power off in the device tree; restarting"]
    assert end[2].endswith("reboot: Restarting system"), "and not a halt"
