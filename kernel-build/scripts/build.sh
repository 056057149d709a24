#!/usr/bin/env bash
# Builds the four assets of the guest from source; kernel-build/README.md has the whole story.
set -euo pipefail
umask 022
# The caller's options for cd, tar and xz would reach the build.
unset CDPATH TAR_OPTIONS XZ_OPT XZ_DEFAULTS

SET=aarch64
COMPILER=aarch64-linux-gnu MUSL=aarch64-linux-musl KERNEL_ARCHITECTURE=arm64 KERNEL_IMAGE=arch/arm64/boot/Image
ASSETS=(init-oci kernel smpark.ko supermachine-agent)
SOURCE_PACKAGE=linux-source-6.12
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# shellcheck source-path=SCRIPTDIR source=recipe.sh
. "$HERE/scripts/recipe.sh"
# shellcheck source-path=SCRIPTDIR source=cache.sh
. "$HERE/scripts/cache.sh"

usage() {
    cat << USAGE
Usage: bash kernel-build/scripts/build.sh [OPTION...]

Builds kernel, init-oci, supermachine-agent and smpark.ko for $SET from source, on Debian or Ubuntu, and writes
them with build-info.json to kernel-build/out/$SET. A set that was built before comes from the cache.

  --jobs N        compile N files at once (default: one a processor, here $(nproc 2> /dev/null || echo 1))
  --out DIR       write the set to DIR: a new folder, an empty one, or one that holds a set
  --source PATH   kernel source to build, a tarball or a folder (default: the package $SOURCE_PACKAGE)
  --check         build twice, cache aside, in two folders, and compare; writes no set
  --print-digest  print the digest of all inputs and stop
  --help          this text

The cache is ${SUPERMACHINE_BUILD_CACHE:-${XDG_CACHE_HOME:-~/.cache}/supermachine-kernel/build}
(SUPERMACHINE_BUILD_CACHE moves it). A build needs about 3 GB there while it runs.
Exit status: 0 good, 1 not good, 2 usage.
USAGE
}

die() {
    printf 'build.sh: %s\n' "$*" >&2
    exit 1
}

misuse() {
    printf 'build.sh: %s; --help lists the options\n' "$*" >&2
    exit 2
}

say() { printf '%s\n' "$*" >&2; }

main() {
    litter=()
    parse_arguments "$@"
    [[ $action != build ]] || require_own_folder
    require_debian
    require_packages
    CACHE=$(cache_folder)
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    new_work_folder
    lock musl
    proven "$CACHE/musl" || fetch_musl
    unlock
    collect_inputs
    case $action in
        digest) echo "$inputs_digest" ;;
        check) check_reproducible ;;
        build)
            build_cached
            install_set "$CACHE/sets/$inputs_digest"
            ;;
    esac
}

# --- arguments, and what the machine must have ---

parse_arguments() {
    action=build jobs=$(nproc 2> /dev/null || echo 1) out=$HERE/out/$SET source=/usr/src/$SOURCE_PACKAGE.tar.xz
    source_package=$SOURCE_PACKAGE
    while (($#)); do
        case $1 in
            --jobs=* | --out=* | --source=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
        esac
        case $1 in
            --help | -h) usage && exit 0 ;;
            --check) action=check ;;
            --print-digest) action=digest ;;
            --jobs | --out | --source)
                [[ -n ${2-} ]] || misuse "$1 needs a value"
                case $1 in
                    --jobs) jobs=$2 ;;
                    --out) out=$(realpath -ms -- "$2") ;;
                    --source) source=$(realpath -- "$2" 2> /dev/null || echo "$2") source_package= ;;
                esac
                shift
                ;;
            *) misuse "unknown option: $1" ;;
        esac
        shift
    done
    [[ $jobs =~ ^[1-9][0-9]*$ ]] || misuse "--jobs needs a number from 1, not: $jobs"
    [[ -n $source_package || -e $source ]] || die "--source $source: there is no such file or folder"
    [[ ! -d $source || -e $source/Makefile ]] || die "--source $source: expected kernel source, found no Makefile there"
}

# The folder is replaced as a whole, so that nothing but a set may be in it.
require_own_folder() {
    local other parent
    parent=$(dirname "$out")
    { mkdir -p "$parent" && [[ -w $parent ]]; } 2> /dev/null ||
        die "--out $out: $parent is not a folder that may be written to: name another with --out"
    [[ -e $out ]] || return 0
    [[ -d $out ]] || die "--out $out: expected a folder, found a file"
    other=$(cd "$out" && find . -mindepth 1 | grep -vxF "$(printf './%s\n' "${ASSETS[@]}" build-info.json)" | head -n 1) || true
    [[ -z $other ]] || die "--out $out is replaced as a whole, and $other is no part of a set: give a folder of its own"
}

require_debian() {
    if [[ $(uname -s) != Linux ]] || ! type apt-get dpkg-deb > /dev/null 2>&1; then
        die "a kernel is built on Debian or Ubuntu only, and this is neither. Build the wheel from the release" \
            "(leave the tree away), or run this in a Linux container: docker run --rm -v \"\$PWD:/src\" -w /src" \
            "debian:12 bash kernel-build/scripts/build.sh"
    fi
}

missing_packages() {
    local pair
    for pair in make:make gcc:gcc flex:flex bison:bison bc:bc xz:xz-utils patch:patch \
        aarch64-linux-gnu-gcc:gcc-aarch64-linux-gnu; do
        type "${pair%%:*}" > /dev/null 2>&1 || echo "${pair#*:}"
    done
    [[ -e /usr/include/stdio.h ]] || echo libc6-dev
    # Kconfig asks whether the compiler links programs, and the answer becomes part of the kernel's config.
    [[ -e /usr/aarch64-linux-gnu/lib/libc.a || $(uname -m) == aarch64 ]] || echo libc6-dev-arm64-cross
    [[ -z $source_package || -e $source ]] || echo "$source_package"
}

require_packages() {
    local missing output as_root=()
    mapfile -t missing < <(missing_packages)
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
    mapfile -t missing < <(missing_packages)
    ((${#missing[@]} == 0)) || die "still missing after the installation: ${missing[*]}"
}

# A folder for one build, on the cache's file system so that its results can be renamed into place. Its owner
# holds the lock of the same name; one whose lock is free belongs to a build that was killed.
new_work_folder() {
    local stale lock
    mkdir -p "$CACHE"/{sets,kernels,locks,logs}
    for stale in "$CACHE"/work.*; do
        [[ -e $stale ]] || continue
        lock=$CACHE/locks/${stale##*/}
        # shellcheck disable=SC2094 # the lock file goes with the folder
        if flock --nonblock 9; then rm -rf "$stale" "$lock"; fi 9> "$lock"
    done
    work=$CACHE/work.$$.$RANDOM
    litter=("$work" "$CACHE/locks/${work##*/}")
    exec 8> "$CACHE/locks/${work##*/}"
    flock 8
    mkdir "$work"
}

clean_up() {
    # A child that is killed right after its fork still has our traps.
    [[ $BASHPID == "$$" ]] || return 0
    stop_stage
    rm -rf "${litter[@]}"
}

# Debian's musl for arm64, fetched once. Apt gets a state of its own, so that the machine needs no foreign
# architecture.
fetch_musl() {
    local apt=$work/apt
    say "fetching musl"
    mkdir -p "$apt"/{state/lists/partial,cache/archives/partial,musl}
    : > "$apt/status"
    local options=(-qq -o "Dir::State=$apt/state" -o "Dir::State::status=$apt/status" -o "Dir::Cache=$apt/cache"
        -o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o APT::Sandbox::User=root)
    apt-get "${options[@]}" update > "$apt/log" 2>&1 || true
    if ! (cd "$apt/musl" && apt-get "${options[@]}" download musl-dev:arm64) >> "$apt/log" 2>&1; then
        tail -n 5 "$apt/log" >&2
        die "apt gave no musl-dev for arm64. Is there a network? On Ubuntu for x86, arm64 is in the ports archive:" \
            "add that as an apt source with [arch=arm64]. Then run this again"
    fi
    keep "$apt/musl" "$CACHE/musl"
}

# --- inputs ---

file_digest() { sha256sum < "$1" | cut -d ' ' -f 1; }
tool_version() { LC_ALL=C "$COMPILER-$1" --version | head -n 1; }

# guest_sources FOLDER...: the files a guest part is built from; README files and litter are none.
guest_sources() {
    (cd "$HERE" && find "$@" -type f \( -name '*.[chS]' -o -name Kbuild \) ! -name '*.mod.c' | LC_ALL=C sort)
}

guest_digests() { guest_sources "$@" | (cd "$HERE" && xargs -r -d '\n' sha256sum); }
copy_guest_sources() { guest_sources "${@:2}" | tar -C "$HERE" -T - -cf - | tar -C "$1" -xf -; }

source_digest() {
    if [[ -d $source ]]; then
        tar -C "$source" --exclude=./.git --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner \
            --mode=u+rw,go=rX -cf - . | sha256sum | cut -d ' ' -f 1
    else
        file_digest "$source"
    fi
}

collect_inputs() {
    local folder
    for folder in smpark init-oci agent; do
        compgen -G "$HERE/$folder/*.c" > /dev/null || die "$HERE/$folder holds no C source: this checkout is not whole"
    done
    source_sha=$(source_digest)
    source_version=
    [[ -z $source_package ]] || source_version=$(dpkg-query --show --showformat='${Version}' "$source_package")
    musl_deb=$(echo "$CACHE"/musl/musl-dev_*.deb)
    musl_version=$(dpkg-deb --field "$musl_deb" Version)
    kernel_inputs=$(
        echo "source $source_sha"
        echo "toolchain $(tool_version gcc), $(tool_version ld)"
        cd "$HERE" && sha256sum config/common.config "config/$SET.config" scripts/recipe.sh
        for patch in patches/*.patch; do [[ ! -e $patch ]] || sha256sum "$patch"; done
    )
    kernel_digest=$(sha256sum <<< "$kernel_inputs" | cut -d ' ' -f 1)
    inputs_digest=$({
        echo "$kernel_inputs"
        echo "package $source_package $source_version"
        echo "musl $musl_version $(file_digest "$musl_deb")"
        guest_digests smpark init-oci agent
    } | sha256sum | cut -d ' ' -f 1)
}

# --- stages: each runs in its own process group with its output in the log ---

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
    stage "configuring" configure "$tree" "$HERE/config/common.config" "$HERE/config/$SET.config"
    stage "compiling the kernel with $jobs jobs" compile_kernel "$tree" "$jobs"
    stage "packing its headers" pack_tree "$tree" "$dest/tree.tar.gz"
    cp "$tree/$KERNEL_IMAGE" "$dest/kernel"
    cp "$tree/include/config/kernel.release" "$dest/"
    cp "$tree/.config" "$dest/config"
    rm -rf "$1"
}

# build_guest WORK KERNEL DEST: what is built against the kernel, and the whole set.
build_guest() {
    local program tree=$1/linux
    mkdir -p "$tree" "$1/musl" "$3"
    copy_guest_sources "$1" smpark init-oci agent
    tar -C "$tree" -xzf "$2/tree.tar.gz"
    dpkg-deb -x "$musl_deb" "$1/musl"
    stage "compiling smpark.ko" compile_module "$1/smpark" "$tree"
    for program in init-oci:init-oci agent:supermachine-agent; do
        stage "compiling ${program#*:}" \
            compile_in "$1/${program%%:*}" "$3/${program#*:}" "$1/musl" "$tree/usr/include"
    done
    cp "$2/kernel" "$1/smpark/smpark.ko" "$3/"
    chmod 644 "$3/kernel" "$3/smpark.ko"
    rm -rf "$1"
}

compile_in() {
    cd "$1"
    compile_program "$2" "$3" "$4" ./*.c
}

# --- the cache: musl, and a kernel and a whole set, each under the digest of its inputs ---

# A cache entry carries the digests of its files; one that does not hold is thrown away.
proven() {
    [[ -e $1 ]] || return 1
    (cd "$1" && sha256sum --check --status SHA256SUMS) 2> /dev/null && return
    say "the cache entry $1 is damaged: thrown away"
    rm -rf "$1"
    return 1
}

keep() {
    (cd "$1" && sha256sum -- * > "$work/sums" && mv "$work/sums" SHA256SUMS)
    mv -T "$1" "$2"
}

lock() {
    exec 9> "$CACHE/locks/$1"
    flock --nonblock 9 || {
        say "waiting for another build, which is making the same"
        flock 9
    }
}

unlock() { exec 9>&-; }

build_cached() {
    local kernel=$CACHE/kernels/$kernel_digest set=$CACHE/sets/$inputs_digest
    lock "$kernel_digest"
    log=$CACHE/logs/$inputs_digest.log
    if ! proven "$set"; then
        : > "$log"
        if ! proven "$kernel"; then
            ! type ccache > /dev/null 2>&1 || COMPILER_CACHE=$CACHE/ccache
            build_kernel "$work/kernel-build" "$work/kernel"
            keep "$work/kernel" "$kernel"
        fi
        build_guest "$work/guest" "$kernel" "$work/set"
        build_info "$work/set" "$kernel" > "$work/build-info.json"
        mv "$work/build-info.json" "$work/set/"
        keep "$work/set" "$set"
        rm "$log"
    else
        say "these inputs were built before: taken from the cache"
    fi
}

# --- results ---

json_string() { if [[ -n $1 ]]; then sed 's/[\\"]/\\&/g; s/.*/"&"/' <<< "$1"; else echo null; fi; }

# build_info SET KERNEL: keys in order and indented by two, as any JSON library writes it.
build_info() {
    local release version asset patch tarball_sha=$source_sha separator=''
    release=$(< "$2/kernel.release")
    version=${source_version:-$release}
    [[ ! -d $source ]] || tarball_sha=
    printf '{\n  "assets": {'
    for asset in "${ASSETS[@]}"; do
        printf '%s\n    "%s": {\n      "sha256": "%s",\n      "size": %d\n    }' "$separator" "$asset" \
            "$(file_digest "$1/$asset")" "$(stat -c %s "$1/$asset")"
        separator=,
    done
    printf '\n  },\n  "config_sha256": "%s",\n  "format": 1,\n' "$(file_digest "$2/config")"
    printf '  "inputs_sha256": "%s",\n  "kernel_release": "%s",\n  "patches": [' "$inputs_digest" "$release"
    separator=''
    for patch in "$HERE"/patches/*.patch; do
        [[ -e $patch ]] || continue
        printf '%s\n    {\n      "name": %s,\n      "sha256": "%s"\n    }' "$separator" \
            "$(json_string "${patch##*/}")" "$(file_digest "$patch")"
        separator=,
    done
    printf '%s],\n  "set": "%s",\n' "${separator:+$'\n  '}" "$SET"
    printf '  "source": {\n    "package": %s,\n    "sha256": %s,\n    "version": %s\n  },\n' \
        "$(json_string "$source_package")" "$(json_string "$tarball_sha")" "$(json_string "$version")"
    printf '  "toolchain": {\n    "binutils": %s,\n    "gcc": %s,\n    "musl": %s,\n    "musl_sha256": "%s"\n  }\n}\n' \
        "$(json_string "$(tool_version ld)")" "$(json_string "$(tool_version gcc)")" "$(json_string "$musl_version")" \
        "$(file_digest "$musl_deb")"
}

# install_set ENTRY: the whole folder is written beside and takes the other's place by renaming.
install_set() {
    local new=$out.new.$$ old=$out.old.$$
    mkdir -p "$(dirname "$out")"
    litter+=("$new" "$old")
    mkdir "$new"
    cp "$1"/* "$new/"
    rm "$new/SHA256SUMS"
    [[ ! -e $out ]] || mv -T "$out" "$old"
    mv -T "$new" "$out"
    say "$out: Linux $(sed -n 's/.*"kernel_release": "\(.*\)",/\1/p' "$out/build-info.json"), inputs $inputs_digest"
    (cd "$out" && sha256sum -- "${ASSETS[@]}")
}

# --- --check ---

check_reproducible() {
    local asset differing=() first=$work/1 second=$work/a-second-folder-with-a-longer-name/2 root
    log=$CACHE/logs/check.$inputs_digest.log
    for root in "$first" "$second"; do
        say "build ${root##*/} of 2 in $root, $(date -u '+%Y-%m-%d %H:%M:%S UTC')"
        : > "$log"
        build_kernel "$root/kernel-build" "$root/kernel"
        build_guest "$root/guest" "$root/kernel" "$root/set"
    done
    for asset in "${ASSETS[@]}"; do
        (cd "$first/set" && sha256sum -- "$asset")
        cmp -s "$first/set/$asset" "$second/set/$asset" || differing+=("$asset")
    done
    rm "$log"
    ((${#differing[@]} == 0)) || die "the two builds differ in: ${differing[*]}"
    say "the two builds are identical"
}

main "$@"
