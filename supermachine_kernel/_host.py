"""Whether this machine can run the microVMs of the set that is installed."""

import os
import sys
from typing import TYPE_CHECKING, NamedTuple, Optional

if TYPE_CHECKING:
    from typing import Callable

KVM = "/dev/kvm"
_GET_API_VERSION, _API_VERSION = 0xAE00, 12  # Documentation/virt/kvm/api.rst, 4.1


class Host(NamedTuple):
    """What was found of this machine, and how to mend it; `status` is as in a finding of the doctor."""

    status: str
    found: str
    cure: Optional[str] = None


def look_at_host(guest_set: "Optional[str]") -> Host:
    """Look at this machine as a host for that set; None, where no manifest says which one it is, is for any."""
    import platform

    machine = platform.machine()
    if guest_set is None:
        return Host("ok", f"{platform.system()} on {machine}")
    served = _HOSTS.get(guest_set)
    if served is None or sys.platform != served.platform or machine not in served.machines:
        # The wheel is used here too: to check, extract and bundle.
        where = served.words if served else "a machine that serves it"
        cure = f"run microVMs on {where}; here the files can be checked and staged"
        return Host("warn", f"{platform.system()} on {machine}: no host for the microVMs of {guest_set}", cure)
    return served.look()


def _look_at_a_mac() -> Host:
    import platform

    version, machine = platform.mac_ver()[0], platform.machine()
    if _is_translated():
        cure = "use an arm64 (or universal2) Python, and not a terminal that runs under Rosetta"
        return Host("bad", f"macOS {version}, this Python translated by Rosetta", cure)
    if machine != "arm64":
        return Host("bad", f"macOS {version} on {machine}", "use a Mac with Apple Silicon")
    if int(version.partition(".")[0] or 0) < 11:
        return Host("bad", f"macOS {version} on {machine}", "update to macOS 11 or later")
    return Host("ok", f"macOS {version} on {machine}")


def _is_translated() -> bool:
    """Whether Rosetta runs this process: sysctl.proc_translated is 1 then, and unknown on an Intel Mac."""
    import subprocess

    command = ["/usr/sbin/sysctl", "-in", "sysctl.proc_translated"]
    try:
        return subprocess.run(command, capture_output=True, check=False).stdout.strip() == b"1"
    except OSError:
        return False


def _look_at_kvm() -> Host:
    """Open the device of KVM and ask for the version of its interface, which has been 12 since 2007."""
    import fcntl
    import platform

    here = f"Linux on {platform.machine()}"
    try:
        descriptor = os.open(KVM, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        cure = "turn virtualization on in the firmware, or around a virtual machine, and load the module kvm_intel or "
        return Host("warn", f"{here}, without {KVM}", f"{cure}kvm_amd; here the files can be checked and staged")
    except PermissionError:
        cure = f"join the group of the device: sudo usermod -aG {_group()} $USER, and log in again"
        return Host("bad", f"{here}, with a {KVM} that this user may not read and write", cure)
    except OSError as error:
        cure = "load the module kvm_intel or kvm_amd; dmesg says why it refuses"
        return Host("bad", f"{here}, with a {KVM} that cannot be opened ({error.strerror})", cure)
    try:
        version = fcntl.ioctl(descriptor, _GET_API_VERSION)
    except OSError:  # another device of that name
        version = -1
    finally:
        os.close(descriptor)
    if version != _API_VERSION:
        return Host("bad", f"{here}, with a {KVM} that is not KVM's", "see what made it, and load the module of KVM")
    return Host("ok", f"{here}, with KVM")


def _group() -> str:
    """The group of the device, by its name where it has one."""
    import grp

    try:
        group = os.stat(KVM).st_gid
        return grp.getgrgid(group).gr_name if group else "kvm"
    except (OSError, KeyError):
        return "kvm"


class _Served(NamedTuple):
    """The hosts of a set: `sys.platform`, the values of `platform.machine()`, what they are called, how to look."""

    platform: str
    machines: "tuple[str, ...]"
    words: str
    look: "Callable[[], Host]"


_HOSTS = {
    "aarch64": _Served("darwin", ("arm64", "x86_64"), "macOS 11 or later on Apple Silicon", _look_at_a_mac),
    "x86_64": _Served("linux", ("x86_64",), "Linux on x86_64 with KVM", _look_at_kvm),
}
