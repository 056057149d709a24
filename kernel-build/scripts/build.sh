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
# shellcheck source-path=SCRIPTDIR source=inputs.sh
. "$HERE/scripts/inputs.sh"
# shellcheck source-path=SCRIPTDIR source=stages.sh
. "$HERE/scripts/stages.sh"
# shellcheck source-path=SCRIPTDIR source=record.sh
. "$HERE/scripts/record.sh"

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
    [[ -z $other ]] || die "--out $out is replaced as a whole, and $other is no part of the set $guest_set:" \
        "name another folder with --out, or remove that file if an earlier build left it there"
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

build_cached() {
    local kernel=$CACHE/kernels/$kernel_digest set=$CACHE/sets/$inputs_digest
    lock "$kernel_digest"
    log=$CACHE/logs/$inputs_digest.log
    if ! proven "$set"; then
        : > "$log"
        if ! proven "$kernel"; then
            ! type ccache > /dev/null 2>&1 || COMPILER_CACHE=$(compiler_cache)
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
