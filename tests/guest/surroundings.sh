#!/bin/sh
# An entrypoint that says what its rights and its surroundings are; nobody is root here.
# shellcheck shell=busybox disable=SC2010,SC2012
echo "files: $(ulimit -n) $(ulimit -H -n)"
echo "core: $(ulimit -c) $(ulimit -H -c)"
echo "somaxconn: $(cat /proc/sys/net/core/somaxconn)"
echo "ports: $(cat /proc/sys/net/ipv4/ip_unprivileged_port_start)"
echo "ping: $(cat /proc/sys/net/ipv4/ping_group_range | tr '\t' ' ')"
echo "groups: $(id -G)"
for key in CapBnd CapEff NoNewPrivs; do echo "$key: $(grep "^$key:" /proc/self/status | cut -f 2)"; done
echo "hostname: $(hostname) $(cat /etc/hostname)"
echo "hosts: $(cat /etc/hosts)"
echo "resolver: $(cat /etc/resolv.conf)"
ls -l /etc/resolv.conf | grep -q -e '->' || echo "resolver is no link"
echo "shm: $(df -k /dev/shm | tail -n 1 | tr -s ' ' | cut -d ' ' -f 2)"
echo "upper: $(df -k / | tail -n 1 | tr -s ' ' | cut -d ' ' -f 2) $(df -i / | tail -n 1 | tr -s ' ' | cut -d ' ' -f 2)"
echo "fuse: $(head -c 0 /dev/fuse && echo can be opened)"
echo "tun: $(head -c 0 /dev/net/tun && echo can be opened)"
echo "masked file: $(wc -c < /proc/config.gz)"
echo "masked folder: $(ls /etc/secret | wc -l) $(touch /etc/secret/new 2> /dev/null || echo read-only)"
echo "devices: $(for name in eth0 eth1; do cat /sys/class/net/$name/flags; done | tr '\n' ' ')"
echo "eth0: $(ip -4 addr show eth0 | grep -o 'inet [^ ]*')"
ip -6 addr show eth0 | grep -o 'inet6 fd00[^ ]*'
echo "route: $(ip route | grep default) $(ip -6 route | grep default)"
nc -l -p 80 -w 1 > /dev/null 2>&1 < /dev/null &
nc_pid=$!
sleep 0.2
kill $nc_pid && echo "port 80 is open to us"
echo "to error" >&2
printf 'half of a line'
sleep 0.2
echo "between" >&2
sleep 0.2
echo " and the other"
