"""The commands of the build; what they do is in scripts/asset_build."""

import sys
from pathlib import Path

from setuptools import setup

sys.path.insert(0, str(Path(__file__).resolve().parent))

from scripts.asset_build import commands

setup(
    distclass=commands.AssetDistribution,
    cmdclass={
        "build": commands.Build,
        "build_py": commands.BuildPy,
        "bdist_wheel": commands.BdistWheel,
        "editable_wheel": commands.EditableWheel,
        "egg_info": commands.EggInfo,
        "sdist": commands.Sdist,
    },
)
