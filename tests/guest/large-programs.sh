#!/bin/bash
# Large programs of an image, each in a guest of its own: "large-programs.sh NAME" ends with "NAME: ok".
# Runs as root, with Debian's packages that test_large_programs.py names, and a volume at /data.
# shellcheck disable=SC2329 # each function is called by its name

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

(
    set -e # which counts for nothing in a command that is followed by || or &&
    "$1"
) > /tmp/output
status=$?
if ((status == 0)); then echo "$1: ok"; else cat /tmp/output >&2; fi
exit $status
