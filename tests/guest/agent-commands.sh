#!/bin/sh
# The entrypoint of test_agent_commands: commands through the agent, by its own caller.
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
echo "both ways: $(head -c $BIG /dev/zero | agent sh -c "head -c $BIG /dev/zero; cat" | (sleep 0.2; wc -c))"
echo "unread: $(head -c $BIG /dev/zero | agent echo enough)"
# What the command leaves behind holds its pipe open, and writes to it for ever.
echo "left behind: $(agent sh -c 'yes & sleep 0.1; echo done' | head -c 1)"

for n in 1 2 3 4 5 6 7 8; do
    agent sh -c "echo $n >> /together; while [ \$(wc -l < /together) -lt 8 ]; do sleep 0.05; done" &
done
wait
echo "together: $(wc -l < /together)"

# A caller that goes away takes its command along.
supermachine-agent exec sh -c 'echo $$ > /pid; exec sleep 100' &
caller=$!
while [ ! -s /pid ]; do sleep 0.05; done
kill -9 $caller
for _ in $(seq 40); do
    kill -0 "$(cat /pid)" 2> /dev/null || { echo gone; break; }
    sleep 0.05
done

su app -c 'supermachine-agent exec id -u'
echo "not root: $?"
