"""The commands of the build; what they do is in scripts/asset_build."""

import os
import sys
from pathlib import Path

os.environ["SETUPTOOLS_USE_DISTUTILS"] = "local"  # setuptools' own, whatever the user has set: the wheel is the same

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
