#!/usr/bin/env bash
# Start the app twice: the first start writes the assets, the second keeps them. bash run.sh FOLDER
set -euo pipefail
unset CDPATH
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"

python3 "$here/main.py" "$1/guest"
python3 "$here/main.py" "$1/guest"
