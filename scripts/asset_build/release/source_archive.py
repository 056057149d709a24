"""The corresponding source of a set (GPL-2.0, section 3): one archive from which build.sh gives the same bytes."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..atomic_write import replacing
from ..digests import file_sha256
from ..errors import BuildError
from ..guest_sets import GuestSet
from ..lock import read_lock
from ..paths import refuse_link_outside
from ..wheel.archive import write_tar
from ..wheel.sources import BUILD_INFO, resolve
from ..wheel.verify import VerifiedSet, verify_set

PROJECT = Path(__file__).resolve().parents[3]
SYSTEM_SOURCES = Path("/usr/src")
"""Where Debian's linux-source packages put the kernel's tarball."""

_KINDS = {
    "kernel-build": {".c", ".h", ".S", ".sh", ".md", ".patch", ".config", ".json", "Kbuild"},
    "LICENSES": {".txt"},
}
"""The suffixes, or else the names, of the files of each folder. Another kind may be a source, so it is not left out."""

_README = """\
# Source of supermachine-kernel {version}

This is the corresponding source of what is under GPL-2.0-only in the set {set} of supermachine-kernel {version},
that is {gpl}, and the source of the programs beside it, with the scripts that build all of the set.

    bash kernel-build/scripts/build.sh --set {set} --source kernel/{tarball}{options} --out out

on Debian or Ubuntu leaves in out/ the files of the wheel, byte for byte, when the toolchain is the same:

    gcc       {gcc}
    binutils  {binutils}
    musl      {musl}

{digests}

| here | what it is |
|---|---|
| `kernel/{tarball}` | the kernel's source: {origin}, SHA-256 {source_sha256} |
| `kernel-build/patches/` | the patches that are applied to it, in the order of their names: {patches} |
| `kernel-build/config/common.config`, `{set}.config` | the options that are on; everything else is off |
{busybox}| `kernel-build/smpark/`, `init-oci/`, `agent/` | smpark.ko and the programs of this project |
| `kernel-build/scripts/`, `kernel-build/README.md` | how they are built |
| `build-info.json` | what the build recorded of itself |
| `LICENSES/`, `NOTICE` | the licences, and which covers what |

Not here, because their licences do not ask for it, and any Debian mirror has it: the source of musl (MIT; the Debian
source package `musl`, version {musl}) and of the parts of libgcc in the programs (its exception covers them).
"""


_BUSYBOX = """\
| `busybox/` | the source package {package} {version} of Debian, with the patches that are applied to it |
| `kernel-build/busybox/busybox.config` | the options of busybox that are on; everything else is off |
"""


def write(out: Path, guest_set: GuestSet, project: Path = PROJECT, environ: Mapping[str, str] = os.environ) -> Path:
    """Write the archive of the set that a build of `project` would take into the folder `out`; return its path.

    The kernel's tarball is looked for where its package puts it, and in `out`. Raises BuildError when it is not
    there, when nothing is known of the set's build, or when this checkout is not what the set was built from.
    """
    found = resolve(project, {**environ, "SUPERMACHINE_SET": guest_set.name})
    verified = verify_set(found, read_lock(project).set(guest_set.name))
    if verified.build is None:
        expected = f"the record of its build ({BUILD_INFO}, or that of the lock)"
        cure = "archive the set where build.sh built it"
        raise BuildError("the set", expected, "none of these files", cure)
    tarball = _find_tarball(verified.build, out)
    busybox = _find_busybox(verified.build, out, environ)
    _verify_inputs(guest_set, verified.build, project, tarball)
    name = f"supermachine-kernel-{verified.version}-{guest_set.name}-source"
    out.mkdir(parents=True, exist_ok=True)
    archive, members = out / f"{name}.tar", _members(verified, project, tarball, busybox)
    with replacing(archive) as file:
        write_tar(((f"{name}/{member}", content) for member, content in members), file)
    return archive


def _find_tarball(build: Mapping[str, Any], out: Path) -> Path:
    """The kernel's tarball, by its digest."""
    package, wanted = build["source"]["package"], build["source"]["sha256"]
    if wanted is None:
        found = "one built from a folder, which has no digest to prove it by"
        cure = "build it from a tarball: bash kernel-build/scripts/build.sh --source TARBALL"
        raise BuildError("the kernel's source", "a set that was built from a tarball", found, cure)
    packaged = [SYSTEM_SOURCES / f"{package}.tar.xz"] if package else []
    for candidate in [*packaged, *sorted(out.glob("linux*.tar*"))]:
        if candidate.is_file() and file_sha256(candidate) == wanted:
            return candidate
    cure = f"install {package} {build['source']['version']}, or put its tarball" if package else "put that tarball"
    found = f"none in {SYSTEM_SOURCES} or as linux*.tar* in {out}"
    raise BuildError("the kernel's source", f"a tarball with SHA-256 {wanted}", found, f"{cure} into {out}")


def _find_busybox(build: Mapping[str, Any], out: Path, environ: Mapping[str, str]) -> list[Path]:
    """Find the files of busybox's source package by their digests, where a set has busybox."""
    found, folders = [], [_build_cache(environ) / "busybox", out]
    for name, wanted in sorted(build.get("busybox", {}).get("files", {}).items()):
        there = [folder / name for folder in folders if (folder / name).is_file()]
        right = [path for path in there if file_sha256(path) == wanted]
        if not right:
            cure = f"put that file into {out}; any Debian mirror, or snapshot.debian.org, has it"
            raise BuildError(f"busybox's source {name}", f"a file with SHA-256 {wanted}", "none", cure)
        found.append(right[0])
    return found


def _build_cache(environ: Mapping[str, str]) -> Path:
    """Name the folder that build.sh keeps its downloads in."""
    home = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(environ.get("SUPERMACHINE_BUILD_CACHE") or home / "supermachine-kernel" / "build")


def _verify_inputs(guest_set: GuestSet, build: Mapping[str, Any], project: Path, tarball: Path) -> None:
    """The files of this checkout are what the set was built from: build.sh gives the digest that was recorded."""
    script = str(project / "kernel-build" / "scripts" / "build.sh")
    command = ["bash", script, "--set", guest_set.name, "--print-digest"]
    if build["source"]["package"] is None:
        command += ["--source", str(tarball)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError("build.sh", "to say what this checkout would build", done.stderr.strip())
    if done.stdout.strip() != build["inputs_sha256"]:
        expected = f"the inputs {build['inputs_sha256']} that the set was built from"
        found = f"{done.stdout.strip()} (sources or toolchain have changed)"
        raise BuildError("kernel-build/", expected, found, "build the set again, or check out its commit")


def _members(
    verified: VerifiedSet, project: Path, tarball: Path, busybox: list[Path]
) -> Iterator[tuple[str, bytes | Path]]:
    build = dict(verified.build or {})
    yield "README.md", _readme(verified.guest_set, build, verified.version, tarball.name).encode()
    yield BUILD_INFO, (json.dumps(build, indent=2, sort_keys=True) + "\n").encode()
    yield f"kernel/{tarball.name}", tarball
    yield from ((f"busybox/{path.name}", path) for path in busybox)
    yield from _sources(project)


def _sources(project: Path) -> Iterator[tuple[str, Path]]:
    """The files of the checkout. Raises BuildError for a link out of it, and for a file of an unknown kind."""
    for folder, kinds in _KINDS.items():
        for path in (project / folder).rglob("*"):
            name = path.relative_to(project).as_posix()
            litter = path.name.startswith(".") or path.name.endswith("~")
            if litter or not path.is_file() or name.startswith("kernel-build/out/"):
                continue
            if (path.suffix or path.name) not in kinds:
                cure = "if it is a source, add its kind to _KINDS in source_archive.py; else remove it"
                raise BuildError(name, f"a file of the kinds {', '.join(sorted(kinds))}", "another kind", cure)
            refuse_link_outside(name, project)
            yield name, path
    yield "NOTICE", project / "NOTICE"


def _readme(guest_set: GuestSet, build: Mapping[str, Any], version: str, tarball: str) -> str:
    source, patches = build["source"], [patch["name"] for patch in build["patches"]]
    packaged = f"Debian's package {source['package']}, version {source['version']}"
    return _README.format(
        version=version,
        tarball=tarball,
        **{tool: build["toolchain"][tool] for tool in ("gcc", "binutils", "musl")},
        digests="\n".join(f"    {entry['sha256']}  {name}" for name, entry in sorted(build["assets"].items())),
        origin=packaged if source["package"] else f"Linux {source['version']}",
        source_sha256=source["sha256"],
        set=guest_set.name,
        patches=", ".join(patches) or "none",
        gpl=", ".join(asset.name for asset in guest_set.assets if asset.licence.startswith("GPL")),
        options=" --busybox busybox" if "busybox" in build else "",
        busybox=_BUSYBOX.format(**build["busybox"]) if "busybox" in build else "",
    )
