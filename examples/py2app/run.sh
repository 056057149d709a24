#!/usr/bin/env bash
# Freeze ../app.py with py2app and run it: bash run.sh FOLDER
# This needs a Mac with py2app and supermachine-kernel installed; the project's macOS job runs it.
set -euo pipefail
unset CDPATH
here=$(cd "$(dirname "$0")" && pwd)
out=$(mkdir -p "$1" && cd "$1" && pwd)

cd "$out"
python3 "$here/setup.py" --quiet py2app --bdist-base "$out/build" --dist-dir "$out/dist"

program=$out/dist/app.app/Contents/MacOS/app
env -u PYTHONPATH "$program" "$out/guest"

# What came out is what is installed, and the app knows what it is.
assets=(kernel init-oci supermachine-agent smpark.ko)
installed=$(python3 -c 'import supermachine_kernel; print(supermachine_kernel.assets_dir())')
(cd "$installed" && shasum -a 256 "${assets[@]}") | (cd "$out/guest" && shasum -a 256 --check)
env -u PYTHONPATH "$program" info --json | grep '"installation": "py2app"'
