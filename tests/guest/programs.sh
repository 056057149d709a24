#!/bin/bash
# Programs of an image that ask much of the kernel: a line "NAME: ok" each, or what was said last.
# Runs as root in a guest, with Debian's packages that test_image_programs.py names.
try() {
    local name=$1 said
    shift
    if said=$("$@" 2>&1); then echo "$name: ok"; else echo "$name: ${said//$'\n'/ | }"; fi
}

nftables() {
    nft add table inet t && nft add chain inet t c '{ type nat hook postrouting priority 100; }' &&
        nft add rule inet t c ip saddr 10.0.0.0/8 ct state new counter masquerade
}
iptables_nft() { iptables-nft -t nat -A POSTROUTING -p tcp -m conntrack --ctstate NEW -m comment --comment x -j MASQUERADE; }
iptables_legacy() { iptables-legacy -t nat -A POSTROUTING -p tcp -m multiport --ports 1,2 -j MASQUERADE && ip6tables-legacy -A INPUT -j REJECT; }
keys() { keyctl add user name secret @s && keyctl list @s; }
loop() { truncate -s 32M /disk && mkfs.ext4 -q /disk && mount -o loop /disk /mnt && touch /mnt/file && umount /mnt; }
swap() { truncate -s 16M /swap && losetup /dev/loop7 /swap && mkswap -q /dev/loop7 && swapon /dev/loop7 && grep -q loop7 /proc/swaps; }
zram() { echo 16M > /sys/block/zram0/disksize && mkswap -q /dev/zram0 && swapon /dev/zram0; }
links() {
    ip link add d0 type dummy && ip link add v0 type veth peer name v1 && ip link add b0 type bridge vlan_filtering 1 &&
        ip link add link d0 name d0.7 type vlan id 7 && ip link add link d0 name m0 type macvlan mode bridge &&
        ip link add link v0 name i0 type ipvlan && ip link add x0 type vxlan id 7 dstport 4789 dev d0 &&
        ip tuntap add dev t0 mode tap && ip link set v1 master b0
}
namespace() { ip netns add other && ip link set v0 netns other && ip netns exec other ip link set v0 up; }
routes() { ip link set d0 up && ip rule add fwmark 7 table 100 && ip route add default dev d0 table 100; }
shaping() { tc qdisc add dev d0 root handle 1: htb && tc qdisc add dev v1 root netem delay 10ms && tc qdisc add dev d0 ingress; }
wireguard() { ip link add w0 type wireguard && wg genkey > /key && wg set w0 private-key /key listen-port 51820 && ip link set w0 up; }
encrypted() {
    truncate -s 32M /luks && printf word | cryptsetup luksFormat -q --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 /luks - &&
        printf word | cryptsetup open /luks plain - && mkfs.ext4 -q /dev/mapper/plain
}
capture() {
    tcpdump -Z root -i lo -c 1 -nn icmp > /captured 2>&1 &
    sleep 2
    ping -c 3 127.0.0.1 > /dev/null
    wait $!
    grep -q 127.0.0.1 /captured
}
throttle() {
    echo '+io +memory +pids +cpu' > /sys/fs/cgroup/cgroup.subtree_control
    mkdir -p /sys/fs/cgroup/x &&
        echo '7:7 wbps=1048576' > /sys/fs/cgroup/x/io.max && grep -q wbps=1048576 /sys/fs/cgroup/x/io.max
}
sockets() { ss -tuln > /dev/null && ss -xl > /dev/null; }
performance() { perf stat -e task-clock,page-faults true; }
container() { cd /bundle && runc run one | grep -q inside; }
by_crun() { cd /bundle && crun run two | grep -q inside; }
binaries() { mount -t binfmt_misc none /mnt && echo ':x:M::xyzzy::/bin/cat:' > /mnt/register && printf 'xyzzy\n' > /odd && chmod +x /odd && /odd | grep -q xyzzy; }
pressure() { grep -q some /proc/pressure/memory; }

mkdir -p /mnt /bundle/rootfs/bin && cd /bundle && cp /bin/busybox rootfs/bin/sh && runc spec
sed -i 's/"terminal": true/"terminal": false/; s/"sh"$/"sh", "-c", "echo inside"/' config.json
for name in $(declare -F | cut -d ' ' -f 3); do
    [[ $name == try ]] || try "$name" "$name"
done
