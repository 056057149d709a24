#!/usr/bin/env bash
# Read the assets where they are installed, then copy them to where one may write: bash run.sh FOLDER
set -euo pipefail
unset CDPATH
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"

python3 "$here/main.py" "$1/guest"
