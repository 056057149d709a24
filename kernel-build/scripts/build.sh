#!/usr/bin/env bash
# Builds the assets of a guest set from source; kernel-build/README.md has the whole story.
set -euo pipefail
umask 022
# The caller's options for cd, tar and xz would reach the build.
unset CDPATH TAR_OPTIONS XZ_OPT XZ_DEFAULTS

SOURCE_PACKAGE=linux-source-6.12
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# shellcheck source-path=SCRIPTDIR source=packages.sh
. "$HERE/scripts/packages.sh"
# shellcheck source-path=SCRIPTDIR source=recipe.sh
. "$HERE/scripts/recipe.sh"
# shellcheck source-path=SCRIPTDIR source=programs.sh
. "$HERE/scripts/programs.sh"
# shellcheck source-path=SCRIPTDIR source=cache.sh
. "$HERE/scripts/cache.sh"

usage() {
    cat << USAGE
Usage: bash kernel-build/scripts/build.sh [OPTION...]

Builds the assets of a guest set from source, on Debian or Ubuntu, and writes them with build-info.json to
kernel-build/out/SET. A set that was built before comes from the cache.

  --set SET       a set of kernel-build/guest-sets.json, or all of them: all (default: aarch64)
  --jobs N        compile N files at once (default: one a processor, here $(nproc 2> /dev/null || echo 1))
  --out DIR       write the set to DIR: a new folder, an empty one, or one that holds a set
  --source PATH   kernel source to build, a tarball or a folder (default: the package $SOURCE_PACKAGE)
  --busybox DIR   Debian's source package of busybox, as apt-get source --download-only leaves it (default: fetched)
  --debug         build a kernel that watches itself, for tests, with config/SET-debug.config; writes to
                  kernel-build/out/SET-debug
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
    require_debian
    require_packages missing_python
    read_table
    [[ $guest_set != all ]] || build_each "$@"
    [[ $action != build ]] || require_own_folder
    require_packages missing_packages
    CACHE=$(cache_folder)
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    new_work_folder
    musl=$CACHE/musl-$DEBIAN_ARCHITECTURE
    fetch_once "$musl" fetch_musl
    if has busybox && [[ -z $busybox ]]; then
        busybox=$CACHE/busybox
        fetch_once "$busybox" fetch_busybox
    fi
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
    action=build debug='' guest_set=aarch64 jobs=$(nproc 2> /dev/null || echo 1) out='' source=/usr/src/$SOURCE_PACKAGE.tar.xz
    source_package=$SOURCE_PACKAGE busybox=
    while (($#)); do
        case $1 in
            --set=* | --jobs=* | --out=* | --source=* | --busybox=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
        esac
        case $1 in
            --help | -h) usage && exit 0 ;;
            --check) action=check ;;
            --debug) debug=-debug ;;
            --print-digest) action=digest ;;
            --set | --jobs | --out | --source | --busybox)
                [[ -n ${2-} ]] || misuse "$1 needs a value"
                case $1 in
                    --set) guest_set=$2 ;;
                    --jobs) jobs=$2 ;;
                    --out) out=$(realpath -ms -- "$2") ;;
                    --source) source=$(realpath -- "$2" 2> /dev/null || echo "$2") source_package= ;;
                    --busybox) busybox=$(realpath -ms -- "$2") ;;
                esac
                shift
                ;;
            *) misuse "unknown option: $1" ;;
        esac
        shift
    done
    [[ $guest_set != all || -z $out ]] || misuse "--out takes one set, not all"
    [[ -n $out ]] || out=$HERE/out/$guest_set$debug
    configs=(config/common.config "config/$guest_set.config")
    [[ -z $debug ]] || configs=("config/$guest_set-debug.config")
    [[ $jobs =~ ^[1-9][0-9]*$ ]] || misuse "--jobs needs a number from 1, not: $jobs"
    [[ -n $source_package || -e $source ]] || die "--source $source: there is no such file or folder"
    [[ ! -d $source || -e $source/Makefile ]] || die "--source $source: expected kernel source, found no Makefile there"
}

# read_table: the names of all sets in SETS, and what the row of the wanted one says: its assets in ASSETS, all else
# in variables with the names of its fields.
read_table() {
    local variables
    variables=$(
        python3 - "$HERE/guest-sets.json" "$guest_set" << 'PYTHON'
import json, shlex, sys

with open(sys.argv[1], encoding="utf-8") as file:
    table = json.load(file)
print("SETS=(", *map(shlex.quote, table), ")")
for field, value in table.get(sys.argv[2], {}).items():
    words = f"({' '.join(map(shlex.quote, value))})" if isinstance(value, list) else shlex.quote(value)
    print(f"{field.upper()}={words}")
PYTHON
    ) || die "$HERE/guest-sets.json: expected the table of guest sets; this checkout is not whole"
    eval "$variables"
    [[ " all ${SETS[*]} " == *" $guest_set "* ]] || misuse "--set $guest_set: expected one of ${SETS[*]}, or all"
}

has() { [[ " ${ASSETS[*]} " == *" $1 "* ]]; }

build_each() {
    for guest_set in "${SETS[@]}"; do
        "$BASH" "$HERE/scripts/build.sh" "$@" --set "$guest_set"
    done
    exit 0
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

# A folder for one build, on the cache's file system so that its results can be renamed into place. Its owner
# holds the lock of the same name; one whose lock is free belongs to a build that was killed.
new_work_folder() {
    local stale lock
    mkdir -p "$CACHE"/{sets,kernels,locks,logs}
    for stale in "$CACHE"/work.*; do
        [[ -e $stale ]] || continue
        lock=$CACHE/locks/${stale##*/}
        # shellcheck disable=SC2094 # the lock file goes with the folder
        if flock --nonblock 9 2> /dev/null; then rm -rf "$stale" "$lock"; fi 9> "$lock"
    done
    work=$CACHE/work.$$.$RANDOM
    litter=("$work" "$CACHE/locks/${work##*/}")
    exec 8> "$CACHE/locks/${work##*/}"
    flock 8 2> /dev/null || true # where there are no locks, nobody takes this folder for an abandoned one
    mkdir "$work"
}

clean_up() {
    # A child that is killed right after its fork still has our traps.
    [[ $BASHPID == "$$" ]] || return 0
    stop_stage
    rm -rf "${litter[@]}"
}

# --- inputs ---

file_digest() { sha256sum < "$1" | cut -d ' ' -f 1; }
tool_version() { LC_ALL=C "$COMPILER-$1" --version | head -n 1; }

# guest_parts: the folders, and single files of others, from which the assets beside the kernel are built.
guest_parts() {
    local asset
    for asset in "${ASSETS[@]}"; do
        case $asset in
            kernel) ;;
            smpark.ko) echo smpark ;;
            init-oci | busybox) echo "$asset" ;;
            supermachine-agent) printf '%s\n' agent smpark/smpark.h ;;
            *) die "$HERE/guest-sets.json: $asset: there is no source of such an asset" ;;
        esac
    done
}

# guest_sources FOLDER_OR_FILE...: the files a guest part is built from; README files and litter are none.
guest_sources() {
    (cd "$HERE" && find "$@" -type f \( -name '*.[chS]' -o -name Kbuild -o -name '*.config' \) ! -name '*.mod.c' ! -name '.*' |
        LC_ALL=C sort -u)
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
    local part names
    names=$(guest_parts)
    mapfile -t parts <<< "$names"
    for part in "${parts[@]}"; do
        [[ -f $HERE/$part || $part == busybox ]] || compgen -G "$HERE/$part/*.c" > /dev/null ||
            die "$HERE/$part holds no C source: this checkout is not whole"
    done
    source_sha=$(source_digest)
    source_version=
    [[ -z $source_package ]] || source_version=$(dpkg-query --show --showformat='${Version}' "$source_package")
    musl_deb=$(echo "$musl"/musl-dev_*.deb)
    musl_version=$(dpkg-deb --field "$musl_deb" Version)
    ! has busybox || busybox_version=$(sed -n 's/^Version: //p' "$busybox"/busybox_*.dsc 2> /dev/null) ||
        die "--busybox $busybox: expected a source package of busybox, found no busybox_VERSION.dsc"
    kernel_inputs=$(
        echo "source $source_sha"
        echo "toolchain $(tool_version gcc), $(tool_version ld)"
        echo "made for $KERNEL_ARCHITECTURE by $COMPILER: $KERNEL_IMAGE"
        cd "$HERE" && sha256sum "${configs[@]}" scripts/recipe.sh
        for patch in patches/*.patch; do [[ ! -e $patch ]] || sha256sum "$patch"; done
    )
    kernel_digest=$(sha256sum <<< "$kernel_inputs" | cut -d ' ' -f 1)
    inputs_digest=$({
        echo "$kernel_inputs"
        echo "package $source_package $source_version"
        echo "musl $musl_version $(file_digest "$musl_deb")"
        ! has busybox || busybox_files
        guest_digests "${parts[@]}"
        file_digest "$HERE/scripts/programs.sh"
    } | sha256sum | cut -d ' ' -f 1)
}

# The files of busybox's source package, as sha256sum prints them.
busybox_files() { (cd "$busybox" && sha256sum busybox_*); }

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

fetch_once() {
    lock "${1##*/}"
    proven "$1" || "$2"
    unlock
}

lock() {
    local status=0
    exec 9> "$CACHE/locks/$1"
    flock --nonblock 9 2> /dev/null || status=$?
    case $status in
        0) ;;
        1)
            say "waiting for another build, which is making the same"
            flock 9
            ;;
        *) say "warning: $CACHE/locks/$1: cannot be locked, so run one build at a time here" ;;
    esac
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
    printf '\n  },\n'
    ! has busybox || busybox_info
    printf '  "config_sha256": "%s",\n  "format": 1,\n' "$(file_digest "$2/config")"
    printf '  "inputs_sha256": "%s",\n  "kernel_release": "%s",\n  "patches": [' "$inputs_digest" "$release"
    separator=''
    for patch in "$HERE"/patches/*.patch; do
        [[ -e $patch ]] || continue
        printf '%s\n    {\n      "name": %s,\n      "sha256": "%s"\n    }' "$separator" \
            "$(json_string "${patch##*/}")" "$(file_digest "$patch")"
        separator=,
    done
    printf '%s],\n  "set": "%s",\n' "${separator:+$'\n  '}" "$guest_set"
    printf '  "source": {\n    "package": %s,\n    "sha256": %s,\n    "version": %s\n  },\n' \
        "$(json_string "$source_package")" "$(json_string "$tarball_sha")" "$(json_string "$version")"
    printf '  "toolchain": {\n    "binutils": %s,\n    "gcc": %s,\n    "musl": %s,\n    "musl_sha256": "%s"\n  }\n}\n' \
        "$(json_string "$(tool_version ld)")" "$(json_string "$(tool_version gcc)")" "$(json_string "$musl_version")" \
        "$(file_digest "$musl_deb")"
}

busybox_info() {
    local digest file separator=''
    printf '  "busybox": {\n    "files": {'
    while read -r digest file; do
        printf '%s\n      %s: "%s"' "$separator" "$(json_string "$file")" "$digest"
        separator=,
    done < <(busybox_files)
    printf '\n    },\n    "package": "busybox",\n    "version": %s\n  },\n' "$(json_string "$busybox_version")"
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
