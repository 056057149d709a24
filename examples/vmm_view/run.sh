#!/usr/bin/env bash
# Load the kernel from its mapped view into guest memory (here a file): bash run.sh FOLDER
set -euo pipefail
unset CDPATH
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"

python3 "$here/vmm.py" "$1/memory"
