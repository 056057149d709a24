"""What ensure_assets() leaves in a folder."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from supermachine_kernel import ASSETS, _proof


def names_in(folder: Path) -> set[str]:
    """What is in the folder beside the record of what was proven."""
    return set(os.listdir(folder)) - {_proof.NAME}


def assert_whole(folder: Path) -> None:
    assert names_in(folder) == {asset.name for asset in ASSETS}
    for asset in ASSETS:
        path = folder / asset.name
        assert path.is_file()
        assert not path.is_symlink()
        assert hashlib.sha256(path.read_bytes()).hexdigest() == asset.sha256
        assert stat.S_IMODE(path.stat().st_mode) == asset.mode
