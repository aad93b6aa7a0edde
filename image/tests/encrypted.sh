#!/bin/bash
# Not run but sourced by image/test: data that is encrypted, with a TPM (swtpm) and without.
# shellcheck disable=SC2034,SC2054,SC2154  # variables of image/test; QEMU has commas
: "${work:?}" "${image:?}" "${out:?}" "${role:?}" "${version:?}"

passphrase='correct horse battery'

start_tpm() { # FOLDER: that of a chip; ends with the machine that it is in; sets `tpm_words`
  mkdir -p "$1"
  swtpm socket --tpm2 --tpmstate "dir=$1" --ctrl "type=unixio,path=$1/socket" --flags not-need-init,startup-clear --terminate --daemon
  tpm_words=(-chardev "socket,id=chip,path=$1/socket" -tpmdev emulator,id=tpm,chardev=chip -device tpm-tis,tpmdev=tpm)
}

start_encrypted() { # [CHIP]
  local tpm_words=()
  [ -z "${1:-}" ] || start_tpm "$1"
  start encrypted uefi "${tpm_words[@]}"
}

opens_by_itself() { # CHIP
  start_encrypted "$1"
  await_ready encrypted A "$version" 600
  await_line encrypted 'data +encrypted, opened by the TPM' 300
  ! grep -aq 'Passphrase' "$work/encrypted.serial" || { echo "it asked for the passphrase, though it has the TPM" >&2; return 1; }
}

test_encrypted() {
  local tpm_words=()
  need swtpm
  stick=$work/stick.raw disk=$work/encrypted.raw
  cp --sparse=always "$out/sluice-$role-$version.iso" "$stick"
  truncate -s 10G "$disk"
  put_site_file '[data]' "passphrase = \"$passphrase\"" '[network]' 'address = "10.0.2.15/24"' 'gateway = "10.0.2.2"'
  start_tpm "$work/chip"
  run_installer encrypted 'sluice: INSTALLED on /dev/sd[ab]' "${tpm_words[@]}"
  grep -aq 'sluice: data is encrypted; the TPM of this machine opens it' "$work/encrypted.serial" ||
    { echo "it does not say how data is opened: $(grep -a 'sluice: ' "$work/encrypted.serial")" >&2; return 1; }
  timeout 120 tail --pid="$machine" -f /dev/null || { echo "it did not switch itself off" >&2; return 1; }
  rm "$stick"
  put_slot_words A "$out/sluice-$role-$version.slot.cfg"
  opens_by_itself "$work/chip" # nobody types
  cpu=$(cpu_seconds)
  page_answers
  stop_machine
  # On the disk there is nothing that anybody can read.
  dd if="$disk" of="$work/data.img" bs=1M skip="$data_at" conv=sparse status=none
  [ "$(blkid -p -s TYPE -o value "$work/data.img")" = crypto_LUKS ] || { echo "the data partition is not encrypted" >&2; return 1; }
  ! grep -aqE 'edge\.toml|sluice-data-unfinished|10\.0\.2\.2' "$work/data.img" || { echo "the data partition can be read" >&2; return 1; }
  rm "$work/data.img"

  start_encrypted # the disk in a machine that has no TPM
  talk encrypted <<EOF
see 600 Passphrase, then Enter
see 60 请输入口令
type wrong horse battery\\r
see 300 This is not the passphrase
unseen horse
see 60 Passphrase, then Enter
type $passphrase\\r
see 300 It is the passphrase
unseen horse
see 600 EACH START needs somebody who types the passphrase
EOF
  await_ready encrypted A "$version" 600
  stop_machine

  start_encrypted "$work/chip-2" # a new board
  talk encrypted <<EOF
see 600 Passphrase, then Enter
type $passphrase\\r
see 300 It is the passphrase
EOF
  await_ready encrypted A "$version" 600
  stop_machine
  opens_by_itself "$work/chip-2" # the new one has learnt it
  stop_machine
}

# A disk image, which nobody installs, is encrypted at its first start, before anything is kept.
test_encrypted_image() {
  new_disk encrypted_image
  rm -f "$work/site.raw"
  truncate -s 16M "$work/site.raw"
  mformat -i "$work/site.raw" -v SLUICE ::
  printf '[data]\npassphrase = "%s"\n' "$passphrase" >"$work/sluice.toml"
  mcopy -i "$work/site.raw" "$work/sluice.toml" ::/sluice.toml
  machine_restarts=yes start encrypted_image bios -drive "if=none,id=site,format=raw,file=$work/site.raw" -device scsi-hd,drive=site,bus=scsi.0
  await_line encrypted_image 'sluice: data is encrypted; somebody has to type the passphrase AT EACH START' 600
  await_line encrypted_image 'Passphrase, then Enter' 600 # of the next start
  talk encrypted_image <<EOF
type $passphrase\\r
see 300 It is the passphrase
EOF
  await_ready encrypted_image A "$version" 600
  cpu=$(cpu_seconds)
  stop_machine
  ! grep -aqF "$passphrase" "$disk" || { echo "the passphrase lies on the disk in the clear" >&2; return 1; }
}
