#!/bin/sh
# debugged.sh PROGRAM [ARGUMENT]...: runs it in a kernel that `build.sh --debug` made, and says what memory it lost.
# In another kernel, which watches nothing, it ends before "done".
set -e
debug=/tmp/debug
mkdir -p $debug
mount -t debugfs none $debug
for fault in failslab fail_page_alloc; do
    echo N > $debug/$fault/ignore-gfp-wait
    echo 0 > $debug/$fault/verbose
done
echo 0 > $debug/fail_page_alloc/min-order
echo scan > $debug/kmemleak
echo clear > $debug/kmemleak
"$@" || true # its own lines say how it went
sleep 10
for _ in 1 2 3; do
    echo scan > $debug/kmemleak
    sleep 2
done
sed 's/^/kmemleak: /' < $debug/kmemleak
echo "debugged: done"
