# shellcheck shell=bash
# What determines the bytes of the module and the programs: sourced by build.sh, and one of the inputs of its digest.

# compile_module SMPARK_FOLDER TREE: a copy of the module's sources that may be littered, and an unpacked tree.
compile_module() {
    kernel_make -C "$2" M="$1" KCFLAGS="-Werror -ffile-prefix-map=$1=smpark" modules
    "${COMPILER}-strip" --strip-debug "$1/smpark.ko"
}

# describe_musl MUSL UAPI: what a compiler is told in the place of its own libc, which is glibc: where the headers are,
# and the start files and libraries, one by one.
describe_musl() {
    local lib=$1/lib/$MUSL gcc=$COMPILER-gcc
    INCLUDES=(-nostdinc -isystem "$1/include/$MUSL" -isystem "$2" -isystem "$("$gcc" -print-file-name=include)")
    START=(-nostdlib "$lib/crt1.o" "$lib/crti.o" "$("$gcc" -print-file-name=crtbeginT.o)")
    END=(-L"$lib" -lc "$("$gcc" -print-libgcc-file-name)" -lc "$("$gcc" -print-file-name=crtend.o)" "$lib/crtn.o")
}

# compile_program OUT MUSL UAPI SOURCE...: a static program against musl and the kernel's own headers.
compile_program() {
    local out=$1 gcc=$COMPILER-gcc
    describe_musl "$2/usr" "$3"
    shift 3
    pinned "$gcc" -std=gnu11 -Os -Wall -Wextra -Werror -static -fno-pie -no-pie -ffunction-sections -fdata-sections \
        -ffile-prefix-map="$PWD=." -Wl,--gc-sections -Wl,--build-id=none -s \
        "${INCLUDES[@]}" "${START[@]}" "$@" "${END[@]}" -o "$out"
}

# unpack_busybox PACKAGE_FOLDER TREE: Debian's source package, with Debian's patches.
unpack_busybox() {
    local patch patches
    mkdir -p "$2"
    tar -C "$2" --strip-components=1 -xf "$1"/busybox_*.orig.tar.*
    tar -C "$2" -xf "$1"/busybox_*.debian.tar.*
    mapfile -t patches < <(grep -v '^ *\(#\|$\)' "$2/debian/patches/series")
    for patch in "${patches[@]}"; do
        patch -d "$2" -p1 --batch --forward --no-backup-if-mismatch < "$2/debian/patches/$patch"
    done
}

busybox_make() { pinned make -s -C "$1" CC="$1/compiler" ARCH="${COMPILER%%-*}" "${@:2}"; }

# configure_busybox FRAGMENT TREE: everything off, then the fragment; a line that Kconfig did not keep is an error.
# Where one of its lines makes another option possible that nothing answers, make stops at the question.
configure_busybox() {
    local line lost=0
    busybox_make "$2" allnoconfig > /dev/null
    grep -vwFf <(grep -oE '\bCONFIG_[A-Z0-9_]+' "$1") "$2/.config" > "$2/.rest"
    cat "$2/.rest" "$1" > "$2/.config"
    busybox_make "$2" oldconfig < /dev/null
    while IFS= read -r line; do
        [[ $line != CONFIG_*=* ]] || grep -qxF -- "$line" "$2/.config" || {
            echo "$1: Kconfig did not keep this line: $line"
            lost=1
        }
    done < "$1"
    return "$lost"
}

# make_busybox PACKAGE_FOLDER FRAGMENT TREE OUT MUSL UAPI JOBS: a static program, as compile_program makes one.
make_busybox() {
    local tree=$3 out=$4
    unpack_busybox "$1" "$tree"
    describe_musl "$5/usr" "$6"
    # Its makefiles know one compiler for compiling and linking.
    local compile="exec $COMPILER-gcc ${INCLUDES[*]}"
    cat > "$tree/compiler" << SCRIPT
#!/bin/sh
for word; do case \$word in -c | -E | -S | -r) $compile "\$@" ;; esac; done
$compile -static -fno-pie -no-pie -Wl,--build-id=none ${START[*]} "\$@" ${END[*]}
SCRIPT
    chmod 755 "$tree/compiler"
    configure_busybox "$2" "$tree"
    busybox_make "$tree" -j "$7" CONFIG_EXTRA_CFLAGS="-fno-pie -ffile-prefix-map=$tree=busybox" \
        HOSTCC=gcc STRIP="$COMPILER-strip" AR="$COMPILER-ar" NM="$COMPILER-nm" OBJCOPY="$COMPILER-objcopy" busybox
    cp "$tree/busybox" "$out"
}
