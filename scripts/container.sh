#!/usr/bin/env bash
# Run a command in the container of .devcontainer/, in this checkout. On a Mac this is the way to build the assets:
#   scripts/container.sh python3 scripts/wheel.py --set aarch64 --from-source
#   scripts/container.sh python3 scripts/test.py
set -euo pipefail
unset CDPATH
cd "$(dirname "${BASH_SOURCE[0]}")/.."

(($#)) || {
    echo "usage: scripts/container.sh COMMAND [ARGUMENT...]" >&2
    exit 2
}
engine=$(command -v docker || command -v podman) || {
    echo "container.sh: expected docker or podman on the PATH, found neither; install one of them" >&2
    exit 1
}
terminal=()
[[ ! -t 0 ]] || terminal=(--interactive --tty)

"$engine" build --quiet --platform linux/amd64 --tag supermachine-kernel \
    --file .devcontainer/Dockerfile scripts/machine >&2
# Privileged: the tests mount file systems of their own. The volume keeps environments, kernels and downloads.
exec "$engine" run --rm --init "${terminal[@]}" --platform linux/amd64 --privileged \
    --volume "$PWD:/src" --workdir /src --volume supermachine-kernel-cache:/cache supermachine-kernel "$@"
