#!/usr/bin/env bash
# Compile ../app.py with Nuitka (it needs a C compiler) and run it: bash run.sh FOLDER
set -euo pipefail
unset CDPATH
here=$(cd "$(dirname "$0")" && pwd)
out=$(mkdir -p "$1" && cd "$1" && pwd)

python3 -m nuitka --mode=standalone --quiet --lto=no --output-dir="$out" \
    --include-package-data=supermachine_kernel \
    --include-distribution-metadata=supermachine-kernel \
    "$here/../app.py"

env -u PYTHONPATH "$out/app.dist/app.bin" "$out/guest"
