"""How this package came to be where it is: installed, frozen into an app, or inside an archive."""

import os
import sys

from . import _START_AGAIN, _package
from ._package import DIRECTORY, LOADING, installed_version

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.metadata import Distribution
    from typing import Optional

DESCRIPTIONS = {
    "pyinstaller-onefile": "frozen by PyInstaller, one file",
    "pyinstaller-onedir": "frozen by PyInstaller, one folder",
    "py2app": "frozen by py2app",
    "cx_freeze": "frozen by cx_Freeze",
    "nuitka-onefile": "compiled by Nuitka, one file",
    "nuitka-standalone": "compiled by Nuitka, one folder",
    "frozen": "frozen by a tool unknown here",
    "zipapp": "a zip application",
    "zip": "a zip archive on the path",
    "pex": "a PEX",
    "shiv": "a shiv archive, unpacked",
    "briefcase": "an app made by Briefcase",
    "wheel": "an installed wheel",
    "editable": "an editable install",
    "checkout": "a source checkout on the path",
    "copy": "a copied folder, without a wheel's metadata",
}
"""Every kind of installation: its name in the JSON of doctor and info, and the words for it."""


def installation_kind() -> str:
    """One of the keys of DESCRIPTIONS."""
    return _frozen() or _archived() or _unpacked() or _installed()


def how_to_reinstall() -> str:
    """What to do when the assets of this installation are missing or damaged."""
    if _package.has_changed():
        return _START_AGAIN
    this = installation_kind()
    if this in ("wheel", "copy"):
        return f"install the wheel again ({_reinstall()})"
    if this in ("editable", "checkout"):
        return "build the assets (python3 scripts/wheel.py --from-source), then pip install -e . again"
    if this == "shiv":
        return f"remove {os.path.dirname(os.path.dirname(DIRECTORY))}, and start the app again: it unpacks itself there"
    if this == "pex" and not _within(os.environ["PEX"]):
        return "remove the cache that this lies in (PEX_ROOT), and start the app again: it unpacks itself there"
    return "build the app again, with the data files of the package supermachine_kernel"


def how_to_install(version: str) -> str:
    """What to do to have the assets of the release `version` instead of these."""
    if _package.has_changed():
        return _START_AGAIN
    if installation_kind() in ("wheel", "copy", "editable", "checkout"):
        return f'pip install "supermachine-kernel=={version}"'
    return f"build the app again, with supermachine-kernel=={version}"


def _reinstall() -> str:
    """How this very version is installed again: another would be out of step with the library."""
    version = installed_version()
    if "+" in version:
        return "pip install --force-reinstall, with the file of the wheel: PyPI has no custom builds"
    return f'pip install --force-reinstall "supermachine-kernel=={version}"'


def _frozen() -> str:
    """The kind of a frozen app, by the marks that freezers leave as their manuals say; else ""."""
    compiled = globals().get("__compiled__")  # Nuitka gives every module it compiles this name
    if compiled is not None:
        return "nuitka-onefile" if getattr(compiled, "onefile", False) else "nuitka-standalone"
    mark = getattr(sys, "frozen", False)
    unpacked = getattr(sys, "_MEIPASS", None)
    if not mark:
        return ""
    if unpacked:
        one_file = os.path.basename(os.path.normpath(unpacked)).startswith("_MEI")
        return "pyinstaller-onefile" if one_file else "pyinstaller-onedir"
    if mark == "macosx_app":
        return "py2app"
    return "cx_freeze" if mark is True else "frozen"


def _archived() -> str:
    holder = _package.archive()
    if holder is None:
        return ""
    # runpy gives the __main__.py of an archive that is run a specification of that very name.
    main = getattr(sys.modules.get("__main__"), "__spec__", None)
    if main is None or main.name != "__main__":
        return "zip"
    started = getattr(main.loader, "archive", None)
    return "zipapp" if started and os.path.basename(started) == os.path.basename(holder) else "zip"


def _unpacked() -> str:
    """Archives that unpack themselves before they run, and bundles of real files."""
    # A PEX names itself in PEX; its runtime is loaded, or it runs from the environment that it made of itself.
    if "PEX" in os.environ and ("pex" in sys.modules or os.path.exists(os.path.join(sys.prefix, "PEX-INFO"))):
        return "pex"
    if "_bootstrap.interpreter" in sys.modules:  # shiv's own start-up code
        return "shiv"
    return "briefcase" if os.path.basename(os.path.dirname(DIRECTORY)) == "app_packages" else ""


def _installed() -> str:
    """What the metadata that goes with this very folder says (PEP 376, PEP 610)."""
    parent = os.path.dirname(DIRECTORY)
    with LOADING:
        from importlib import metadata

        for found in metadata.distributions(name="supermachine-kernel"):
            if _same(str(found.locate_file("supermachine_kernel")), DIRECTORY) and _has_wheel_file(found):
                return "wheel"
            # A strict editable install of setuptools is a folder of links inside the project's build folder.
            project = _editable_project(found)
            if project and _within(project):
                return "editable"
    return "checkout" if os.path.isfile(os.path.join(parent, "setup.cfg")) else "copy"


def _has_wheel_file(found: "Distribution") -> bool:
    try:
        return bool(found.read_text("WHEEL"))
    except UnicodeDecodeError:  # damaged, and there
        return True


def _editable_project(found: "Distribution") -> "Optional[str]":
    import json
    from urllib.parse import unquote, urlsplit

    try:
        record = json.loads(found.read_text("direct_url.json") or "{}")
        if record.get("dir_info", {}).get("editable"):
            return os.path.realpath(unquote(urlsplit(record["url"]).path))
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):  # not what PEP 610 says
        pass
    return None


def _within(folder: str) -> bool:
    return os.path.realpath(DIRECTORY).startswith(os.path.realpath(folder) + os.sep)


def _same(one: str, other: str) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)
