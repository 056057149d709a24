# shellcheck shell=bash
# The build's cache: musl, busybox's sources, a kernel and a whole set, each in a folder under the digest of its inputs.
# What lies there becomes the set, and is written to as the user who builds. Sourced by build.sh.

# cache_folder: prints the folder, made and with no link in its name. It is SUPERMACHINE_BUILD_CACHE, else a folder in the
# user's cache; root with the HOME of another user (sudo, a container) gets one in root's own home.
cache_folder() {
    local folder home reason
    home=$(getent passwd "$EUID" | cut -d : -f 6)
    make_cache_folder "${SUPERMACHINE_BUILD_CACHE:-${XDG_CACHE_HOME:-${HOME:-$home}/.cache}/supermachine-kernel/build}"
    reason=$(why_others_can_write "$folder")
    if [[ -n $reason && -z ${SUPERMACHINE_BUILD_CACHE:-} ]]; then
        say "$folder is left alone, since $reason; $home/.cache/supermachine-kernel/build is used"
        make_cache_folder "$home/.cache/supermachine-kernel/build"
        reason=$(why_others_can_write "$folder")
    fi
    [[ -z $reason ]] || die "$folder: expected a cache to which nobody else can write, and $reason;" \
        "set SUPERMACHINE_BUILD_CACHE to a folder of your own"
    echo "$folder"
}

# Sets `folder` to the name that no link is part of: nobody can lead it elsewhere meanwhile.
make_cache_folder() {
    { mkdir -p "$1" && folder=$(realpath -- "$1") && [[ -w $folder ]]; } 2> /dev/null ||
        die "$1: expected a folder to write to; set SUPERMACHINE_BUILD_CACHE to one"
}

# why_others_can_write FOLDER: why somebody else than this user and root can change what is in it; nothing if nobody can.
why_others_can_write() {
    local path=$1 owner group mode
    while :; do
        read -r owner group mode < <(stat --format '%u %g %a' -- "$path")
        ((owner == EUID || owner == 0)) || { echo "$path belongs to user id $owner" && return; }
        # In a sticky folder, as /tmp is, nobody can replace what is not theirs.
        if [[ $path == "$1" ]] || ! ((8#$mode & 01000)); then
            ! ((8#$mode & 02)) || { echo "everybody can write to $path" && return; }
            ! ((8#$mode & 020)) || is_group_of_one "$group" || { echo "the group with id $group can write to $path" && return; }
        fi
        [[ $path != / ]] || return 0
        path=$(dirname -- "$path")
    done
}

# Whether it is root's, or the user's own group, which many systems make for each user, without members.
is_group_of_one() {
    local user members
    (($1)) || return 0
    user=$(id -un) members=$(getent group "$1" | cut -d : -f 4)
    [[ $1 == $(id -g) && $(id -gn) == "$user" && (-z $members || $members == "$user") ]]
}

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

# compiler_cache: prints the folder for ccache, which is told to take the headers of a file from the compiler's own list of
# them. By itself it has each file preprocessed once more to find them, and a first build takes longer for that.
compiler_cache() {
    mkdir -p "$CACHE/ccache"
    printf 'depend_mode = true\ncompression = false\n' > "$work/ccache.conf"
    mv "$work/ccache.conf" "$CACHE/ccache/"
    echo "$CACHE/ccache"
}
