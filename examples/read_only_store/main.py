"""Use a package in a store that nobody may write to (a Nix-like store, an image, a signed bundle).

python3 main.py FOLDER    FOLDER is where a VMM that wants its own copy gets one
"""

import os
import sys

import supermachine_kernel

store = supermachine_kernel.assets_dir()  # a VMM that only reads needs no copy
print(store, "writable" if os.access(store, os.W_OK) else "read-only")
print(supermachine_kernel.ensure_assets(sys.argv[1]))
