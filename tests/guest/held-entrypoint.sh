#!/bin/sh
# An entrypoint that ends everything it can reach when it gets SIGUSR1, leaves a process behind, and ends.
touch /started
echo "entrypoint: $$"
trap 'kill -9 -1; sleep 1000 & echo $! > /left-behind; echo "entrypoint ends"; exit 7' USR1
touch /ready
while :; do sleep 0.1; done
