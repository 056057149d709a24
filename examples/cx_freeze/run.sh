#!/usr/bin/env bash
# Freeze ../app.py with cx_Freeze and run it: bash run.sh FOLDER
# Leave supermachine_kernel out of --zip-include-packages: library.zip takes code, and would leave the assets behind.
set -euo pipefail
unset CDPATH
here=$(cd "$(dirname "$0")" && pwd)
out=$(mkdir -p "$1" && cd "$1" && pwd)

cd "$out"
python3 -m cx_Freeze build_exe --script "$here/../app.py" --build-exe "$out/dist" --silent

env -u PYTHONPATH "$out/dist/app" "$out/guest"
