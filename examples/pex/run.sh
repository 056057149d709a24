#!/usr/bin/env bash
# Pack ../app.py into a PEX and run it: bash run.sh FOLDER [--layout loose | --venv]
#
# On the Mac that it is for, `pex supermachine-kernel ...` does it in one step. Packed from a folder, as here,
# the PEX can be made on any platform: pex refuses a wheel that is for another one than its own.
set -euo pipefail
unset CDPATH
here=$(cd "$(dirname "$0")" && pwd)
out=$(mkdir -p "$1" && cd "$1" && pwd)
shift

python3 -m pip install --quiet --target "$out/site" supermachine-kernel
cp "$here/../app.py" "$out/site"
python3 -m pex --sources-directory "$out/site" --entry-point app:main "$@" --output-file "$out/app.pex"

env -u PYTHONPATH python3 "$out/app.pex" "$out/guest"
