# shellcheck shell=bash
# What the machine and Debian's archive give a build: sourced by build.sh.

require_debian() {
    if [[ $(uname -s) != Linux ]] || ! type apt-get dpkg-deb > /dev/null 2>&1; then
        die "a kernel is built on Debian or Ubuntu only, and this is neither. Build the wheel from the release" \
            "(leave the tree away), or run this in a Linux container: docker run --rm -v \"\$PWD:/src\" -w /src" \
            "debian:12 bash kernel-build/scripts/build.sh"
    fi
}

missing_python() { type python3 > /dev/null 2>&1 || echo python3; }

missing_packages() {
    local pair tools=(make:make gcc:gcc flex:flex bison:bison bc:bc xz:xz-utils patch:patch)
    tools+=("$COMPILER-gcc:gcc-${COMPILER//_/-}")
    ! has busybox || tools+=(bzip2:bzip2)
    for pair in "${tools[@]}"; do
        type "${pair%%:*}" > /dev/null 2>&1 || echo "${pair#*:}"
    done
    [[ -e /usr/include/stdio.h ]] || echo libc6-dev
    # Kconfig asks whether the compiler links programs, and the answer becomes part of the kernel's config.
    [[ -e /usr/$COMPILER/lib/libc.a || $(dpkg --print-architecture) == "$DEBIAN_ARCHITECTURE" ]] ||
        echo "libc6-dev-$DEBIAN_ARCHITECTURE-cross"
    # The kernel's own tool for x86, objtool, is linked with it.
    [[ $KERNEL_ARCHITECTURE != x86 || -e /usr/include/libelf.h ]] || echo libelf-dev
    [[ -z $source_package || -e $source ]] || echo "$source_package"
}

# require_packages FUNCTION: install the packages whose names the function prints.
require_packages() {
    local missing output as_root=()
    mapfile -t missing < <("$1")
    ((${#missing[@]})) || return 0
    local install="apt-get install --yes --no-install-recommends ${missing[*]}"
    if ((EUID)); then
        if ! type sudo > /dev/null 2>&1 || { [[ ! -t 0 ]] && ! sudo -n true 2> /dev/null; }; then
            die "packages are missing, and installing them takes root. Run: sudo $install"
        fi
        as_root=(sudo)
    fi
    [[ $action != digest ]] || die "packages are missing, so there is no toolchain to take a digest of. Run: sudo $install"
    say "installing ${missing[*]}"
    "${as_root[@]}" apt-get -qq update > /dev/null 2>&1 || true
    # shellcheck disable=SC2086 # a list of words
    output=$("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive $install -o DPkg::Lock::Timeout=300 2>&1) || {
        tail -n 10 <<< "$output" >&2
        die "apt could not install ${missing[*]}. A distribution without $SOURCE_PACKAGE needs --source TARBALL" \
            "(a Linux 6.12 source tarball from kernel.org)"
    }
    mapfile -t missing < <("$1")
    ((${#missing[@]} == 0)) || die "still missing after the installation: ${missing[*]}"
}

# apt_apart FOLDER ARCHITECTURE ARGUMENT...: apt-get with a state of its own in FOLDER, so that the machine needs no
# foreign architecture, and its lists stay as they are.
apt_apart() {
    mkdir -p "$1"/{state/lists/partial,cache/archives/partial}
    : > "$1/status"
    apt-get -qq -o "Dir::State=$1/state" -o "Dir::State::status=$1/status" -o "Dir::Cache=$1/cache" \
        -o "APT::Architecture=$2" -o "APT::Architectures::=$2" -o APT::Sandbox::User=root "${@:3}"
}

# Debian's musl for the architecture of the set.
fetch_musl() {
    local apt=$work/apt-musl architecture=$DEBIAN_ARCHITECTURE
    say "fetching musl for $architecture"
    mkdir -p "$apt/musl"
    apt_apart "$apt" "$architecture" update > "$apt/log" 2>&1 || true
    if ! (cd "$apt/musl" && apt_apart "$apt" "$architecture" download "musl-dev:$architecture") >> "$apt/log" 2>&1; then
        tail -n 5 "$apt/log" >&2
        die "apt gave no musl-dev for $architecture. Is there a network? Ubuntu for x86 has other architectures in the" \
            "ports archive: add a source that has it to apt's, with [arch=$architecture]. Then run this again"
    fi
    keep "$apt/musl" "$musl"
}

# Debian's source package of busybox, from the archives that the machine has its programs from.
fetch_busybox() {
    local apt=$work/apt-busybox list options
    say "fetching the source of busybox"
    mkdir -p "$apt"/{lists,busybox}
    for list in /etc/apt/sources.list /etc/apt/sources.list.d/*; do
        [[ -f $list ]] || continue
        sed -E 's/^deb(-src)?([[:space:]])/deb-src\2/; s/^Types:.*/Types: deb-src/' "$list" > "$apt/lists/${list##*/}"
    done
    options=(-o Dir::Etc::SourceList=/dev/null -o "Dir::Etc::SourceParts=$apt/lists")
    apt_apart "$apt" "$DEBIAN_ARCHITECTURE" "${options[@]}" update > "$apt/log" 2>&1 || true
    if ! (cd "$apt/busybox" && apt_apart "$apt" "$DEBIAN_ARCHITECTURE" "${options[@]}" source --download-only busybox) \
        >> "$apt/log" 2>&1; then
        tail -n 5 "$apt/log" >&2
        die "apt gave no source of busybox. Is there a network? Then run this again, or name a folder with --busybox"
    fi
    keep "$apt/busybox" "$busybox"
}
