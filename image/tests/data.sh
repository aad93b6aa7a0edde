#!/bin/bash
# Not run but sourced by image/test: disks that are full, damaged or about to fail.
# shellcheck disable=SC2034,SC2154  # variables of image/test
: "${work:?}" "${image:?}" "${out:?}" "${role:?}" "${version:?}"

on_mounted_data() { # COMMAND...: with the data partition of `disk`, which is not running, in the folder $work/mounted
  local status=0
  mkdir -p "$work/mounted"
  mount -o "loop,offset=$((data_at << 20))" "$disk" "$work/mounted"
  "$@" || status=$?
  umount "$work/mounted"
  return $status
}

fill() { # up to 8 MiB
  local left
  left=$(df --output=avail -BM "$work/mounted" | tail -n 1 | tr -dc 0-9)
  fallocate -l $((left - 8))M "$work/mounted/filler"
}

test_full() {
  new_disk full
  start full bios
  await_line full 'sluice: a reserve of 64 MiB was made on data' 600
  await_ready full A "$version" 600
  stop_machine
  on_mounted_data fill
  start full bios
  await_line full 'sluice: data is full: [0-9]+ MiB were left; a reserve of 64 MiB was given up' 600
  await_ready full A "$version" 600
  cpu=$(cpu_seconds)
  stop_machine
  on_mounted_data test ! -e "$work/mounted/ballast"
  on_mounted_data rm "$work/mounted/filler"
  start full bios
  await_line full 'sluice: a reserve of 64 MiB was made on data' 600
  stop_machine
}

# Damage that `fsck -a` leaves to a person; nobody is there.
test_fsck() {
  local data=$work/data.img
  new_disk fsck
  start fsck bios
  await_ready fsck A "$version" 600
  stop_machine
  on_mounted_data touch "$work/mounted/kept"
  dd if="$disk" of="$data" bs=1M skip="$data_at" conv=sparse status=none
  debugfs -w -R 'set_inode_field <11> mode 0100644' "$data" 2>/dev/null # lost+found is no folder any more
  debugfs -w -R 'set_super_value state 0' "$data" 2>/dev/null
  ! e2fsck -p "$data" >/dev/null 2>&1 || { echo "that is no damage" >&2; return 1; }
  debugfs -w -R 'set_inode_field <11> mode 0100644' "$data" 2>/dev/null
  debugfs -w -R 'set_super_value state 0' "$data" 2>/dev/null
  put_at "$data" "$disk" "$data_at"
  start fsck bios
  await_ready fsck A "$version" 600
  cpu=$(cpu_seconds)
  stop_machine
  on_mounted_data test -e "$work/mounted/kept"
  local at # every copy of the superblock: fsck makes something of a partition that has one
  for ((at = data_at; at < $(stat -c %s "$disk") >> 20; at += 128)); do
    head -c 1M /dev/zero | tr '\0' '\377' | dd of="$disk" bs=1M seek="$at" conv=notrunc status=none
  done
  start fsck bios
  await_line fsck 'The data partition cannot be used: nothing is replicated' 600
  stop_machine
}

# A disk that says of itself that it is about to fail.
test_smart() {
  new_disk smart
  truncate -s 64M "$work/smart.second"
  start smart bios -drive "if=none,id=failing,format=raw,file=$work/smart.second" -device nvme,drive=failing,serial=failing,smart_critical_warning=4
  await_line smart 'sluice: disk: Device: /dev/nvme0, Critical Warning' 900
  await_ready smart A "$version" 600
  cpu=$(cpu_seconds)
  stop_machine
}
