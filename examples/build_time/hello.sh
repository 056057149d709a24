#!/bin/sh
# The app's main program: everything it hands to the VMM lies beside it.
unset CDPATH
resources=$(cd "$(dirname "$0")/../Resources" && pwd)
for asset in kernel supermachine-agent; do # those of every set
    [ -s "$resources/$asset" ] || {
        echo "$resources/$asset: missing; build the app again" >&2
        exit 1
    }
done
echo "$resources"
