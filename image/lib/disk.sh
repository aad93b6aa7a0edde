#!/bin/bash
# Not run but sourced: a disk with everything on it. All sizes in MiB.
# `image` is the folder image/.
: "${image:?}"
#
#   1  BIOS boot, at LBA 2048: GRUB's core
#   2  ESP: GRUB for UEFI, its configuration, the state of the slots
#   3  slot A    4  slot B
#   5  data: grows at the first start (rootfs/usr/lib/sluice/grow-data)

esp_mib=64 slot_mib=2048 data_mib=512
esp_at=2
slot_a_at=$((esp_at + esp_mib))
slot_b_at=$((slot_a_at + slot_mib))
data_at=$((slot_b_at + slot_mib))
disk_mib=$((data_at + data_mib + 1)) # the last is the second GPT's

# Fixed, so that the same inputs give the same disk; a box gives its disk ids of its own at its first start.
disk_id() { printf '51ce0000-0000-4000-8000-%012d' "$1"; }

grub_modules=(part_gpt part_msdos fat squash4 normal configfile loadenv linux serial terminal echo test true eval regexp probe sleep reboot minicmd)

make_table() { # DISK
  rm -f "$1"
  truncate -s "${disk_mib}M" "$1"
  sgdisk -a 2048 -U "$(disk_id 0)" \
    -n 1:1M:+1M -t 1:ef02 -c 1:sluice-bios -u "1:$(disk_id 1)" \
    -n "2:${esp_at}M:+${esp_mib}M" -t 2:ef00 -c 2:sluice-esp -u "2:$(disk_id 2)" \
    -n "3:${slot_a_at}M:+${slot_mib}M" -t 3:8304 -c 3:sluice-a -u "3:$(disk_id 3)" \
    -n "4:${slot_b_at}M:+${slot_mib}M" -t 4:8304 -c 4:sluice-b -u "4:$(disk_id 4)" \
    -n "5:${data_at}M:+${data_mib}M" -t 5:8300 -c 5:sluice-data -u "5:$(disk_id 5)" "$1" >/dev/null
}

make_esp() { # FILE META WORK: slot A is as good as it is, slot B has nothing
  local esp=$1 meta=$2 work=$3/esp
  rm -rf "$work"
  mkdir -p "$work"
  cp "$image/grub/grub.cfg" "$image/grub/start.cfg" "$work/"
  cp "$meta" "$work/slot-A.cfg"
  : >"$work/slot-B.cfg"
  grub-editenv "$work/grubenv" create
  grub-editenv "$work/grubenv" set 'order=A B' A_state=good A_tries=0 B_state=empty B_tries=0
  grub-mkimage -O x86_64-efi -p /grub -o "$work/BOOTX64.EFI" "${grub_modules[@]}" all_video efi_gop
  find "$work" -exec touch -hd "@$SOURCE_DATE_EPOCH" {} +
  rm -f "$esp"
  truncate -s "${esp_mib}M" "$esp"
  mformat -i "$esp" -F -N 51ce0000 -v SLUICE-ESP ::
  mmd -i "$esp" ::/EFI ::/EFI/BOOT ::/grub
  mcopy -m -i "$esp" "$work/BOOTX64.EFI" ::/EFI/BOOT/
  mcopy -m -i "$esp" "$work"/{grub.cfg,start.cfg,slot-A.cfg,slot-B.cfg,grubenv} ::/grub/
}

make_data() { # FILE: empty; the box lays it out at its first start
  rm -f "$1"
  truncate -s "${data_mib}M" "$1"
  mke2fs -q -t ext4 -L sluice-data -m 1 -U "$(disk_id 5)" -E "hash_seed=$(disk_id 5),lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0" "$1"
}

put_at() { # FILE DISK MIB
  dd if="$1" of="$2" bs=1M seek="$3" conv=notrunc,sparse status=none
}

make_disk() { # SLOT META DISK WORK
  local slot=$1 meta=$2 disk=$3 work=$4
  [ "$(stat -c %s "$slot")" -le $((slot_mib << 20)) ] || die "the slot image has $(stat -c %s "$slot") bytes, a slot $((slot_mib << 20))"
  make_table "$disk"
  make_esp "$work/esp.img" "$meta" "$work"
  make_data "$work/data.img"
  grub-mkimage -O i386-pc -p '(,gpt2)/grub' -o "$work/core.img" biosdisk "${grub_modules[@]}"
  install_bios_core "$disk" "$work/core.img" "$work"
  put_at "$work/esp.img" "$disk" "$esp_at"
  put_at "$slot" "$disk" "$slot_a_at"
  put_at "$work/data.img" "$disk" "$data_at"
  rm -f "$work"/{esp,data,core}.img
}
