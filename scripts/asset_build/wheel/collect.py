"""Bring the proven set into a folder, with the progress of a fetch in sight: frontends hide what a build says."""

import os
import shutil
import sys
from pathlib import Path

from supermachine_kernel._assets import SET

from ..errors import BuildError
from ..lock import read_lock
from ..paths import PROJECT
from .sources import BUILD_INFO, resolve
from .verify import prove


def main(folder: str) -> None:
    """Write the set into `folder` and its source's kind to standard output, or stop with the one message."""
    try:
        source = resolve(PROJECT, os.environ)
        proven = prove(source, read_lock(PROJECT).set(SET))
    except BuildError as error:
        sys.exit(f"error: {error}")
    for name, content in proven.contents.items():
        Path(folder, name).write_bytes(content)
    if source.build_info:
        shutil.copyfile(source.build_info, Path(folder, BUILD_INFO))
    print(source.kind)
