#!/bin/sh
# The entrypoint of test_agent_guest.py: it runs commands through the agent, by its own caller.
# shellcheck shell=busybox disable=SC2046
BIG=3000000
agent() { supermachine-agent exec "$@"; }

echo "out: $(agent echo a b)"
echo "err: $(agent sh -c 'echo no >&2' 2>&1 > /dev/null)"
agent sh -c 'exit 9'
echo "status: $?"
agent sh -c 'kill -15 $$'
echo "signal: $?"
agent /no/such/file
echo "missing: $?"
agent /etc/passwd
echo "not a program: $?"
agent --cwd /no/where true
echo "no folder: $?"
echo "cwd: $(agent --cwd /etc pwd) $(agent pwd)"
echo "env:" $(agent --env A=1 --env B=2 /bin/env | sort)
echo "own env:" $(agent env | sort)
echo "big: $(head -c $BIG /dev/zero | agent cat | wc -c)"
# Neither side reads for a while, and both write more than any buffer holds.
echo "both ways: $(head -c $BIG /dev/zero | agent sh -c "head -c $BIG /dev/zero; cat" | (
    sleep 0.2
    wc -c
))"
echo "unread: $(head -c $BIG /dev/zero | agent echo enough)"
# What the command leaves behind holds its pipe open, and writes to it for ever.
echo "left behind: $(agent sh -c 'yes & sleep 0.1; echo done' | head -c 1)"
# A reader that has gone does not stop the command.
agent sh -c 'echo one; sleep 0.3; echo two; sleep 0.3; touch /done' | head -n 1
echo "unheard: $(ls /done)"
echo "nonblocking: $(nonblocking supermachine-agent exec head -c $BIG /dev/zero < /dev/null | (
    sleep 0.5
    wc -c
))"
# The agent has long ended its side when the last of the output is read, and there would still be input to send.
{
    agent sh -c 'head -c 200000 /dev/zero; exit 9' < /dev/zero
    echo $? > /status
} | (
    sleep 3
    wc -c > /count
)
echo "late: $(cat /count) $(cat /status)"
# A standard file that is closed is none of the agent's own.
agent cat <&-
echo "closed input: $?"
agent sh -c 'seq 100; sleep 0.2; exit 9' >&-
echo "closed output: $?"
agent sh -c 'seq 100 >&2; sleep 0.2; exit 9' 2>&-
echo "closed errors: $?"

for n in 1 2 3 4 5 6 7 8; do
    agent sh -c "echo $n >> /together; while [ \$(wc -l < /together) -lt 8 ]; do sleep 0.05; done" &
done
wait
echo "together: $(wc -l < /together)"

# A caller that goes away takes its command along, also one that has more for it than it reads.
for input in /dev/null /dev/zero; do
    rm -f /pid
    supermachine-agent exec sh -c 'echo $$ > /pid; exec sleep 100' < $input &
    caller=$!
    while [ ! -s /pid ]; do sleep 0.05; done
    sleep 0.2
    kill -9 $caller
    for _ in $(seq 40); do
        kill -0 "$(cat /pid)" 2> /dev/null || {
            echo "gone: $input"
            break
        }
        sleep 0.05
    done
done

su app -c 'supermachine-agent exec id -u'
echo "not root: $?"
