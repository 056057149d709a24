#!/bin/sh
# An entrypoint that says what it finds, leaves orphans, and ends by a signal that PID 1 hands on.
# shellcheck shell=busybox
for word; do echo "arg: $word"; done
echo "cwd: $(pwd)"
echo "env: $GREETING|$PATH|$HOME|$(hostname)"
echo "two lines: $TWO_LINES"
for folder in /dev/mqueue /dev/pts /dev/shm /proc /sys /sys/fs/cgroup; do
    grep -q " $folder " /proc/mounts && echo "mount: $folder"
done
ls /dev/ptmx > /dev/null && echo ptmx
echo fd > /dev/fd/1
echo stderr > /dev/stderr
echo "input: $(wc -c)"
tty > /dev/null || echo no terminal
echo "lo: $(cat /sys/class/net/lo/flags)"
touch /bin/new && echo written
ls /supermachine-smpark.ko /container /init 2> /dev/null
echo "pid: $$ of $(cat /proc/1/comm)"
# shellcheck disable=SC2010 # busybox has no find that looks at what links say
echo "foreign files: $(ls -l /proc/1/fd | grep -c -v -e socket: -e pipe: -e /dev/console -e anon_inode: -e total)"
echo "umask: $(umask) $(supermachine-agent exec sh -c umask)"
(
    sleep 0.01 &
    sleep 0.02 &
)
sleep 0.3
echo "zombies: $(grep -l '^State:.Z' /proc/[0-9]*/status | wc -l)"
printf 'a line without an end'
trap 'echo trapped; exit 7' TERM
kill -TERM 1
while :; do sleep 0.05; done
