# shellcheck shell=bash
# The stages of a build. Each runs in its own process group with its output in the log. Sourced by build.sh.

# Never called where bash ignores errors (in a condition, or before && or ||): a stage stops at its first.
stage() {
    local title=$1 status=0
    shift
    say "$title"
    printf '\n=== %s\n' "$title" >> "$log"
    set -m
    ("$@") >> "$log" 2>&1 < /dev/null &
    stage_pid=$!
    show_progress &
    ticker_pid=$!
    set +m
    wait "$stage_pid" || status=$?
    stop_stage
    ((status == 0)) || {
        tail -n 25 "$log" >&2
        die "stage failed: $title. The whole log: $log"
    }
}

stop_stage() {
    [[ -z ${ticker_pid-} ]] || { kill "$ticker_pid" && wait "$ticker_pid"; } 2> /dev/null || true
    if [[ -n ${stage_pid-} ]] && kill -- "-$stage_pid" 2> /dev/null; then
        # It goes on writing until its last process is gone.
        for _ in {1..100}; do
            kill -0 -- "-$stage_pid" 2> /dev/null || break
            sleep 0.1
        done
    fi
    [[ ! -t 2 ]] || printf '\r\e[K' >&2
    ticker_pid='' stage_pid=''
}

show_progress() {
    local start=$SECONDS pause=60 format='  %d s, %d files compiled\n' idle
    [[ ! -t 2 ]] || pause=1 format='\r\e[K  %d s, %d files compiled'
    exec {idle}<> <(:) # never has anything to read: a pause without a process that could be left behind
    while kill -0 "$$" 2> /dev/null; do
        read -r -t "$pause" -u "$idle" || true
        # shellcheck disable=SC2059 # one of the two above
        printf "$format" $((SECONDS - start)) "$(grep -cE '^ +(CC|AS|HOSTCC) ' "$log")" >&2
    done
}

# build_kernel WORK DEST: the slow part.
build_kernel() {
    local tree=$1/linux dest=$2
    mkdir -p "$1" "$dest"
    stage "unpacking $source" unpack_source "$source" "$tree"
    stage "applying patches" apply_patches "$HERE/patches" "$tree"
    stage "configuring" configure "$tree" "${configs[@]/#/$HERE/}"
    stage "compiling the kernel with $jobs jobs" compile_kernel "$tree" "$jobs"
    stage "packing its headers" pack_tree "$tree" "$dest/tree.tar.gz"
    cp "$tree/$KERNEL_IMAGE" "$dest/kernel"
    cp "$tree/include/config/kernel.release" "$dest/"
    cp "$tree/.config" "$dest/config"
    rm -rf "$1"
}

# build_guest WORK KERNEL DEST: what is built against the kernel, and the whole set.
build_guest() {
    local asset tree=$1/linux
    mkdir -p "$tree" "$1/musl" "$3"
    copy_guest_sources "$1" "${parts[@]}"
    tar -C "$tree" -xzf "$2/tree.tar.gz"
    dpkg-deb -x "$musl_deb" "$1/musl"
    for asset in "${ASSETS[@]}"; do
        [[ $asset == kernel ]] || stage "compiling $asset" "compile_$asset" "$1" "$3/$asset"
    done
    cp "$2/kernel" "$3/"
    chmod 644 "$3/kernel"
    rm -rf "$1"
}

# Each is given the work folder with the sources, musl and the kernel's headers, and the file to write.
compile_smpark.ko() {
    compile_module "$1/smpark" "$1/linux"
    cp "$1/smpark/smpark.ko" "$2"
    chmod 644 "$2"
}

compile_init-oci() { compile_in "$1/init-oci" "$2" "$1/musl" "$1/linux/usr/include"; }
compile_busybox() {
    make_busybox "$busybox" "$1/busybox/busybox.config" "$1/busybox/source" "$2" "$1/musl" "$1/linux/usr/include" "$jobs"
}

compile_supermachine-agent() { compile_in "$1/agent" "$2" "$1/musl" "$1/linux/usr/include"; }

compile_in() {
    cd "$1"
    compile_program "$2" "$3" "$4" ./*.c
}
