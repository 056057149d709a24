#!/bin/bash
# Large programs of an image, each in a guest of its own: "large-programs.sh NAME" ends with "NAME: ok".
# Runs as root, with Debian's packages that test_large_programs.py names, and a volume at /data.
# shellcheck disable=SC2016,SC2329 # each function is called by its name, and shells in containers expand their own words

node_with_threads() {
    cat > /tmp/program.js << 'EOF'
const { Worker, isMainThread, parentPort } = require('worker_threads');
const fs = require('fs/promises');
if (isMainThread) {
  const worker = new Worker(__filename);
  worker.on('message', async (sum) => {
    await fs.writeFile('/data/node', String(sum));
    console.log('sum ' + await fs.readFile('/data/node', 'utf8'));
  });
} else {
  parentPort.postMessage([1, 2, 3, 4].reduce((a, b) => a + b));
}
EOF
    node /tmp/program.js | grep -x 'sum 10'
}

python_with_io_uring() {
    python3 /uring.py /data/uring | grep -x 'read 4096 of 4096'
    fio --name=uring --ioengine=io_uring --filename=/data/fio --size=8M --rw=randrw --verify=crc32c --iodepth=8 > /tmp/log
    grep 'err= 0' /tmp/log
}

qemu_user_runs_programs_for_amd64() {
    local elf='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x3e\x00'
    local mask='\xff\xff\xff\xff\xff\xfe\xfe\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
    if /amd64/busybox true; then return 1; fi
    mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
    # With F the kernel opens qemu now, so that programs of a root that does not have it run too.
    echo ":amd64:M::$elf:$mask:/usr/bin/qemu-x86_64-static:F" > /proc/sys/fs/binfmt_misc/register
    /amd64/busybox uname -m | grep -x x86_64
    chroot /amd64 /busybox sh -c 'echo $((6 * 7)) on $(/busybox uname -m)' | grep -x '42 on x86_64'
}

java_keeps_to_its_limits() {
    local java=/usr/lib/jvm/default-java/bin/java classes
    echo '+cpu +memory' > /sys/fs/cgroup/cgroup.subtree_control
    mkdir /sys/fs/cgroup/java
    echo 1G > /sys/fs/cgroup/java/memory.max
    echo 100000 100000 > /sys/fs/cgroup/java/cpu.max
    (echo "$BASHPID" > /sys/fs/cgroup/java/cgroup.procs && exec $java -XX:+PrintFlagsFinal -XshowSettings:system -version) &> /tmp/flags
    grep 'Provider: cgroupv2' /tmp/flags
    grep 'Effective CPU Count: 1$' /tmp/flags
    grep 'Memory Limit: 1.00G' /tmp/flags
    grep -E ' MaxHeapSize += 268435456 ' /tmp/flags # a quarter of the limit

    # What Elasticsearch asks of a machine before it starts.
    sysctl -w vm.max_map_count=262144
    (($(ulimit -n) >= 65535 && $(ulimit -u) >= 4096))
    [[ $(ulimit -v) == unlimited && $(ulimit -f) == unlimited ]]
    # Lucene, which is what Elasticsearch keeps its indexes with, maps their files into memory.
    classes=$(printf '/usr/share/java/lucene-%s-8.7.0.jar:' core analyzers-common queryparser demo)
    java+=" -XX:+UseG1GC -Xms256m -Xmx256m -XX:+AlwaysPreTouch -XX:+UseTransparentHugePages -cp $classes"
    $java org.apache.lucene.demo.IndexFiles -index /data/index -docs /usr/share/common-licenses
    $java org.apache.lucene.demo.SearchFiles -index /data/index -query warranty -raw < /dev/null | grep 'total matching documents'
}

mariadb_makes_a_database() {
    local options=(--no-defaults --user=root --datadir=/data/mariadb)
    ln -s mawk /usr/bin/awk # as Debian's scripts do
    mariadb-install-db "${options[@]}" --auth-root-authentication-method=normal --skip-test-db > /tmp/log
    start() {
        mariadbd "${options[@]}" --socket=/tmp/socket --bind-address=127.0.0.1 &
        until mariadb --no-defaults --socket=/tmp/socket -e 'select 1' 2> /tmp/log; do
            kill -0 $!
            sleep 1
        done
        readlink /proc/$!/fd/* | grep -F "[io_uring]"
    }
    start
    mariadb --no-defaults --socket=/tmp/socket << 'EOF'
create database kept;
create table kept.numbers (n int primary key) engine=innodb;
insert into kept.numbers select seq from kept.seq_1_to_100000;
shutdown;
EOF
    wait $!
    start
    mariadb --no-defaults --host=127.0.0.1 --batch -e 'select sum(n) from kept.numbers; shutdown' | grep -x 5000050000
    wait $!
}

mysql_makes_a_database() {
    local options=(--no-defaults --user=root --datadir=/data/mysql)
    local client=(mysql --no-defaults --user=root --batch --skip-column-names)
    mysqld "${options[@]}" --initialize-insecure
    start() {
        mysqld "${options[@]}" --socket=/tmp/socket --bind-address=127.0.0.1 --mysqlx=off --secure-file-priv=/tmp &
        until "${client[@]}" --socket=/tmp/socket -e 'select @@innodb_use_native_aio' &> /tmp/log; do
            kill -0 $!
            sleep 1
        done
        grep -x 1 /tmp/log
    }
    start
    "${client[@]}" --socket=/tmp/socket << 'EOF'
create database kept;
create table kept.numbers (n int primary key);
set cte_max_recursion_depth = 100000;
insert into kept.numbers with recursive up (n) as (select 1 union all select n + 1 from up where n < 100000) select n from up;
shutdown;
EOF
    wait $!
    start
    "${client[@]}" --host=127.0.0.1 -e 'select sum(n) from kept.numbers; shutdown' | grep -x 5000050000
    wait $!
}

buildah_makes_an_image() {
    export BUILDAH_ISOLATION=oci BUILDAH_RUNTIME=crun
    build() { buildah --root /data/containers --runroot /run/containers --storage-driver overlay "$@"; }
    build from --name first --network none scratch
    build copy first /bin/busybox /bin/busybox
    build run first /bin/busybox sh -c 'echo made by $(/bin/busybox id -u) > /made'
    build config --cmd '/bin/busybox cat /made' first
    build commit first oci:/data/layout:latest
    build from --name second --network none oci:/data/layout:latest
    build run second /bin/busybox cat /made | grep -x 'made by 0'
}

dockerd_runs_containers() {
    local name
    for name in iptables ip6tables; do ln -s "$name-nft" "/usr/sbin/$name"; done # as Debian's scripts do
    dockerd --data-root /data/docker &
    until docker version &> /tmp/log; do
        kill -0 $!
        sleep 1
    done
    docker info > /tmp/info
    grep 'Storage Driver: overlay2' /tmp/info
    grep 'Cgroup Version: 2' /tmp/info
    mkdir -p /tmp/image/bin
    cp /bin/busybox /tmp/image/bin/
    for name in sh cat ping httpd; do ln -s busybox "/tmp/image/bin/$name"; done
    busybox tar -c -C /tmp/image . | docker import - tools
    docker run --rm --network none tools sh -c 'echo inside > /file && cat /file' | grep -x inside
    docker run --rm --memory 64m --cpus 0.5 tools cat /sys/fs/cgroup/memory.max | grep -x 67108864
    docker run --rm tools ping -c 1 172.17.0.1
    docker run --detach --name server --publish 127.0.0.1:8080:80 tools sh -c 'echo a page > /page && exec httpd -f -h /'
    until busybox wget -q -O - http://127.0.0.1:8080/page > /tmp/page; do sleep 1; done
    grep -x 'a page' /tmp/page
    docker stop --time 1 server
    kill %dockerd
    wait
}

chromium_renders_a_page() {
    local page='data:text/html,<p id=p>no</p><script>p.textContent=[1,2,3].map(n=>n*n).join()</script>'
    chromium --headless --no-sandbox --user-data-dir=/data/root --dump-dom "$page" | grep '<p id="p">1,4,9</p>'
    # The sandbox is made of namespaces and of filters of system calls, which every user can have.
    install -d -o 1000 /data/user
    export HOME=/data/user
    setpriv --reuid 1000 --regid 1000 --clear-groups chromium --headless --dump-dom "$page" | grep '<p id="p">1,4,9</p>'
}

(
    set -eE # which counts for nothing in a command that is followed by || or &&
    trap 'echo "failed: $BASH_COMMAND" >&2' ERR
    "$1"
) > /tmp/output
status=$?
if ((status == 0)); then echo "$1: ok"; else cat /tmp/output >&2; fi
exit $status
