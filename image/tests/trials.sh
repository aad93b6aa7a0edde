#!/bin/bash
# Not run but sourced by image/test: a new version in slot B, which is kept or left.
# shellcheck disable=SC2034,SC2154  # variables of image/test
: "${work:?}" "${image:?}" "${out:?}" "${role:?}" "${version:?}" "${slot_b_at:?}"

test_small() { # what a release of the same binaries changes: list of files, hash of the version's own file
  local first=$out/sluice-$role-$version.slot second=$out/sluice-$role-tasted.slot blocks
  build tasted --binaries "$binaries" --until slot
  # cmp says bytes; what counts are blocks of 4 KiB before the hash tree, which a box computes itself.
  blocks=$({ cmp -l -n "$(sed -n 's/^set slot_offset=//p' "$first.cfg")" "$first" "$second" || [ $? = 1 ]; } |
    awk '{ block = int(($1 - 1) / 4096); if (block != last) count++; last = block } END { print count + 0 }')
  rm "$second"
  more="\"blocks_changed\":$blocks"
  [[ $blocks -ge 1 && $blocks -le 8 ]] || { echo "$blocks blocks differ between two versions of the same binaries" >&2; return 1; }
}

test_trial() {
  build_next
  new_disk trial
  put_trial next
  start trial bios
  await_ready trial B next 900
  cpu=$(cpu_seconds)
  stop_machine
  grubenv_is 'order=B A' B_state=good B_tries=0 A_state=good
  last_is '{"version":"next","slot":"B","result":"confirmed","why":"","line_down":false,"at":1*'
}

falls_back() { # NAME VERSION WHY: from slot B to A, after two tries
  local machine_restarts=yes
  start "$1" bios
  await_ready "$1" A "$version" 1800
  cpu=$(cpu_seconds)
  stop_machine
  said_times "$1" "sluice: version $2 in slot B was tried and left: .*$3" 1
  grubenv_is B_state=bad A_state=good A_tries=0
  last_is "{\"version\":\"$2\",\"slot\":\"B\",\"result\":\"fell back\",\"why\":\"*$3*\",\"line_down\":false,*"
}

never_ready() { # NAME: with a daemon from $work/broken
  build broken --binaries "$work/broken" --until slot
  new_disk "$1"
  put_trial broken sluice.trial_seconds=90
  falls_back "$1" broken 'after 90 s the daemon is not ready: it does not answer'
  said_times "$1" 'sluice: slot B is left' 2
  rm "$out/sluice-$role-broken.slot"
}

test_unready() {
  mkdir -p "$work/broken"
  cp "$binaries"/sluice-{box,release} "$work/broken/"
  cp /bin/false "$work/broken/sluice-$role"
  never_ready unready
}

test_hangs() {
  mkdir -p "$work/broken"
  cp "$binaries"/sluice-{box,release} "$work/broken/"
  printf '#include <unistd.h>\nint main(void) { for (;;) pause(); }\n' | cc -O -x c -o "$work/broken/sluice-$role" -
  never_ready hangs
}

test_damaged() {
  local file at
  build_next
  new_disk damaged
  put_trial next
  # The firmware of a card that is not there: no start reads it, only who reads everything.
  file=$(find "$base/usr/lib/firmware/bnx2x" -name '*e2-7.13*' | sort | head -n 1)
  at=$(python3 -c 'import mmap, sys
with open(sys.argv[1], "rb") as slot, open(sys.argv[2], "rb") as file:
    print(mmap.mmap(slot.fileno(), 0, prot=mmap.PROT_READ).find(file.read()))' "$out/sluice-$role-next.slot" "$file")
  [ "$at" -gt 0 ] || { echo "there is no $file in the slot" >&2; return 1; }
  printf '\377' | dd of="$disk" bs=1 seek=$(((slot_b_at << 20) + at + 100)) conv=notrunc status=none
  falls_back damaged next 'it started and did not get to its end'
}
