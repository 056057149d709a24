# shellcheck shell=bash
# All that an asset's bytes depend on, and its digest, under which the cache keeps what was built. Sourced by build.sh.

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
    local part names sources
    names=$(guest_parts)
    mapfile -t parts <<< "$names"
    for part in "${parts[@]}"; do
        sources=$(guest_sources "$part" 2> /dev/null) || true
        [[ -f $HERE/$part ]] || sources=$(grep -vE '(\.h|/Kbuild)$' <<< "$sources") || true
        [[ -n $sources ]] || die "$HERE/$part: expected source (of a kind that guest_sources in scripts/inputs.sh" \
            "names), found none: this checkout is not whole, or that function has to name a new kind"
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
        echo "assets ${ASSETS[*]}"
        guest_digests "${parts[@]}"
        file_digest "$HERE/scripts/programs.sh"
    } | sha256sum | cut -d ' ' -f 1)
}

# The files of busybox's source package, as sha256sum prints them.
busybox_files() { (cd "$busybox" && sha256sum busybox_*); }
