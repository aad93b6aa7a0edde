#!/bin/bash
# Not run but sourced: GRUB on a file, as grub-install would put it on a disk: no loop device, no mount.

grub_pc=/usr/lib/grub/i386-pc

le() { # NUMBER BYTES: little endian, as printf takes it
  local number=$1 bytes=$2
  for ((; bytes > 0; bytes--, number >>= 8)); do printf '\\x%02x' $((number & 255)); done
}

patch_bytes() { # FILE OFFSET BYTES...
  local file=$1 at=$2 bytes
  shift 2
  printf -v bytes '%s' "$@"
  printf '%b' "$bytes" | dd of="$file" bs=1 seek="$at" conv=notrunc status=none
}

# The boot sector loads the first sector of the core, which loads the others.
install_bios_core() { # DISK CORE WORK [SECTOR]: CORE goes to SECTOR, where a BIOS boot partition begins
  local disk=$1 core=$2 sector=${4:-2048} boot=$3/boot.img sectors
  sectors=$((($(stat -c %s "$core") + 511) / 512))
  [ "$sectors" -le 2048 ] || { echo "GRUB's core needs $sectors sectors, its partition has 2048" >&2; return 1; }
  head -c 440 "$grub_pc/boot.img" >"$boot"
  patch_bytes "$boot" $((0x5c)) "$(le "$sector" 8)" # where the core begins
  patch_bytes "$boot" $((0x66)) '\x90\x90'          # believe the drive that the BIOS names
  patch_bytes "$core" $((0x1f4)) "$(le $((sector + 1)) 8)" "$(le $((sectors - 1)) 2)" "$(le $((0x820)) 2)" # its rest: where, how much, where to
  dd if="$boot" of="$disk" conv=notrunc status=none
  dd if="$core" of="$disk" bs=512 seek="$sector" conv=notrunc status=none
}
