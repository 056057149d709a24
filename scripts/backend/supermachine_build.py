"""The PEP 517 hooks: setuptools' own, less those that prepare metadata before there is a wheel.

The version of a wheel depends on its assets, so metadata made without them would be a guess; a frontend that
wants it builds the wheel. An editable install shares that hook with a wheel and must not need assets.

It is alone in its folder: frontends look there first for whatever a build imports, and take any egg-info there
for that of the package they ask for, setuptools among them.
"""

import os

os.environ["SETUPTOOLS_USE_DISTUTILS"] = "local"  # setuptools' own, whatever the user has set: the wheel is the same

from setuptools.build_meta import build_editable, build_sdist, build_wheel

__all__ = ["build_editable", "build_sdist", "build_wheel"]
