#!/bin/bash
# Not run but sourced by image/test: the first start by both firmwares, and a power cut right after it.
# shellcheck disable=SC2034,SC2154  # variables of image/test
: "${work:?}" "${image:?}" "${out:?}" "${role:?}" "${version:?}"

first_start() { # FIRMWARE
  new_disk "$1"
  start "$1" "$1"
  await_ready "$1" A "$version" 600
  cpu=$(cpu_seconds)
  used=$(grep -aoE 'USED_MIB=[0-9]+' "$work/$1.serial" | tail -n 1 | cut -d = -f 2)
  page_answers
  stop_machine
  grubenv_is A_state=good A_tries=0
  sgdisk -v "$disk" | grep -q 'No problems found' || { echo "the partition table is not whole" >&2; return 1; }
  [ "$(sgdisk -i 5 "$disk" | awk '/^Last sector/ { print $3 }')" -gt $((7 << 21)) ] || { echo "the data partition did not grow" >&2; return 1; }
}

test_bios() { first_start bios; }

test_uefi() { first_start uefi; }

test_power() {
  new_disk power
  start power bios
  await_ready power A "$version" 600
  kill -KILL "$machine" # no file system below is told
  wait "$machine" 2>/dev/null || true
  start power bios
  await_ready power A "$version" 600
  cpu=$(cpu_seconds)
  page_answers # the configuration that the first start made is there
  stop_machine
  grubenv_is A_state=good A_tries=0
}
