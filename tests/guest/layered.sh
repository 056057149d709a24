#!/bin/sh
# An entrypoint on an image of several layers: which of them is on top, what the volumes hold, and what is left when all is full.
for name in lowest second third fourth; do echo "$name: $(cat "/from/$name")"; done
ls /gone /from/gone-too 2> /dev/null
for name in dev proc sys; do echo "link: $name to $(readlink "/$name")"; done
[ -c /real/dev/null ] && [ -e /real/proc/self ] && [ -d /real-sys/class ] && echo "links resolve in the image"
echo "before: $(cat /kept /data/deep/er/kept /share/kept /xfs/kept 2> /dev/null | tr '\n' ' ')"
echo "volume: $(cat /data/deep/er/own) $(cat /ro/own) $(cat /share/own) $(cat /share-ro/own)"
touch /ro/new 2> /dev/null || echo "ro: cannot be written"
touch /share-ro/new 2> /dev/null || echo "share-ro: cannot be written"
echo "on the upper" > /kept
echo "on the volume" > /data/deep/er/kept
echo "on the share" > /share/kept
echo "on XFS" > /xfs/kept
echo changed > /from/lowest
rm /from/second
head -c 20000000 /dev/zero 2> /dev/null > /big || echo "full: $(sh -c 'echo more > /more' 2>&1 | tail -n 1)"
grep -o '^[^ ]* /\(data\|ro\|share\)[^ ]* [^ ]* r[ow]' /proc/mounts
# shellcheck disable=SC2010
exit "$(ls / | grep -c '^kept$')"
