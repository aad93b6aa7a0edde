#!/bin/bash
# Not run but sourced: Debian's packages as a tree, which is the same for every role and version.
# `image` is the folder image/.
: "${image:?}"

base_flags() { # sets `flags`: mmdebstrap's for packages/excluded
  local path
  flags=()
  while read -r path; do
    case $path in
      +*) flags+=("--dpkgopt=path-include=${path#+}") ;;
      *) flags+=("--dpkgopt=path-exclude=$path") ;;
    esac
  done < <(words_of "$image/packages/excluded")
}

make_base() { # TREE CACHE WORK: what was downloaded stays in CACHE
  local tree=$1 cache=$2 work=$3 packages flags
  base_flags
  packages=$(words_of "$image/packages/base"; words_of "$image/packages/firmware")
  debian_sources 'bookworm.*' 'main non-free-firmware' >"$work/sources.list"
  [ -s "$work/sources.list" ] || die "this machine's apt has no Debian 12 sources: add them to /etc/apt/sources.list.d and run apt-get update"
  mkdir -p "$cache"
  printf 'update_initramfs=no\n' >"$work/update-initramfs.conf" # it is made once, when everything is there
  rm -rf --one-file-system "$tree"
  # shellcheck disable=SC2016  # expanded by mmdebstrap's shell
  INITRD=No logged "$work/mmdebstrap.log" mmdebstrap --mode=root --variant=essential --include="${packages//$'\n'/,}" \
    --aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Languages "none"' "${flags[@]}" \
    --dpkgopt=force-confold --skip=download/empty --skip=essential/unlink --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
    --setup-hook='mkdir -p "$1/var/cache/apt/archives"' --setup-hook="sync-in $cache /var/cache/apt/archives" \
    --essential-hook='mkdir -p "$1/etc/initramfs-tools"' \
    --essential-hook="copy-in $work/update-initramfs.conf /etc/initramfs-tools" \
    --customize-hook="sync-out /var/cache/apt/archives $cache" \
    bookworm "$tree" "$work/sources.list"
}
