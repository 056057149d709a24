#!/bin/sh
# The entrypoint of test_agent_frames: sends each file of /cases as it is and says in hexadecimal what came back.
# shellcheck shell=busybox disable=SC2009
send() { # NAME FILE PORT [half]
    name=$1 file=$2
    shift 2
    vsock-raw "$@" < "$file" > /answer
    echo "$name: $? $(hexdump -v -e '/1 "%02x"' /answer)"
}

supermachine-agent exec sh -c 'while [ ! -e /go ]; do sleep 0.1; done; echo still here' > /good 2>&1 &
while ! supermachine-agent exec true; do sleep 0.1; done
for file in /cases/*; do
    send "case ${file##*/}" "$file" reserved
done
send unprivileged /cases/0 any
send half /half reserved half
sleep 0.5
echo "left: $(ps | grep -c '[s]leep 60')"
touch /go
wait
echo "good: $(cat /good)"
