"""Put the project's folder on the import path, in place of scripts/; every program runs this file first.

Python puts the folder of the program that it starts first on the path. That would be scripts/, in which the project's
packages are not found, and in which wheel.py and test.py would hide the packages wheel and test. A program that a
test imports has a package (`__package__`), and finds everything already.

Until the program runs, an interrupt (Ctrl-C) ends the process as it ends any other, without Python's traceback.
"""

import signal
import sys
from pathlib import Path
from types import TracebackType
from typing import Optional

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _tell_what_is_missing(kind: type[BaseException], error: BaseException, where: Optional[TracebackType]) -> None:
    """Name a module that this Python was built without, zlib for one, in one line and without a traceback."""
    if isinstance(error, ModuleNotFoundError):
        print(
            f"{Path(sys.argv[0]).name}: {sys.executable}: expected the module {error.name}, found none; "
            "use a Python that has it",
            file=sys.stderr,
        )
    else:
        sys.__excepthook__(kind, error, where)


sys.excepthook = _tell_what_is_missing

SCRIPTS = Path(__file__).resolve().parent
if sys.path[:1] == [str(SCRIPTS)]:  # not so with -P and -I
    del sys.path[0]
sys.path.insert(0, str(SCRIPTS.parent))
