"""What somebody does who may write to the folder that files go into, and a fork at the worst moment."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from supermachine_kernel import ASSETS, KERNEL, ensure_assets
from tests.support import child, disk, odd_system
from tests.support.quick import sampled

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="LD_PRELOAD, strace and disk images are of Linux")

WAYS = {
    "extract_to": "k.INIT_OCI.extract_to(folder / 'init-oci')",
    "extract_all_to": "k.extract_all_to(folder)",
    "ensure_assets": "k.ensure_assets(folder)",
    "bundle": "bundle(folder)",
}


def attacked(way: str, folder: Path, target: Path, moment: str, name: str) -> subprocess.CompletedProcess[str]:
    program = f"""\
import sys, supermachine_kernel as k
from pathlib import Path
from supermachine_kernel._bundle import bundle
folder = Path(sys.argv[1])
try:
    {WAYS[way]}
except k.SupermachineKernelError as error:
    print(error)
"""
    return odd_system.python(program, folder, path=f"{folder}/{name}", swap=moment, target=target)


@on_linux
@pytest.mark.parametrize("moment", sampled(["open", "write", "chmod", "fsync"]))
@pytest.mark.parametrize("way", WAYS)
def test_a_link_in_the_place_of_a_temporary_file_leads_nowhere(way: str, moment: str, tmp_path: Path) -> None:
    """At each moment between the creation of the file and its name: what the link leads to is not touched."""
    folder, secret = tmp_path / "shared", tmp_path / "secret"
    folder.mkdir()
    secret.write_text("mine")
    secret.chmod(0o600)
    done = attacked(way, folder, secret, moment, ".supermachine-")
    assert done.returncode == 0, done.stderr
    assert (secret.read_text(), stat.S_IMODE(secret.stat().st_mode)) == ("mine", 0o600)
    assert any(path.is_symlink() for path in folder.iterdir()), "there was no attack"


@on_linux
@pytest.mark.parametrize("way", ["ensure_assets", "bundle"])
def test_a_link_in_the_place_of_a_file_does_not_have_its_end_mended(way: str, tmp_path: Path) -> None:
    """The file has a wrong mode; the link comes between the look at it and the change."""
    folder, secret = ensure_assets(tmp_path / "shared"), tmp_path / "secret"
    secret.write_text("mine")
    secret.chmod(0o600)
    (folder / "kernel").chmod(0o640)
    done = attacked(way, folder, secret, "chmod", "kernel")
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert (folder / "kernel").is_symlink(), "there was no attack"


@on_linux
@pytest.mark.parametrize("way", ["ensure_assets", "bundle"])
def test_a_link_to_a_file_that_is_right_does_not_have_its_end_mended(way: str, tmp_path: Path) -> None:
    """It comes between the look at the name and its opening, and leads to the user's own copy, with the user's mode."""
    folder, mine = ensure_assets(tmp_path / "shared"), tmp_path / "mine"
    (folder / ".supermachine-proof").unlink()
    mine.write_bytes(KERNEL.read_bytes())
    mine.chmod(0o600)
    done = attacked(way, folder, mine, "judge", "kernel")
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE(mine.stat().st_mode) == 0o600
    assert not (folder / "kernel").is_symlink() and mine.read_bytes() == KERNEL.read_bytes()


@pytest.mark.parametrize("way", ["ensure_assets", "bundle"])
def test_a_file_with_another_name_elsewhere_is_not_mended_there(way: str, tmp_path: Path) -> None:
    """Its mode is that of every name that it has."""
    folder, mine = ensure_assets(tmp_path / "shared"), tmp_path / "mine"
    (folder / "kernel").chmod(0o600)
    os.link(folder / "kernel", mine)
    program = f"""\
import sys, supermachine_kernel as k
from pathlib import Path
from supermachine_kernel._bundle import bundle
folder = Path(sys.argv[1])
{WAYS[way]}
"""
    done = child.python(program, folder)
    assert done.returncode == 0, done.stderr
    assert [stat.S_IMODE(path.stat().st_mode) for path in (mine, folder / "kernel")] == [0o600, 0o644]


def test_a_link_in_the_place_of_a_private_folder_is_not_entered(tmp_path: Path) -> None:
    """A clone is made in such a folder on macOS; the link comes between its creation and its opening."""
    (tmp_path / "elsewhere").mkdir(0o700)
    program = """\
import os, sys
from supermachine_kernel._folder import Folder
os.chdir(sys.argv[1])
with Folder(".") as folder:
    def hook(event, arguments):
        if event == "open" and str(arguments[0]).endswith("private") and not os.path.islink("private"):
            os.rmdir("private")
            os.symlink("elsewhere", "private")
    sys.addaudithook(hook)
    try:
        print("entered", folder.make_private("private").path)
    except OSError:
        print("refused", os.path.islink("private"))
"""
    done = child.python(program, tmp_path)
    assert (done.stdout.strip(), done.returncode) == ("refused True", 0), done.stderr


@on_linux
@pytest.mark.parametrize("name", ["Contents", "Resources"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_link_that_comes_into_an_app_leads_nowhere(moment: str, name: str, tmp_path: Path) -> None:
    """Who may write into the app puts it there before or after the folder is opened for the set."""
    resources = tmp_path / "My.app" / "Contents" / "Resources"
    resources.mkdir(parents=True)
    (tmp_path / "elsewhere" / "Resources").mkdir(parents=True)
    program = """\
import os, sys, supermachine_kernel as k
from pathlib import Path
from supermachine_kernel._bundle import bundle
import supermachine_kernel._doctor
folder, name, moment = sys.argv[1:]
path = {"Contents": "My.app/Contents", "Resources": "My.app/Contents/Resources"}[name]
awaited = {"before": name, "after": ".tmp"}[moment]
os.chdir(folder)
def hook(event, arguments):
    if event == "open" and str(arguments[0]).endswith(awaited) and not os.path.islink(path):
        os.rename(path, "moved")
        os.symlink(os.path.abspath("elsewhere"), path)
sys.addaudithook(hook)
try:
    bundle(Path("My.app"))
except k.DestinationError as error:
    print(error)
"""
    done = child.python(program, tmp_path, name, moment)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "moved").is_dir(), "there was no attack"
    assert [path for path in (tmp_path / "elsewhere").rglob("*") if path.is_file()] == []
    assert ("expected a folder of the app, found a link to" in done.stdout) == (moment == "before")


@on_linux
@pytest.mark.parametrize("way", ["ensure_assets", "bundle"])
def test_a_link_to_a_file_without_end_is_not_read(way: str, tmp_path: Path) -> None:
    """It comes between the look at the file and its opening; the process is killed when it reads for ever."""
    folder = ensure_assets(tmp_path / "shared")
    (folder / ".supermachine-proof").unlink()
    done = attacked(way, folder, Path("/dev/zero"), "judge", "kernel")
    assert done.returncode == 0, done.stderr
    assert hashlib.sha256((folder / "kernel").read_bytes()).hexdigest() == KERNEL.sha256


@pytest.mark.parametrize("place", ["kernel", ".supermachine-proof"])
def test_a_pipe_is_not_waited_for(place: str, tmp_path: Path) -> None:
    folder = ensure_assets(tmp_path)
    (folder / place).unlink()
    os.mkfifo(folder / place)
    done = child.python("import sys, supermachine_kernel as k; k.ensure_assets(sys.argv[1])", folder)
    assert ("found a device, socket or pipe" in done.stderr) == (place == "kernel")


@on_linux
def test_the_folder_that_was_opened_is_the_one_that_is_written_to(tmp_path: Path) -> None:
    """Its name leads elsewhere in the middle: the file still goes into the folder that was checked."""
    program = """\
import os, sys, supermachine_kernel as k
os.chdir(sys.argv[1])
os.mkdir("asked")
os.mkdir("other")
def hook(name, arguments):
    if name == "open" and str(arguments[0]).endswith(".tmp") and not os.path.islink("asked"):
        os.rename("asked", "moved")
        os.symlink("other", "asked")
sys.addaudithook(hook)
k.ensure_assets("asked")
print(len(os.listdir("other")), sorted(name for name in os.listdir("moved") if name[0] != "."))
"""
    done = child.python(program, tmp_path)
    names = sorted(asset.name for asset in ASSETS)
    assert done.stdout.strip() == f"0 {names}", done.stderr


@pytest.mark.slow
@on_linux
def test_the_module_writes_where_it_is_told_to_and_opens_no_connection(tmp_path: Path) -> None:
    """As the system sees it: every call that makes, changes or removes a file, and every socket."""
    strace, trace, told = disk.tool("strace", "strace"), tmp_path / "trace", tmp_path / "told"
    program = """\
import sys, supermachine_kernel as k
from supermachine_kernel.__main__ import main
folder = sys.argv[1]
k.verify()
k.extract_all_to(folder + "/all")
k.INIT_OCI.extract_to(folder + "/one/init-oci", parents=True)
k.ensure_assets(folder + "/ensured")
k.ensure_assets(folder + "/ensured", check="content")
for arguments in (["bundle", folder + "/bundled"], ["verify", folder + "/bundled"], ["doctor"], ["info"], ["path"]):
    main(arguments)
"""
    calls = "openat,open,creat,mkdir,mkdirat,rename,renameat,renameat2,unlink,unlinkat,symlink,symlinkat,link,linkat"
    options = ["-f", "-y", "-o", str(trace), "-e", f"trace={calls},chmod,fchmodat,truncate,socket,execve"]
    environment = child.environment_with(None, {"PYTHONDONTWRITEBYTECODE": "1"})
    command = [strace, *options, sys.executable, "-c", program, str(told)]
    subprocess.run(command, check=True, env=environment, cwd="/", timeout=120, stdout=subprocess.DEVNULL)
    lines = [line.partition(" ")[2].strip() for line in trace.read_text().splitlines()]
    writing = [line for line in lines if "open" not in line.partition("(")[0] or "O_WR" in line or "O_RDWR" in line]
    started, *writing = [line for line in writing if not line.startswith(("+++", "---")) and "/dev/null" not in line]
    assert started.startswith("execve(")
    assert len(writing) > 20
    assert [line for line in writing if f"<{told}" not in line and f'"{told}' not in line] == []


USES = [
    *("k.verify()", "k.KERNEL.verify()", "k.KERNEL.path", "k.KERNEL.read_bytes()", "k.KERNEL.view()", "k.assets_dir()"),
    *("k.KERNEL_BYTES", "k.KERNEL_LEN", "k.MANIFEST", "k.require_version('0.0.1')", "k.ensure_assets(folder)"),
    *("k.extract_all_to(folder)", "k.KERNEL.extract_to(folder + '/a/kernel', parents=True)"),
    *("k.extract_kernel_to(folder + '/kernel')", "k.extract_to(folder + '/kernel')"),
]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork is of POSIX")
@pytest.mark.parametrize("use", sampled(USES))
def test_a_fork_while_another_thread_is_in_its_first_call_hangs_nobody(use: str, tmp_path: Path) -> None:
    """The other thread is held where it reads a module's file, in the middle of an import; the child does the same."""
    program = f"""\
import os, signal, sys, threading, time, warnings
warnings.simplefilter("ignore")
import supermachine_kernel as k
folder = sys.argv[1]
reached = threading.Event()
first = threading.get_ident()
def hook(name, arguments):
    if name == "open" and threading.get_ident() != first and str(arguments[0]).endswith((".py", ".pyc")):
        reached.set()
        time.sleep(0.02)
sys.addaudithook(hook)
def use():
    try:
        {use}
    except k.SupermachineKernelError:
        pass
    reached.set()
thread = threading.Thread(target=use)
thread.start()
reached.wait()
child = os.fork()
if not child:
    signal.alarm(20)
    use()
    os._exit(0)
thread.join()
print(os.waitpid(child, 0)[1])
"""
    done = child.python(program, tmp_path)
    assert (done.stdout.strip(), done.stderr) == ("0", ""), "the child hung, or a lock was not released"


def test_every_public_function_is_forked_in() -> None:
    import supermachine_kernel

    functions = {name for name in supermachine_kernel.__all__ if name.islower() and not name.startswith("_")}
    tried = " ".join(USES)
    alike = {name for name in functions if name.startswith("extract_") and name != "extract_all_to"}
    assert {name for name in functions - alike if f"k.{name}(" not in tried} == set()


@pytest.mark.slow
@on_linux
class TestPowerCut:
    """What a disk has after the power was cut, the moment after another file was flushed."""

    PROGRAM = """\
import os, subprocess, sys, supermachine_kernel as k
image, mounted, use = sys.argv[1:]
folder = mounted + "/set"
os.mkdir(folder)
for asset in k.ASSETS:
    with open(os.path.join(folder, asset.name), "w") as old:
        old.write("old")
os.sync()
exec(use)
with open(mounted + "/another", "w") as other:
    other.write("x")
    os.fsync(other.fileno())
subprocess.run(["cp", "--sparse=always", image, image + ".cut"], check=True)
"""
    LOOK = """\
import hashlib, os, sys, supermachine_kernel as k
for asset in k.ASSETS:
    content = open(os.path.join(sys.argv[1], "set", asset.name), "rb").read()
    is_new = hashlib.sha256(content).hexdigest() == asset.sha256
    print("old" if content == b"old" else "new" if is_new else len(content))
"""

    @pytest.mark.parametrize("mkfs", ["mkfs.xfs", "mkfs.ext4", "mkfs.btrfs"])
    @pytest.mark.parametrize(
        "use",
        ["k.extract_all_to(folder)", "[a.extract_to(f'{folder}/{a.name}') for a in k.ASSETS]"],
        ids=["all", "each"],
    )
    def test_an_extraction_leaves_each_file_as_it_was_or_whole(self, use: str, mkfs: str, tmp_path: Path) -> None:
        assert set(self.after(use, mkfs, tmp_path)) <= {"old", "new"}

    @pytest.mark.parametrize("mkfs", ["mkfs.xfs", "mkfs.btrfs"])
    def test_an_extraction_of_clones_does_so_too(self, mkfs: str, installed: Path, tmp_path: Path) -> None:
        """The module lies on the same disk as the destination, so that the files share their blocks with the assets."""
        found = self.after("k.extract_all_to(folder)", mkfs, tmp_path, module_there=installed)
        assert set(found) <= {"old", "new"}

    @pytest.mark.parametrize("mkfs", ["mkfs.xfs", "mkfs.ext4"])
    def test_a_clock_that_was_set_forward_loses_nothing(self, mkfs: str, tmp_path: Path) -> None:
        """What another process wrote a moment ago looks old then, and is flushed all the same."""
        use = "import time, shutil\n"
        use += "[os.unlink(f'{folder}/{a.name}') for a in k.ASSETS]\n"
        use += "[shutil.copyfile(a.path, f'{folder}/{a.name}') for a in k.ASSETS]\n"
        use += "now = time.time; time.time = lambda: now() + 600\nk.ensure_assets(folder)"
        assert set(self.after(use, mkfs, tmp_path)) == {"new"}

    def after(self, use: str, mkfs: str, tmp_path: Path, module_there: Path | None = None) -> list[str]:
        disk.need_root()
        image, mounted = disk.image(tmp_path / "disk.img", mkfs, megabytes=512), tmp_path / "first"
        first = disk.python_on_image(image, mounted, self.PROGRAM, image, mounted, use, module_there=module_there)
        assert first.returncode == 0, first.stderr
        cut = Path(f"{image}.cut")
        second = disk.python_on_image(cut, tmp_path / "second", self.LOOK, tmp_path / "second")
        assert second.returncode == 0, second.stderr
        image.unlink()
        cut.unlink()
        return second.stdout.split()
