#!/bin/bash
# Not run but sourced: a slot's image. It is a squashfs that GRUB can read as well, followed by the hash tree that the kernel checks
# each block by. An upgrade has to be small, so what did not change between two versions is the same bytes in the same place:
#
# - nothing is compressed, and no file shares a block with another (-no-fragments);
# - what changes often lies last (`places`), so that a file of another length moves little;
# - every file has the same time, and salt and UUID of the hash tree are the same in every slot.
: "${image:?}" "${tree_time:?}" # image/lib/tree.sh

verity_uuid=51ce0000-0000-4000-8000-00000000000e
verity_salt=51ce00000000000000000000000000000000000000000000000000000000000e

places() { # TREE: how early a file lies in the image, as mksquashfs's -sort takes it; Debian's other files have 0
  local tree=$1 folder
  for folder in boot usr/lib/modules; do
    sorted_files "$tree" "$folder" -1000
  done
  sorted_files "$tree" usr/bin -2000 -name 'sluice-*'
  { cd "$image/rootfs" && find . -type f; cd "$image/roles" && find . -type f | sed -E 's|^\./[^/]+|.|'; } | sed 's|^\./||' | LC_ALL=C sort -u |
    while read -r file; do [ ! -e "$tree/$file" ] || echo "$file -3000"; done
  printf '%s -4000\n' usr/lib/sluice/release usr/lib/clock-epoch
}

sorted_files() { # TREE FOLDER PLACE [FIND'S EXPRESSION...]
  local tree=$1 folder=$2 place=$3
  shift 3
  find "$tree/$folder" -type f "$@" -printf "$folder/%P $place\n" | LC_ALL=C sort
}

make_slot() { # TREE VERSION IMAGE META WORK
  local tree=$1 version=$2 image_file=$3 meta=$4 work=$5 size root
  rm -f "$image_file"
  places "$tree" >"$work/places"
  logged "$work/squashfs.log" env -u SOURCE_DATE_EPOCH mksquashfs "$tree" "$image_file" -noI -noD -noF -noX -b 128K -no-fragments -no-exports -no-xattrs -noappend \
    -no-progress -processors 2 -mkfs-time "$tree_time" -sort "$work/places" -wildcards -e 'proc/*' 'sys/*' 'dev/*' 'run/*'
  size=$(($(stat -c %s "$image_file") + 4095 & ~4095))
  truncate -s "$size" "$image_file"
  root=$(veritysetup format "$image_file" "$image_file" --hash-offset="$size" --salt="$verity_salt" --uuid="$verity_uuid" |
    awk '/^Root hash:/ { print $3 }')
  [ ${#root} = 64 ] || die "veritysetup gave no root hash for $image_file"
  printf 'set slot_version=%s\nset slot_root=%s\nset slot_offset=%s\n' "$version" "$root" "$size" >"$meta"
}
