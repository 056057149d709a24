"""Freeze ../app.py with py2app: python3 setup.py py2app (run.sh does)."""

from pathlib import Path

from setuptools import setup

APP = Path(__file__).resolve().parents[1] / "app.py"

setup(
    name="app",
    app=[str(APP)],
    # A package that is named here is copied whole, as files, into Resources/lib; others go into a zip, without data.
    options={"py2app": {"packages": ["supermachine_kernel"]}},
)
