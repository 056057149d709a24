# What the stand-in for the agent does in test_the_agent_outlives_the_image...: it dies, is started again, and asks init-oci.
LIMIT=/proc/sys/kernel/threads-max
until_ended() { until init-request 1 0 | grep -q '^0 3 '; do sleep 0.1; done; }

echo "agent: in the namespace of $(cat /proc/1/comm)"
[ -e /second ] || {
    touch /second
    # For a while the guest can have no more processes; nobody types, so that the read waits without one.
    threads=$(cat $LIMIT)
    {
        read -r -t 5 _ < /dev/console
        echo "$threads" > $LIMIT
    } &
    echo 1 > $LIMIT
    exit 3
}
echo "command in /proc: $(cut -d " " -f 2 /proc/self/stat)"
echo "held: $(init-request 1 0)"
echo "signal while held: $(init-request 3 15)"
echo "unknown request: $(init-request 9 0)"
ls /started 2> /dev/null
echo "go: $(init-request 2 0)"
echo "go again: $(init-request 2 0)"
until [ -e /ready ]; do sleep 0.1; done
echo "no such signal: $(init-request 3 99)"
echo "signal: $(init-request 3 10)"
until_ended
echo "ended: $(init-request 1 0)"
echo "left behind: $(cat "/proc/$(cat /left-behind)/comm")"
sleep 1
echo "off: $(init-request 4 0)"
sleep 60
