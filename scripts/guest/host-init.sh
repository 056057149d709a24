#!/bin/busybox sh
# The init that a host generates for a guest set without init-oci: it makes an overlay of the image on /dev/vda and a
# tmpfs, and has the agent be PID 1 there.
export PATH=/bin

fail() {
    echo "init: error: $*"
    reboot -f
}

/bin/busybox --install -s /bin
mkdir -p /dev /lower /upper /merged
mount -t devtmpfs devtmpfs /dev
exec < /dev/console > /dev/console 2>&1
waited=0
while [ ! -b /dev/vda ] && [ "$waited" -lt 2 ]; do
    sleep 1
    waited=$((waited + 1))
done
mount -t squashfs -o ro /dev/vda /lower || fail "/dev/vda: expected a squashfs"
echo "init: squashfs of /dev/vda"
mount -t tmpfs tmpfs /upper || fail "/upper: expected a tmpfs"
mkdir /upper/data /upper/work
mount -t overlay -o lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work overlay /merged || fail "no overlay"
echo "init: overlay root, upper tmpfs"
cp /supermachine-agent /merged/supermachine-agent || fail "no agent"
umount -l /dev
exec switch_root /merged /supermachine-agent
