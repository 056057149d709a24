"""Where PyInstaller finds the hook for this package: the entry point `hook-dirs` of the group `pyinstaller40`."""

import os


def get_hook_dirs() -> "list[str]":
    """The folders with hooks, as PyInstaller's "Providing PyInstaller Hooks with your Package" asks for."""
    return [os.path.dirname(__file__)]
