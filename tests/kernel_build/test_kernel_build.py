"""kernel-build/scripts/build.sh, run for real; what compiles a kernel comes from its cache once it was built."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

from tests.support import disk
from tests.support.native_agent import wait_until

KERNEL_BUILD = Path(__file__).resolve().parents[2] / "kernel-build"
ASSETS = ["init-oci", "kernel", "smpark.ko", "supermachine-agent"]

# The groups of options that issue "From source to a booted wheel" asks for.
OPTIONS = {
    "processors": "SMP",
    "binaries": "BINFMT_ELF BINFMT_SCRIPT",
    "system calls": "FUTEX EPOLL EVENTFD SIGNALFD TIMERFD IO_URING",
    "containers": "CGROUPS MEMCG CGROUP_PIDS NAMESPACES UTS_NS IPC_NS PID_NS NET_NS USER_NS SECCOMP SECCOMP_FILTER",
    "System V IPC": "SYSVIPC",
    "initramfs": "BLK_DEV_INITRD RD_GZIP RD_ZSTD",
    "virtio transport": "VIRTIO_MMIO VIRTIO_MMIO_CMDLINE_DEVICES",
    "virtio devices": "VIRTIO_BLK VIRTIO_CONSOLE VIRTIO_NET VIRTIO_VSOCKETS VIRTIO_FS HW_RANDOM_VIRTIO VIRTIO_BALLOON",
    "sockets": "UNIX INET IPV6 PACKET VSOCKETS VSOCKETS_LOOPBACK",
    "kernel file systems": "PROC_FS SYSFS DEVTMPFS TMPFS TMPFS_XATTR",
    "file systems": "OVERLAY_FS SQUASHFS SQUASHFS_ZSTD EROFS_FS EXT4_FS FUSE_FS",
    "KASLR": "RELOCATABLE RANDOMIZE_BASE",
}
OWN_OPTIONS = {
    "aarch64": "MODULES SERIAL_AMBA_PL011 SERIAL_AMBA_PL011_CONSOLE RTC_DRV_PL031 ARM_PSCI_FW",
    "x86_64": "X86_MPPARSE PVH KVM_GUEST SERIAL_8250 SERIAL_8250_CONSOLE MITIGATION_PAGE_TABLE_ISOLATION",
}


def build(
    *arguments: object,
    tree: Path = KERNEL_BUILD,
    cache: Path | None = None,
    path: Path | None = None,
    user: int | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run build.sh with `cache`, with nothing but the commands in the folder `path`, or as another user."""
    return subprocess.run(
        command(tree, arguments),
        env=environment(cache, path),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        user=user,
        group=user,
        extra_groups=None if user is None else [],
    )


def command(tree: Path, arguments: Any) -> list[str]:
    return ["/bin/bash", str(tree / "scripts/build.sh"), *map(str, arguments)]


def environment(cache: Path | None, path: Path | None = None) -> dict[str, str]:
    changed = dict(os.environ)
    if cache:
        changed["SUPERMACHINE_BUILD_CACHE"] = str(cache)
    if path:
        changed["PATH"] = str(path)
    return changed


def user_cache() -> Path:
    if "SUPERMACHINE_BUILD_CACHE" in os.environ:
        return Path(os.environ["SUPERMACHINE_BUILD_CACHE"])
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "supermachine-kernel/build"


def digest(tree: Path = KERNEL_BUILD, source: Path | None = None, *options: str) -> str:
    """The digest of a build's inputs; of a small `source` it is there at once."""
    result = build("--print-digest", *options, *(["--source", source] if source else []), tree=tree)
    assert result.returncode == 0, result.stderr
    assert re.fullmatch(r"[0-9a-f]{64}\n", result.stdout)
    return result.stdout.strip()


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of kernel-build that a test may change."""
    return copy_sources(tmp_path / "checkout")


def remove_patches(checkout: Path) -> None:
    """The tests' own kernel sources are no Linux, which the patches are for."""
    for patch in (checkout / "patches").glob("*.patch"):
        patch.unlink()


def copy_sources(to: Path) -> Path:
    ignored = shutil.ignore_patterns("out", "*.o", "*.ko", "*.mod*", ".*.cmd")
    return Path(shutil.copytree(KERNEL_BUILD, to / "kernel-build", ignore=ignored))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache of the test's own, which has the musl package already."""
    digest(KERNEL_BUILD, SMALL)
    shutil.copytree(user_cache() / "musl-arm64", tmp_path / "cache/musl-arm64")
    return tmp_path / "cache"


@pytest.fixture
def tiny_source(checkout: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A kernel source of one Makefile, and a checkout without patches; what configures the kernel is given."""
    remove_patches(checkout)

    def make(configuring: str) -> Path:
        source = tmp_path / "linux"
        source.mkdir()
        (source / "Makefile").write_text(
            "VERSION = 6\n\nmrproper:\nkernelversion:\n\t@echo 6.12.0\nallnoconfig:\n\t" + configuring + "\n"
        )
        (source / "greeting").write_text("one\ntwo\nthree\n")
        return source

    return make


@pytest.fixture
def commands_without(tmp_path: Path) -> Callable[..., Path]:
    """A folder of all commands but the named, to be the PATH."""

    def make(*names: str) -> Path:
        folder = tmp_path / "bin"
        folder.mkdir(mode=0o755)
        for directory in reversed(os.environ["PATH"].split(os.pathsep)):
            for tool in Path(directory).glob("*"):
                if tool.name not in names:
                    link = folder / tool.name
                    link.unlink(missing_ok=True)
                    link.symlink_to(tool)
        return folder

    return make


# --- usage ---


def test_help_names_every_option() -> None:
    result = build("--help")
    assert result.returncode == 0
    assert result.stdout.startswith("Usage: bash kernel-build/scripts/build.sh")
    for option in ("--set", "--jobs", "--out", "--source", "--busybox", "--check", "--print-digest"):
        assert option in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--job"], "unknown option: --job"),
        (["out"], "unknown option: out"),
        (["--jobs"], "--jobs needs a value"),
        (["--out="], "--out needs a value"),
        (["--jobs", "0"], "--jobs needs a number from 1, not: 0"),
        (["--jobs=many"], "--jobs needs a number from 1, not: many"),
        (["--set", "mips"], "--set mips: expected one of aarch64 x86_64, or all"),
        (["--set=all", "--out=sets"], "--out takes one set, not all"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(arguments: list[str], message: str) -> None:
    result = build(*arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == f"build.sh: {message}; --help lists the options\n"


def test_source_that_is_not_there(tmp_path: Path) -> None:
    result = build("--source", tmp_path / "linux.tar.xz")
    assert result.returncode == 1
    assert result.stderr == f"build.sh: --source {tmp_path}/linux.tar.xz: there is no such file or folder\n"


def test_source_that_is_another_folder(tmp_path: Path) -> None:
    result = build("--source", tmp_path)
    assert result.returncode == 1
    assert result.stderr == f"build.sh: --source {tmp_path}: expected kernel source, found no Makefile there\n"


def test_out_that_cannot_be_written(tmp_path: Path) -> None:
    """Said before anything is built."""
    for out in (Path("/proc/version/out"), Path("/proc/new/out")):
        result = build("--out", out)
        assert result.returncode == 1
        assert result.stderr == (
            f"build.sh: --out {out}: {out.parent} is not a folder that may be written to: name another with --out\n"
        )


def test_folder_with_other_files_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "kernel").touch()
    (tmp_path / "thesis.tex").touch()
    result = build("--out", tmp_path)
    assert result.returncode == 1
    assert "thesis.tex is no part of a set: give a folder of its own" in result.stderr
    assert sorted(file.name for file in tmp_path.iterdir()) == ["kernel", "thesis.tex"]


def test_out_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    result = build("--out", tmp_path / "out")
    assert result.returncode == 1
    assert result.stderr == f"build.sh: --out {tmp_path}/out: expected a folder, found a file\n"
    assert (tmp_path / "out").read_text() == "mine"


# --- the machine ---


def test_a_linux_without_apt_is_refused(commands_without: Callable[..., Path]) -> None:
    result = build(path=commands_without("apt-get"))
    assert result.returncode == 1
    assert "Debian or Ubuntu only" in result.stderr
    assert "from the release" in result.stderr and "docker run" in result.stderr


def test_another_system_than_linux_is_refused(commands_without: Callable[..., Path]) -> None:
    path = commands_without("uname")
    (path / "uname").write_text("#!/bin/sh\necho Darwin\n")
    (path / "uname").chmod(0o755)
    result = build(path=path)
    assert result.returncode == 1
    assert "Debian or Ubuntu only" in result.stderr


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = build(cache=tmp_path / "file" / "cache")
    assert result.returncode == 1
    cure = "expected a folder to write to; set SUPERMACHINE_BUILD_CACHE to one"
    assert result.stderr == f"build.sh: {tmp_path}/file/cache: {cure}\n"


def test_missing_packages_without_root() -> None:
    disk.need_root("only root becomes another user")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        tree = copy_sources(Path(folder))
        tools = Path(folder, "bin")
        tools.mkdir()
        present = (
            "apt-get bc bison cat dirname dpkg dpkg-deb env gcc head make mkdir nproc patch python3 realpath uname xz"
        )
        for name in present.split():
            # The tests' own python3 may lie in root's home.
            (tools / name).symlink_to(shutil.which(name, path="/usr/bin:/bin") or "/nowhere")
        refused = build(tree=tree, cache=Path(folder, "cache"), path=tools, user=65534)
        Path(folder, "sets").mkdir()
        Path(folder, "sets").chmod(0o777)
        own = Path(folder, "sets/own")
        result = build("--out", own, tree=tree, cache=Path(folder, "cache"), path=tools, user=65534)
    assert refused.returncode == 1
    assert f"{tree}/out is not a folder that may be written to: name another with --out\n" in refused.stderr
    assert result.returncode == 1
    assert re.search(
        "packages are missing, and installing them takes root. "
        "Run: sudo apt-get install --yes --no-install-recommends flex gcc-aarch64-linux-gnu( |\n)",
        result.stderr,
    )


# --- inputs ---

SMALL = Path(__file__)


def test_digest_is_that_of_the_contents(checkout: Path) -> None:
    before = digest(KERNEL_BUILD, SMALL)
    assert digest(checkout, SMALL) == before
    for name in ("README.md", "patches/README.md", "scripts/build.sh"):
        with (checkout / name).open("a") as file:
            file.write("\n# said otherwise\n")
    (checkout / "smpark/smpark.mod.c").write_text("litter of a build")
    assert digest(checkout, SMALL) == before


@pytest.mark.parametrize(
    "name",
    [
        *("config/common.config", "config/aarch64.config", "scripts/recipe.sh", "scripts/programs.sh"),
        *("smpark/*.c", "smpark/Kbuild", "init-oci/*.c", "agent/*.c"),
    ],
)
def test_digest_changes_with_a_byte_of(name: str, checkout: Path) -> None:
    before = digest(checkout, SMALL)
    with next(checkout.glob(name)).open("a") as file:
        file.write("\n")
    assert digest(checkout, SMALL) != before


def test_digest_changes_with_a_patch_and_its_name(checkout: Path) -> None:
    digests = {digest(checkout, SMALL)}
    patch = checkout / "patches/0001-first.patch"
    patch.write_text("")
    digests.add(digest(checkout, SMALL))
    patch.rename(patch.with_name("0002-first.patch"))
    digests.add(digest(checkout, SMALL))
    assert len(digests) == 3


def test_digest_changes_with_the_source(tiny_source: Callable[[str], Path]) -> None:
    source = tiny_source("@true")
    before = digest(KERNEL_BUILD, source)
    assert before not in (digest(), digest(KERNEL_BUILD, SMALL))
    os.utime(source / "greeting", (0, 0))
    assert digest(KERNEL_BUILD, source) == before
    (source / "greeting").write_text("four\n")
    assert digest(KERNEL_BUILD, source) != before


@pytest.mark.parametrize("group", OPTIONS)
def test_the_configuration_has_every_option_of_the_group(group: str) -> None:
    lines = (KERNEL_BUILD / "config/common.config").read_text().splitlines()
    assert [option for option in OPTIONS[group].split() if f"CONFIG_{option}=y" not in lines] == []


@pytest.mark.parametrize("guest_set", OWN_OPTIONS)
def test_the_configuration_of_a_set_has_every_option_of_its_machine(guest_set: str) -> None:
    lines = (KERNEL_BUILD / f"config/{guest_set}.config").read_text().splitlines()
    assert [option for option in OWN_OPTIONS[guest_set].split() if f"CONFIG_{option}=y" not in lines] == []


def test_every_set_has_a_configuration_and_a_digest_of_its_own() -> None:
    sets = json.loads((KERNEL_BUILD / "guest-sets.json").read_text())
    assert {file.stem for file in (KERNEL_BUILD / "config").iterdir()} == {"common", "aarch64-debug", *sets}
    assert len({digest(KERNEL_BUILD, SMALL, "--set", name) for name in sets}) == len(sets)


# --- failing stages ---


def patch_of(old: str, new: str) -> str:
    return f"--- a/greeting\n+++ b/greeting\n@@ -1,3 +1,3 @@\n one\n-{old}\n+{new}\n three\n"


def test_patch_that_does_not_apply(
    checkout: Path, cache: Path, tiny_source: Callable[[str], Path], tmp_path: Path
) -> None:
    patches = checkout / "patches"
    (patches / "0001-applies.patch").write_text(patch_of("two", "2"))
    (patches / "0002-does-not.patch").write_text(patch_of("two", "zwei"))
    source = tiny_source("@true")
    result = build("--source", source, "--out", tmp_path / "out", tree=checkout, cache=cache)
    assert result.returncode == 1
    assert f"{patches}/0002-does-not.patch does not apply to Linux 6.12.0\n" in result.stderr
    assert "0001-applies.patch does not" not in result.stderr
    log = re.search(r"stage failed: applying patches. The whole log: (.*)\n", result.stderr)
    assert log and "patching file greeting" in Path(log[1]).read_text()
    assert not (tmp_path / "out").exists()
    assert (source / "greeting").read_text() == "one\ntwo\nthree\n"
    assert list(cache.glob("work.*")) == []


def test_option_that_does_not_survive(
    checkout: Path, cache: Path, tiny_source: Callable[[str], Path], tmp_path: Path
) -> None:
    (checkout / "config/common.config").write_text("CONFIG_SMP=y\n# CONFIG_PCI is not set\n")
    (checkout / "config/aarch64.config").write_text("CONFIG_TSI=y\n")
    source = tiny_source("printf 'CONFIG_SMP=y\\nCONFIG_PCI=y\\n' > .config")
    result = build("--source", source, "--out", tmp_path / "out", tree=checkout, cache=cache)
    assert result.returncode == 1
    assert "Kconfig did not keep this line: CONFIG_TSI=y\n" in result.stderr
    assert "Kconfig did not keep this line: # CONFIG_PCI is not set\n" in result.stderr
    assert "CONFIG_SMP" not in result.stderr
    assert "stage failed: configuring." in result.stderr


def test_folder_without_the_source_of_busybox(tmp_path: Path) -> None:
    result = build("--set", "x86_64", "--source", SMALL, "--busybox", tmp_path, "--print-digest")
    assert result.returncode == 1
    expected = "expected a source package of busybox, found no busybox_VERSION.dsc"
    assert result.stderr == f"build.sh: --busybox {tmp_path}: {expected}\n"


def test_asset_that_has_no_source(checkout: Path) -> None:
    table = checkout / "guest-sets.json"
    table.write_text(table.read_text().replace('"busybox"', '"toybox"'))
    result = build("--set", "x86_64", "--source", SMALL, "--print-digest", tree=checkout)
    assert result.returncode == 1
    assert result.stderr == f"build.sh: {table}: toybox: there is no source of such an asset\n"


def test_tarball_without_a_kernel(checkout: Path, cache: Path, tmp_path: Path) -> None:
    tarball = Path(shutil.make_archive(str(tmp_path / "photos"), "gztar", checkout, "config"))
    result = build("--source", tarball, "--out", tmp_path / "out", tree=checkout, cache=cache)
    assert result.returncode == 1
    assert f"{tarball} holds no kernel source: no Makefile with a VERSION\n" in result.stderr


@pytest.fixture
def hanging_build(
    checkout: Path, cache: Path, tiny_source: Callable[[str], Path], tmp_path: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A build that has come as far as configuring the kernel, and stays there."""
    mark = tmp_path / "configuring"
    source = tiny_source(f"touch {mark}; sleep 321")
    process = subprocess.Popen(
        command(checkout, ["--source", source, "--out", tmp_path / "out"]),
        env=environment(cache),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(mark.exists, 30)
        yield process
    finally:
        process.kill()
        process.wait()


def processes_of(cache: Path) -> list[int]:
    """The processes that have a file or their working folder in the cache."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            targets = [os.readlink(process / "cwd"), *(os.readlink(file) for file in (process / "fd").iterdir())]
        except OSError:
            continue
        if any(target.startswith(f"{cache}/") for target in targets):
            found.append(int(process.name))
    return found


@pytest.mark.slow
def test_terminated_build_leaves_nothing(hanging_build: subprocess.Popen[bytes], cache: Path, tmp_path: Path) -> None:
    hanging_build.terminate()
    assert hanging_build.wait(timeout=60) == 128 + signal.SIGTERM
    assert list(cache.glob("work.*")) == []
    assert not (tmp_path / "out").exists()
    wait_until(lambda: processes_of(cache) == [], 30)


@pytest.mark.slow
def test_next_build_removes_what_a_killed_one_left(
    hanging_build: subprocess.Popen[bytes], checkout: Path, cache: Path
) -> None:
    hanging_build.kill()
    hanging_build.wait()
    (left,) = cache.glob("work.*")
    build("--print-digest", tree=checkout, cache=cache)
    assert left.exists(), "its make still runs there"
    for process in processes_of(cache):
        os.kill(process, signal.SIGKILL)
    wait_until(lambda: processes_of(cache) == [], 30)
    build("--print-digest", tree=checkout, cache=cache)
    assert not left.exists()


# --- --check, of a kernel that is there at once ---

MAKEFILE = """VERSION = 6

mrproper:

allnoconfig:
\tcp $(KCONFIG_ALLCONFIG) .config

Image:
\tmkdir -p arch/arm64/boot arch/arm64/include include/config scripts usr/include
\ttouch arch/arm64/Makefile Module.symvers
\techo 6.12.0 > include/config/kernel.release
\t%s > arch/arm64/boot/Image

modules:
\t$(if $(M),$(CROSS_COMPILE)gcc -c -x c /dev/null -o $(M)/smpark.ko)

headers:
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("image", "differing"), [("echo the same", ""), ("date +%N", "kernel"), ("pwd", "kernel")], ids=str
)
def test_check_names_the_files_that_differ(
    image: str, differing: str, checkout: Path, cache: Path, tmp_path: Path
) -> None:
    remove_patches(checkout)
    for program in ("init-oci", "agent"):
        for file in (checkout / program).glob("*.[ch]"):
            file.unlink()
        (checkout / program / "main.c").write_text("int main(void) { return 0; }\n")
    source = tmp_path / "linux"
    source.mkdir()
    (source / "Makefile").write_text(MAKEFILE % image)
    result = build("--check", "--source", source, tree=checkout, cache=cache)
    assert re.fullmatch("".join(f"[0-9a-f]{{64}}  {name}\n" for name in ASSETS), result.stdout), result.stderr
    if differing:
        assert result.returncode == 1
        assert result.stderr.endswith(f"build.sh: the two builds differ in: {differing}\n")
    else:
        assert result.returncode == 0
        assert result.stderr.endswith("the two builds are identical\n")
        digest_of_image = hashlib.sha256(b"the same\n").hexdigest()
        assert f"{digest_of_image}  kernel\n" in result.stdout
    assert list((cache / "sets").iterdir()) == [] and not (checkout / "out").exists()


# --- a real set ---


@pytest.fixture(scope="module")
def real_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The set of this checkout: from the user's cache, else compiled into it."""
    out = tmp_path_factory.mktemp("set") / "aarch64"
    result = build("--out", out)
    assert result.returncode == 0, result.stderr
    return out


@pytest.fixture
def cache_with_set(real_set: Path, cache: Path) -> Path:
    """A cache of the test's own with one set and its kernel."""
    key = digest()
    shutil.copytree(user_cache() / "sets" / key, cache / "sets" / key)
    for kernel in (user_cache() / "kernels").iterdir():
        if sha256(kernel / "kernel") == sha256(real_set / "kernel"):
            shutil.copytree(kernel, cache / "kernels" / kernel.name)
    return cache


@pytest.mark.slow
def test_set_and_its_description(real_set: Path) -> None:
    assert sorted(file.name for file in real_set.iterdir()) == sorted([*ASSETS, "build-info.json"])
    text = (real_set / "build-info.json").read_text()
    info = json.loads(text)
    assert text == json.dumps(info, indent=2, sort_keys=True) + "\n"
    assert sorted(info) == [
        "assets",
        "config_sha256",
        "format",
        "inputs_sha256",
        "kernel_release",
        "patches",
        "set",
        "source",
        "toolchain",
    ]
    assert (info["format"], info["set"], info["inputs_sha256"]) == (1, "aarch64", digest())
    for name in ASSETS:
        file = real_set / name
        assert info["assets"][name] == {"sha256": sha256(file), "size": file.stat().st_size}
        assert file.stat().st_mode & 0o777 == (0o644 if name in ("kernel", "smpark.ko") else 0o755)
    kernel = (real_set / "kernel").read_bytes()
    assert f"Linux version {info['kernel_release']} (supermachine@kernel-build)".encode() in kernel
    assert f"vermagic={info['kernel_release']} ".encode() in (real_set / "smpark.ko").read_bytes()
    assert info["toolchain"]["gcc"].encode() in kernel
    package = ["dpkg-query", "--show", "--showformat=${Version}", "linux-source-6.12"]
    assert info["source"] == {
        "package": "linux-source-6.12",
        "version": subprocess.run(package, check=True, capture_output=True, text=True).stdout,
        "sha256": sha256(Path("/usr/src/linux-source-6.12.tar.xz")),
    }


@pytest.mark.slow
def test_no_path_of_a_build_folder_is_in_an_asset(real_set: Path) -> None:
    for name in ASSETS:
        contents = (real_set / name).read_bytes()
        for trace in ("/work.", str(user_cache()), f"{Path.home()}/", str(KERNEL_BUILD)):
            assert trace.encode() not in contents, name


@pytest.mark.slow
def test_kernel_carries_its_config(real_set: Path) -> None:
    kernel = (real_set / "kernel").read_bytes()
    config = zlib.decompress(kernel.split(b"IKCFG_ST")[1], wbits=31)
    assert hashlib.sha256(config).hexdigest() == json.loads((real_set / "build-info.json").read_text())["config_sha256"]
    lines = config.decode().splitlines()
    for group in [*OPTIONS.values(), OWN_OPTIONS["aarch64"]]:
        assert [option for option in group.split() if f"CONFIG_{option}=y" not in lines] == []
    assert "# CONFIG_MODULE_SIG is not set" in lines


@pytest.mark.slow
def test_another_checkout_takes_the_set_from_the_cache(real_set: Path, checkout: Path) -> None:
    stale = checkout / "out/aarch64/smpark.ko"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"of an older build")
    result = build(tree=checkout)
    assert result.returncode == 0, result.stderr
    assert "these inputs were built before: taken from the cache" in result.stderr
    assert result.stdout == "".join(f"{sha256(real_set / name)}  {name}\n" for name in ASSETS)
    for name in [*ASSETS, "build-info.json"]:
        assert (checkout / "out/aarch64" / name).read_bytes() == (real_set / name).read_bytes()
    assert [file.name for file in (checkout / "out").iterdir()] == ["aarch64"]


def flip_a_byte(file: Path) -> None:
    contents = bytearray(file.read_bytes())
    contents[len(contents) // 2] ^= 1
    file.write_bytes(contents)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kernel", "supermachine-agent", "build-info.json", "SHA256SUMS"])
def test_damaged_cache_entry_is_built_again(name: str, real_set: Path, cache_with_set: Path, tmp_path: Path) -> None:
    (entry,) = (cache_with_set / "sets").iterdir()
    flip_a_byte(entry / name)
    result = build("--out", tmp_path / "out", cache=cache_with_set)
    assert result.returncode == 0, result.stderr
    assert f"the cache entry {entry} is damaged: thrown away\n" in result.stderr
    assert "compiling init-oci" in result.stderr and "compiling the kernel" not in result.stderr
    for file in [*ASSETS, "build-info.json"]:
        assert (tmp_path / "out" / file).read_bytes() == (real_set / file).read_bytes()
    assert "is damaged" not in build("--out", tmp_path / "out", cache=cache_with_set).stderr


@pytest.mark.slow
def test_two_builds_at_once(real_set: Path, cache_with_set: Path, tmp_path: Path) -> None:
    shutil.rmtree(cache_with_set / "sets")
    builds = [
        subprocess.Popen(
            command(KERNEL_BUILD, ["--out", tmp_path / name]),
            env=environment(cache_with_set),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("one", "two")
    ]
    messages = [process.communicate()[1] for process in builds]
    assert [process.returncode for process in builds] == [0, 0], messages
    assert sum("compiling init-oci" in message for message in messages) == 1
    for name in ASSETS:
        assert sha256(tmp_path / "one" / name) == sha256(tmp_path / "two" / name) == sha256(real_set / name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "asset", "addition"),
    [
        ("smpark", "smpark.ko", 'const char changed[] __attribute__((used)) = "changed";'),
        ("agent", "supermachine-agent", '__attribute__((constructor)) static void changed(void) { __asm__("nop"); }'),
    ],
)
def test_change_in_a_guest_part_compiles_no_kernel(
    part: str, asset: str, addition: str, real_set: Path, cache_with_set: Path, checkout: Path, tmp_path: Path
) -> None:
    with next((checkout / part).glob("*.c")).open("a") as file:
        file.write(addition + "\n")
    result = build("--out", tmp_path / "out", tree=checkout, cache=cache_with_set)
    assert result.returncode == 0, result.stderr
    assert "compiling the kernel" not in result.stderr
    assert [name for name in ASSETS if sha256(tmp_path / "out" / name) != sha256(real_set / name)] == [asset]
