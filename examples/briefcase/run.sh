#!/usr/bin/env bash
# Package ../app.py with Briefcase and run it: bash run.sh FOLDER
# This needs a Mac with Xcode's command line tools, Briefcase and supermachine-kernel installed, and the network, for
# Briefcase's template and Python; the project's macOS job runs it.
# Briefcase's pip fetches supermachine-kernel once more, for the app: PIP_FIND_LINKS names a folder with a wheel of
# your own.
set -euo pipefail
unset CDPATH
here=$(cd "$(dirname "$0")" && pwd)
out=$(mkdir -p "$1" && cd "$1" && pwd)

# Briefcase builds beside pyproject.toml, from sources that lie below it.
cp -R "$here/pyproject.toml" "$here/src" "$out"
cp "$here/../app.py" "$out/src"
cd "$out"
python3 -m briefcase create macOS app --no-input
python3 -m briefcase build macOS app --no-input

# Not `briefcase run`, which hides a console app's exit status.
program=$out/build/embed/macos/app/Embed.app/Contents/MacOS/Embed
env -u PYTHONPATH "$program" "$out/guest"

# What came out is what is installed, and the app knows what it is.
assets=(kernel init-oci supermachine-agent smpark.ko)
installed=$(python3 -c 'import supermachine_kernel; print(supermachine_kernel.assets_dir())')
(cd "$installed" && shasum -a 256 "${assets[@]}") | (cd "$out/guest" && shasum -a 256 --check)
env -u PYTHONPATH "$program" info --json | grep '"installation": "briefcase"'
