"""What a wheel must hold: from a checkout and a verified set to every byte of every member."""

from __future__ import annotations

import configparser
import glob
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from ..guest_sets import wheel_row
from ..wheel.archive import record_of
from ..wheel.package_data import manifest_of, manifest_source
from ..wheel.sbom import SBOM_FOLDER, SBOM_NAME, format_sbom, sbom_of
from .reader import PACKAGE

if TYPE_CHECKING:
    from ..wheel.verify import VerifiedSet


def expected_members(project: Path, verified: VerifiedSet) -> dict[str, bytes]:
    """The members of the wheel that the checkout `project` makes of `verified`: content by name.

    Raises BuildError when the set's build record contradicts its files.
    """
    info = f"{PACKAGE}-{verified.version}.dist-info"
    members = {
        **{name: (project / name).read_bytes() for name in module_files(project)},
        f"{PACKAGE}/_manifest.py": manifest_source(manifest_of(verified)).encode(),
        **{f"{PACKAGE}/assets/{name}": content for name, content in verified.contents.items()},
        f"{info}/METADATA": _metadata(project, verified.version),
        f"{info}/WHEEL": _wheel_file(project, verified.guest_set.name),
        f"{info}/entry_points.txt": _entry_points(project),
        f"{info}/top_level.txt": f"{PACKAGE}\n".encode(),
        **{f"{info}/licenses/{name}": (project / name).read_bytes() for name in licence_files(project)},
        f"{info}/{SBOM_FOLDER}/{SBOM_NAME}": format_sbom(sbom_of(verified)).encode(),
    }
    record = f"{info}/RECORD"
    return {**members, record: record_of(members, record)}


def module_files(project: Path) -> list[str]:
    """The module's own files that a build takes: of each package the Python files, the stubs and the mark.

    glob passes over names that begin with a dot, as setuptools does. The manifest that an editable install left
    there is none of them.
    """
    packages = [path.parent for path in sorted((project / PACKAGE).rglob("__init__.py"))]
    patterns = ("*.py", "*.pyi", "py.typed")
    names = {path for package in packages for pattern in patterns for path in _glob(project, package, pattern)}
    return sorted(names - {f"{PACKAGE}/_manifest.py"})


def licence_files(project: Path) -> list[str]:
    """The texts that setup.cfg names as licence files, in the order of the metadata."""
    patterns = _setup_cfg(project)["metadata"]["license_files"].split()
    return [name for pattern in patterns for name in _glob(project, project, pattern) if not name.endswith("~")]


def pinned(project: Path, package: str) -> str:
    """The version of a package that the checkout's pyproject.toml pins for the build."""
    found = re.search(rf'"{package}==([^"]+)"', (project / "pyproject.toml").read_text(encoding="utf-8"))
    return found[1] if found else "not pinned"


def _glob(project: Path, folder: Path, pattern: str) -> list[str]:
    found = sorted(glob.glob(os.path.join(glob.escape(str(folder)), pattern)))
    return [Path(path).relative_to(project).as_posix() for path in found if os.path.isfile(path)]


def _metadata(project: Path, version: str) -> bytes:
    """METADATA (core metadata 2.4), in the order in which setuptools writes it."""
    options = _setup_cfg(project)
    given = options["metadata"]
    fields = [
        ("Metadata-Version", "2.4"),
        ("Name", given["name"]),
        ("Version", version),
        ("Summary", given["description"]),
        ("Author", given["author"]),
        ("Author-email", given["author_email"]),
        ("License-Expression", given["license_expression"]),
        *(("Project-URL", ", ".join(re.split(r"\s*=\s*", line, maxsplit=1))) for line in _lines(given["project_urls"])),
        ("Keywords", ",".join(re.split(r"\s*,\s*", given["keywords"]))),
        *(("Classifier", line) for line in _lines(given["classifiers"])),
        ("Requires-Python", options["options"]["python_requires"]),
        ("Description-Content-Type", given["long_description_content_type"]),
        *(("License-File", name) for name in licence_files(project)),
        ("Dynamic", "license-file"),
        ("Dynamic", "license-expression"),
    ]
    description = (project / given["long_description"].removeprefix("file:").strip()).read_text(encoding="utf-8")
    header = "".join(f"{name}: {value}\n" for name, value in fields)
    return f"{header}\n{description.removesuffix(chr(10))}\n".encode()


def _wheel_file(project: Path, guest_set: str) -> bytes:
    """WHEEL, as written by the setuptools that pyproject.toml pins."""
    generator = f"setuptools ({pinned(project, 'setuptools')})"
    fields = [("Wheel-Version", "1.0"), ("Generator", generator), ("Root-Is-Purelib", "false")]
    fields += [("Tag", tag) for tag in wheel_row(guest_set).tags]
    return ("".join(f"{name}: {value}\n" for name, value in fields) + "\n").encode()


def _entry_points(project: Path) -> bytes:
    """The commands and hooks of setup.cfg, as setuptools writes them."""
    groups = sorted(_setup_cfg(project)["options.entry_points"].items())
    return "\n".join("\n".join([f"[{group}]", *sorted(_lines(lines)), ""]) for group, lines in groups).encode()


def _setup_cfg(project: Path) -> configparser.ConfigParser:
    declared = configparser.ConfigParser(interpolation=None)
    declared.read(project / "setup.cfg", encoding="utf-8")
    return declared


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]
