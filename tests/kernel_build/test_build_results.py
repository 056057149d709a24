"""The set that a build makes, its cache, and `--check`."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import zlib
from pathlib import Path

import pytest

from tests.support.kernel_build import (
    ASSETS,
    KERNEL_BUILD,
    build,
    command,
    digest,
    environment,
    remove_patches,
    sha256,
    user_cache,
)

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
@pytest.mark.parametrize("name", ["kernel", "SHA256SUMS"])
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
