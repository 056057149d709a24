"""Build a wheel again from the assets that are in it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from .. import frontend
from ..errors import BuildError
from ..wheel.archive import LEVEL
from ..wheel.sources import BUILD_INFO, tree_candidates
from .compare import Difference, compare
from .errors import AuditError
from .expected import pinned
from .reader import Wheel, read_wheel


def rebuild(wheel: Wheel, python: Path, project: Path, folder: Path, environ: Mapping[str, str]) -> Wheel:
    """Build the wheel of the checkout `project` with the assets of `wheel`, in the folder `folder`.

    `python` is the interpreter of the build's environment. Raises AuditError when the assets make no wheel.
    """
    assets, out = folder / "set", folder / "out"
    assets.mkdir()
    for name, content in wheel.asset_contents().items():
        (assets / name).write_bytes(content)
    _add_build_info(wheel, assets, project, environ)
    variables = {name: value for name, value in environ.items() if not name.startswith("SUPERMACHINE_")}
    variables |= {"SUPERMACHINE_ASSETS_DIR": str(assets), "SUPERMACHINE_SET": wheel.guest_set.name}
    variables |= {"SUPERMACHINE_CROSS_BUILD": "1"}
    try:
        return read_wheel(frontend.build_wheel(python, project, out, variables))
    except BuildError as error:
        raise AuditError(wheel.name, "assets that make a wheel", error.statement, error.cure, link="rebuild") from error


def compare_with_rebuilt(wheel: Wheel, rebuilt: Wheel, project: Path) -> list[Difference]:
    """Everything in which the two differ."""
    compressor = f"libdeflate of deflate {pinned(project, 'deflate')}, level {LEVEL}"
    return list(compare(wheel, rebuilt, compressor))


def _add_build_info(wheel: Wheel, assets: Path, project: Path, environ: Mapping[str, str]) -> None:
    """Take the tree's record along; the build itself ignores one that is not of these files."""
    for tree in tree_candidates(project, environ):
        record = tree / "out" / wheel.guest_set.name / BUILD_INFO
        if record.is_file():
            shutil.copyfile(record, assets / BUILD_INFO)
            return
