#!/usr/bin/env bash
# Build an app that carries the assets, and start it: bash run.sh FOLDER
# The app itself needs no Python: the files are in its Resources, where AssetPaths::from_dir finds them.
set -euo pipefail
unset CDPATH
here=$(cd "$(dirname "$0")" && pwd)
app=$1/Hello.app

mkdir -p "$app/Contents/MacOS"
cp "$here/Info.plist" "$app/Contents/"
install -m 755 "$here/hello.sh" "$app/Contents/MacOS/hello"
python3 -m supermachine_kernel bundle "$app"
python3 -m supermachine_kernel verify "$app"
# A Mac signs here, after the last file is in: codesign --force --sign IDENTITY "$app"

"$app/Contents/MacOS/hello"
