"""An app's start: the assets are put in place the first time and checked every time.

python3 main.py [FOLDER]    without FOLDER: the user's own data folder, which the supermachine library shares
"""

import sys

import supermachine_kernel

supermachine_kernel.require_version("0.7.62")  # the version of the supermachine library that the app links
try:
    folder = supermachine_kernel.ensure_assets(*sys.argv[1:2])
except supermachine_kernel.SupermachineKernelError as error:
    sys.exit(f"the app cannot start: {error}")
print(folder)
