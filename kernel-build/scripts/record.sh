# shellcheck shell=bash
# The record of a build, build-info.json. Sourced by build.sh.

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
