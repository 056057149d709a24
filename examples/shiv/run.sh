#!/usr/bin/env bash
# Pack ../app.py with shiv and run it: bash run.sh FOLDER
set -euo pipefail
unset CDPATH
here=$(cd "$(dirname "$0")" && pwd)
out=$(mkdir -p "$1" && cd "$1" && pwd)

python3 -m pip install --quiet --target "$out/site" supermachine-kernel
cp "$here/../app.py" "$out/site"
python3 -m shiv.cli --site-packages "$out/site" --entry-point app:main --output-file "$out/app.pyz"

env -u PYTHONPATH python3 "$out/app.pyz" "$out/guest"
