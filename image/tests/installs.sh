#!/bin/bash
# Not run but sourced by image/test: the installer on a stick.
# shellcheck disable=SC2034,SC2154  # variables of image/test
: "${work:?}" "${image:?}" "${out:?}" "${role:?}" "${version:?}"

run_installer() { # NAME LINE [QEMU'S ARGUMENTS...]: with `stick`, on `disk`; until LINE
  start_machine "$1" uefi "$disk" -device qemu-xhci -device usb-storage,drive=stick,bootindex=0 \
    -drive "if=none,id=stick,format=raw,file=$stick,cache=unsafe" "${@:3}"
  await_line "$1" "$2" 900
}

put_site_file() { # LINES...: onto the stick's own partition for it
  local start
  start=$(sfdisk -d "$stick" | sed -nE 's/.*raw3 : start= *([0-9]+).*/\1/p')
  printf '%s\n' "$@" >"$work/sluice.toml"
  mcopy -o -i "$stick@@$((start * 512))" "$work/sluice.toml" ::/sluice.toml
}

test_install() {
  stick=$work/stick.raw disk=$work/install.raw
  cp --sparse=always "$out/sluice-$role-$version.iso" "$stick"
  truncate -s 10G "$disk"
  dd if=/dev/urandom of="$disk" bs=1M seek=5100 count=64 conv=notrunc status=none # no signature, and far inside
  cp --sparse=always "$disk" "$work/before.raw"
  put_site_file '[network]' 'address = "10.0.2.15/24"' 'gateway = "10.0.2.2"'
  run_installer install 'sluice: NOT INSTALLED: /dev/sd[ab] has data on it'
  stop_machine
  cmp "$disk" "$work/before.raw" || { echo "the disk was written to" >&2; return 1; }
  rm "$work/before.raw"
  put_site_file 'erase = "everything"' '[network]' 'address = "10.0.2.15/24"' 'gateway = "10.0.2.2"'
  run_installer install 'sluice: INSTALLED on /dev/sd[ab]'
  cpu=$(cpu_seconds)
  timeout 120 tail --pid="$machine" -f /dev/null || { echo "it did not switch itself off" >&2; return 1; }
  rm "$stick"
  start install bios
  await_ready install A "$version" 600
  page_answers
  stop_machine
  grubenv_is A_state=good A_tries=0
}
