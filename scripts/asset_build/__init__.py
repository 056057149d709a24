"""The build, which takes a set from its source into the wheel.

sources -> check -> lock -> stage -> archive, run by the setuptools commands in `commands`.
"""
