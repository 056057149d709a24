# shellcheck shell=bash
# What determines the bytes of the kernel: sourced by build.sh, and one of the inputs it takes the digest of.
# build.sh sets what the row of the guest set says: COMPILER, KERNEL_ARCHITECTURE and KERNEL_IMAGE.

# Every tool runs in an environment of our own, so that nothing of the caller's (flags, locale, time zone,
# user, a compiler for Rust that happens to be there) reaches the output.
pinned() {
    env -i PATH="$PATH" HOME=/nonexistent TMPDIR="${TMPDIR:-/tmp}" LC_ALL=C TZ=UTC \
        SOURCE_DATE_EPOCH=1767225600 KBUILD_BUILD_TIMESTAMP='Thu Jan  1 00:00:00 UTC 2026' \
        KBUILD_BUILD_USER=supermachine KBUILD_BUILD_HOST=kernel-build KBUILD_BUILD_VERSION=1 "$@"
}

# LOCALVERSION set, though empty: without it the release gets a `+` when the source is a git checkout.
# COMPILER_CACHE, a folder for ccache, is set where unchanged files need not be compiled again.
kernel_make() {
    local ccache=()
    [[ -z ${COMPILER_CACHE:-} ]] || ccache=(CC="ccache ${COMPILER}-gcc")
    pinned CCACHE_DIR="${COMPILER_CACHE:-}" make "${ccache[@]}" ARCH="$KERNEL_ARCHITECTURE" \
        CROSS_COMPILE="$COMPILER-" LOCALVERSION= RUSTC=no-rustc PAHOLE=no-pahole "$@"
}

# unpack_source TARBALL|FOLDER TREE
unpack_source() {
    mkdir -p "$2"
    if [[ -d $1 ]]; then
        tar -C "$1" --exclude=./.git -cf - . | tar -C "$2" -xf -
        kernel_make -s -C "$2" mrproper
    else
        tar -C "$2" --strip-components=1 -xf "$1"
    fi
    grep -q '^VERSION = ' "$2/Makefile" || {
        echo "$1 holds no kernel source: no Makefile with a VERSION"
        return 1
    }
}

# apply_patches PATCH_FOLDER TREE
apply_patches() {
    local patch
    for patch in "$1"/*.patch; do
        [[ -e $patch ]] || continue
        patch -d "$2" -p1 --batch --forward --no-backup-if-mismatch < "$patch" || {
            echo "$patch does not apply to Linux $(kernel_make -s -C "$2" kernelversion)"
            return 1
        }
    done
}

# configure TREE FRAGMENT...: everything off, then the fragments; a line of them that Kconfig did not keep is an error.
configure() {
    local tree=$1 line name lost=0
    shift
    cat "$@" > "$tree/.fragments"
    kernel_make -s -C "$tree" KCONFIG_ALLCONFIG=.fragments allnoconfig
    while IFS= read -r line; do
        case $line in
            CONFIG_*=*) grep -qxF -- "$line" "$tree/.config" && continue ;;
            '# CONFIG_'*' is not set')
                name=${line#\# }
                grep -q "^${name%% *}=" "$tree/.config" || continue
                ;;
            '' | '# '*) continue ;;
        esac
        echo "$*: Kconfig did not keep this line: $line"
        lost=1
    done < "$tree/.fragments"
    return "$lost"
}

# compile_kernel TREE JOBS: the image, and modules where the configuration has them.
compile_kernel() {
    local targets=("${KERNEL_IMAGE##*/}")
    ! grep -qx CONFIG_MODULES=y "$1/.config" || targets+=(modules)
    kernel_make -C "$1" -j "$2" "${targets[@]}"
    kernel_make -s -C "$1" headers
}

# pack_tree TREE ARCHIVE: what modules and programs are built against, the headers and build system of the kernel.
# Where no module is built, the headers of user space are enough.
pack_tree() {
    local parts=(usr/include)
    ! grep -qx CONFIG_MODULES=y "$1/.config" || parts+=(Makefile .config Module.symvers include scripts
        "arch/$KERNEL_ARCHITECTURE/Makefile" "arch/$KERNEL_ARCHITECTURE/include")
    tar -C "$1" --exclude='*.o' -czf "$2" "${parts[@]}"
}
