#!/usr/bin/env python3
"""Boot the set in a wheel or a folder in QEMU: check the guest contract stage by stage, or run an image."""

from __future__ import annotations

import runpy

if not __package__:
    runpy.run_path(f"{__file__.rpartition('/')[0]}/_path.py")

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from scripts.asset_build.errors import BuildError
from scripts.asset_build.guest_sets import GUEST_SETS
from scripts.guest import qemu, switched_boot
from scripts.guest.boot_arguments import cpus, memory, seconds, source, volume
from scripts.guest.initramfs import guest_initramfs
from scripts.guest.network_boot import CONFIG, PROOFS, boot_network
from scripts.guest.oci_image import read_image
from scripts.guest.oci_run import Run, Show, run_image, unpublished_ports
from scripts.guest.oci_snapshot import restore, run_and_save
from scripts.guest.stages import Reached, Stage, describe_failure, stages_of
from scripts.guest.virtqueue import GuestError
from scripts.machine import environments
from scripts.machine.arguments import ports
from scripts.machine.errors import SetupError, WheelError
from scripts.machine.install import install as install_wheel
from scripts.machine.packages import install_commands
from scripts.machine.program import log, report_error, run_program
from supermachine_kernel import SupermachineKernelError

NAMES = sorted(asset.name for asset in GUEST_SETS["aarch64"].assets)
SWITCHED_NAMES = ["busybox", "kernel", "supermachine-agent"]
LAST_LINES = 20
NOT_RUN = 125
"""The exit status with --oci when the image could not be run, as docker and podman have it."""
CONTAINER = "container"
PROGRAM = "bin/supermachine-agent"
"""The container's only program is the agent itself: its selftest checks the guest from within."""

EPILOG = """\
stages, in order: the kernel is up; init-oci is PID 1; smpark.ko is loaded and its device there; the root is an
overlay; the container's entrypoint runs and its output is seen; PARK and UNPARK do what they say; a command runs
through the agent over vsock loopback; the entrypoint's exit status is seen; the guest powers off.

The guest is loaded and started as the real host does it. For aarch64: the Image 512 KiB above the beginning of memory,
a GICv3, PSCI by HVC, and `console=ttyAMA0 reboot=t panic=-1`. For x86_64, which has no init-oci: virtio-mmio devices on
the command line, a multiprocessor table, a 16550, and an init of the host's own, which makes an overlay root of a
squashfs and has the agent be PID 1 there; what runs is started by the host, through the agent. KVM is used where it
can run this kernel, else QEMU emulates the processor.

With --network a guest without a network device uses AF_TSI instead, with programs of Debian's packages on a root that
is made once: it resolves a name, fetches a page of this machine's with curl, and serves one. Nothing but this
machine's loopback is reached.

With --oci an image for linux/arm64 is run instead: an OCI layout or an archive of one, or an archive of docker save.
COMMAND takes the place of its Cmd. Its layers become block devices, its configuration init-oci.conf; its output and
errors are shown line by line. Lines on standard error name the ports that the image exposes and no --port publishes.
Ctrl-C sends the image its StopSignal. QEMU emulates the processor, so this is many times slower than the real host.

With --snapshot, Ctrl-C parks the guest's CPUs through the agent and saves the guest, and --restore goes on with it in a
new QEMU of the same version, with the same kernel, CPUs and memory. Such a guest has no network. A file of a stranger
is a stranger's program, for QEMU too: restore what you have saved.

exit status: 0 PASS, 1 a stage failed, 2 usage; with --oci the image's own, 0 if the image powers the guest off by
itself, and 125 if it could not be run

examples:
  python3 scripts/boot.py dist/*.whl
  python3 scripts/boot.py kernel-build/out/aarch64 --cpus 2 --verbose
  python3 scripts/boot.py dist/*.whl --network
  python3 scripts/boot.py --oci layout:latest dist/*.whl -- /bin/sh -c 'uname -a'
  python3 scripts/boot.py --oci layout:latest --snapshot guest.saved dist/*.whl
  python3 scripts/boot.py --restore guest.saved dist/*.whl
"""


STAGES = (
    Stage("kernel", r"Linux version \S+"),
    Stage("init-oci", r"^init-oci: guest contract 2$"),
    Stage("smpark.ko", r"^init-oci: /supermachine-smpark\.ko loaded, /dev/smpark is there$"),
    Stage("overlay root", r"^init-oci: overlay root on 1 layers, upper tmpfs$"),
    Stage("entrypoint", r"^selftest: pid1: ok: .*"),
    Stage("writable root", r"^selftest: root: ok: .*"),
    Stage("PARK and UNPARK", r"^selftest: smpark: ok: .*"),
    Stage("agent", r"^selftest: agent: ok: .*"),
    Stage("exit status", r"^init-oci: exit status 0$"),
    Stage("power off", r"reboot: Power down"),
)


NETWORK_STAGES = (*STAGES[:4], *(Stage(name, proof) for name, proof in PROOFS.items()), *STAGES[-2:])


class BootError(SupermachineKernelError):
    """Why nothing could be booted."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit status: 0 PASS, 1 a stage failed, 2 usage; with --oci that of the image, or 125."""
    options = _parse(arguments)
    if options.oci is not None or options.restore is not None:
        return _run_image(options)
    try:
        boots = boot_switched if is_switched(options.assets) else boot_assets
        with tempfile.TemporaryDirectory(prefix="supermachine-boot-") as scratch:
            boot, stages = boots(options.assets, Path(scratch), options)
    except (BootError, WheelError, SetupError) as error:
        return report_error(error, as_json=options.json)
    except GuestError as error:
        return report_error(BootError("the guest's devices", found=str(error)), as_json=options.json)
    reached = stages_of(boot, stages)
    failure = describe_failure(boot, reached, options.timeout, stages)
    if options.json:
        print(json.dumps(_report(boot, reached, failure, stages), indent=2))
    else:
        _print(boot, reached, failure)
    return 1 if failure else 0


def is_switched(source: Path) -> bool:
    """Whether a wheel or a folder has a set without init-oci, for which the host makes the root and switches to it."""
    return (source / "busybox").exists() if source.is_dir() else source.stem.endswith("x86_64")


def boot_switched(source: Path, scratch: Path, options: argparse.Namespace) -> tuple[qemu.Boot, Sequence[Stage]]:
    """Boot such a set, writing into `scratch` only; what was seen, and the stages. Raises BootError, SetupError."""
    install_commands([qemu.X86_64.program])
    folder = assets_folder(source, scratch, SWITCHED_NAMES)
    switched_boot.check_kernel(folder / "kernel")
    how = switched_boot.How(options.cpus, options.memory, options.timeout, _watcher(options))
    if options.network:
        return switched_boot.boot_network(folder, scratch, how), switched_boot.NETWORK
    return switched_boot.boot_selftest(folder, scratch, how), switched_boot.SELFTEST


def boot_assets(source: Path, scratch: Path, options: argparse.Namespace) -> tuple[qemu.Boot, Sequence[Stage]]:
    """Boot a set with init-oci, writing into `scratch` only; what was seen, and the stages.

    Raises BootError, SetupError.
    """
    install_commands([qemu.PROGRAM])
    folder = assets_folder(source, scratch)
    initramfs = scratch / "initramfs.cpio.gz"
    say = _watcher(options)
    kernel = qemu.as_host_loads(folder / "kernel", scratch)
    if options.network:
        initramfs.write_bytes(guest_initramfs(folder, CONFIG).pack())
        how = {"cpus": options.cpus, "memory": options.memory, "limit": options.timeout}
        return boot_network(kernel, initramfs, **how, on_line=say), NETWORK_STAGES
    assets = guest_initramfs(folder, f"lower=/{CONTAINER}\narg=/{PROGRAM}\narg=selftest\n")
    assets.file(f"{CONTAINER}/{PROGRAM}", (folder / "supermachine-agent").read_bytes(), 0o755)
    initramfs.write_bytes(assets.pack())
    with qemu.Machine(
        kernel, initramfs, cpus=options.cpus, memory=options.memory, command_line=qemu.HOST_COMMAND_LINE, on_line=say
    ) as machine:
        return machine.wait(options.timeout), STAGES


def assets_folder(source: Path, scratch: Path, names: Sequence[str] = NAMES) -> Path:
    """The folder with these files: `source`, or where a wheel was installed in `scratch`. Raises BootError."""
    folder = source if source.is_dir() else install(source, scratch)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise BootError(str(folder), ", ".join(names), f"no {', '.join(missing)}", "build the set first")
    return folder


def install(wheel: Path, scratch: Path) -> Path:
    """Install a wheel as pip does on a machine it is for, and have the installed module hand out its files."""
    target, folder = scratch / "site", scratch / "assets"
    install_wheel(environments.ensure("build"), wheel, target)
    program = "import sys, supermachine_kernel as s; s.extract_all_to(sys.argv[1])"
    command = [sys.executable, "-c", program, str(folder)]
    inside = {**os.environ, "PYTHONPATH": str(target)}
    done = subprocess.run(command, cwd=scratch, env=inside, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        cure = "see the message; build the wheel again"
        raise BootError(str(wheel), "an installed module that hands out the assets", f"an error: {last}", cure)
    return folder


def _run_image(options: argparse.Namespace) -> int:
    """Run the image of --oci, or go on with that of --restore; its exit status."""
    run = Run(options.command, options.volume, dict(options.port), options.cpus, options.memory, options.timeout)
    console = log if options.verbose else lambda line: None
    show = Show(lambda line: print(line, flush=True), lambda line: print(line, file=sys.stderr, flush=True), console)
    try:
        install_commands([qemu.PROGRAM, "mksquashfs", "zstd"])
        with tempfile.TemporaryDirectory(prefix="supermachine-boot-") as scratch:
            assets = assets_folder(options.assets, Path(scratch))
            if options.restore is not None:
                return restore(options.restore, assets, run, Path(scratch), show)
            with read_image(options.oci) as image:
                if options.snapshot is not None:
                    return run_and_save(image, assets, run, options.snapshot, Path(scratch), show)
                for line in unpublished_ports(image.config, run.ports):
                    log(f"boot.py: {line}")
                return run_image(image, assets, run, Path(scratch), show)
    except (BuildError, BootError, WheelError, SetupError, TimeoutError, GuestError) as error:
        print(f"boot.py: {error}", file=sys.stderr)
        return NOT_RUN


def _watcher(options: argparse.Namespace) -> Callable[[qemu.Line], None]:
    """What is called for each line of the console."""
    return _say if options.verbose else lambda line: None


def _say(line: qemu.Line) -> None:
    print(f"{line.ms:6d} ms  {line.text}", file=sys.stderr, flush=True)


def _report(boot: qemu.Boot, reached: list[Reached], failure: str | None, stages: Sequence[Stage]) -> dict[str, object]:
    return {
        "result": "FAIL" if failure else "PASS",
        "failure": failure,
        "failed_stage": stages[len(reached)].name if len(reached) < len(stages) else None,
        "stages": [{"name": stage.stage, "ms": stage.ms, "line": stage.text} for stage in reached],
        "qemu_status": boot.status,
        "ms": boot.ms,
        "console": [line.text for line in boot.lines[-LAST_LINES:]],
    }


def _print(boot: qemu.Boot, reached: list[Reached], failure: str | None) -> None:
    for stage in reached:
        print(f"{stage.ms:6d} ms  {stage.stage:<16}{stage.text}")
    if failure is None:
        print(f"PASS: {len(reached)} stages in {boot.ms} ms")
        return
    print(f"FAIL: {failure}")
    print("the console's last lines:" if boot.lines else "the console said nothing")
    for line in boot.lines[-LAST_LINES:]:
        print(f"{line.ms:6d} ms  {line.text}")


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = _parser()
    words = sys.argv[1:] if arguments is None else arguments
    end = words.index("--") if "--" in words else len(words)
    options = parser.parse_args(words[:end])
    options.command = words[end + 1 :]
    _check_together(parser, options)
    if options.memory is None:
        options.memory = qemu.HOST_MEMORY if options.oci is None else qemu.MEMORY
    if options.timeout is None and options.oci is None and options.restore is None:
        options.timeout = 120.0
    return options


def _check_together(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End the program where options do not go together."""
    image = options.oci is not None or options.restore is not None
    if not image and (options.command or options.volume or options.port or options.snapshot):
        parser.error("a command after --, --volume, --port and --snapshot go with --oci")
    if image and (options.json or options.network):
        parser.error("--json and --network go without --oci and --restore: the output is the image's")
    if options.restore is not None and (options.oci is not None or options.snapshot or options.command):
        parser.error("--restore goes without --oci, --snapshot and a command: the guest is in the file")
    if options.port and (options.snapshot or options.restore):
        parser.error("--port goes without --snapshot and --restore: QEMU cannot save the device of AF_TSI")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="boot.py",
        usage="%(prog)s [OPTION...] WHEEL_OR_DIR [-- COMMAND...]",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "assets", type=source, metavar="WHEEL_OR_DIR", help="a wheel, or a folder with the files of a set"
    )
    parser.add_argument(
        "command", nargs="*", default=[], metavar="COMMAND", help="after --: what the image runs instead of its Cmd"
    )
    parser.add_argument("--oci", metavar="LAYOUT[:TAG]", help="run this image: a layout's folder, or an archive")
    parser.add_argument(
        "--volume",
        type=volume,
        action="append",
        default=[],
        metavar="FILE:PATH[:ro]",
        help="mount a file with ext4 or XFS",
    )
    help_port = "what the image listens at, at this port of 127.0.0.1"
    parser.add_argument("--port", type=ports, action="append", default=[], metavar="HOST:GUEST", help=help_port)
    parser.add_argument(
        "--memory", type=memory, metavar="SIZE", help=f"the guest's ({qemu.HOST_MEMORY}; with --oci {qemu.MEMORY})"
    )
    parser.add_argument("--timeout", type=seconds, metavar="SECONDS", help="of the whole boot (120; with --oci none)")
    parser.add_argument("--cpus", type=cpus, default=4, metavar="N", help="the guest's CPUs, 1 to 8 (4)")
    help_snapshot = "with --oci: Ctrl-C saves the guest in FILE, and ends it"
    parser.add_argument("--snapshot", type=Path, metavar="FILE", help=help_snapshot)
    help_restore = "go on with the guest in FILE; give the --volume options that it had"
    parser.add_argument("--restore", type=Path, metavar="FILE", help=help_restore)
    parser.add_argument("--network", action="store_true", help="check AF_TSI, with Debian's curl")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--verbose", action="store_true", help="show the console on stderr as it comes")
    return parser


if __name__ == "__main__":
    run_program(main)
