#!/bin/bash
# Not run but sourced: a slot's image. It is a squashfs that GRUB can read as well, followed by the hash tree that the kernel checks
# each block by. Nothing in it is compressed: what did not change between two versions is then the same bytes, and an upgrade small.

verity_uuid=51ce0000-0000-4000-8000-00000000000e # of the hash tree; the same in every slot

make_slot() { # TREE VERSION IMAGE META WORK
  local tree=$1 version=$2 image_file=$3 meta=$4 work=$5 size salt root
  rm -f "$image_file"
  logged "$work/squashfs.log" mksquashfs "$tree" "$image_file" -noI -noD -noF -noX -b 128K -no-exports -no-xattrs -noappend -no-progress \
    -processors 2 -wildcards -e 'proc/*' 'sys/*' 'dev/*' 'run/*'
  size=$(($(stat -c %s "$image_file") + 4095 & ~4095))
  truncate -s "$size" "$image_file"
  salt=$(printf 'sluice %s' "$version" | sha256sum | cut -c 1-64)
  root=$(veritysetup format "$image_file" "$image_file" --hash-offset="$size" --salt="$salt" --uuid="$verity_uuid" |
    awk '/^Root hash:/ { print $3 }')
  [ ${#root} = 64 ] || die "veritysetup gave no root hash for $image_file"
  printf 'set slot_version=%s\nset slot_root=%s\nset slot_offset=%s\n' "$version" "$root" "$size" >"$meta"
}
