#!/usr/bin/env bash
# Freeze ../app.py with PyInstaller and run it: bash run.sh FOLDER [--onefile]
# Nothing here speaks of the assets: the hook that comes with supermachine-kernel collects them.
set -euo pipefail
unset CDPATH
here=$(cd "$(dirname "$0")" && pwd)
out=$(mkdir -p "$1" && cd "$1" && pwd)
shift

python3 -m PyInstaller --noconfirm --log-level WARN "$@" \
    --distpath "$out/dist" --workpath "$out/work" --specpath "$out/work" "$here/../app.py"

program=$out/dist/app
[ -d "$program" ] && program=$program/app
env -u PYTHONPATH "$program" "$out/guest"
