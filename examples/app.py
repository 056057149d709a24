"""The app that the freezer examples package: it puts the assets into a folder, and says what it was given.

app FOLDER          extract the assets into FOLDER; print a report as JSON
app doctor, info    what `python -m supermachine_kernel` says from in here (more of it: --help)
"""

import hashlib
import json
import sys

import supermachine_kernel
from supermachine_kernel.__main__ import main as command_line


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    if sys.argv[1] in ("doctor", "info"):
        sys.exit(command_line(sys.argv[1:]))  # not returned: zipapp drops what main returns
    folder = supermachine_kernel.extract_all_to(sys.argv[1])
    try:
        path = str(supermachine_kernel.KERNEL.path)
    except supermachine_kernel.AssetInArchiveError as error:  # a zip: no file to point at, but extracting works
        path = f"none: {error}"
    report = {
        "folder": str(folder),
        "path": path,
        "view": {asset.name: hashlib.sha256(asset.view()).hexdigest() for asset in supermachine_kernel.ASSETS},
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
