#!/bin/bash
# Not run but sourced by image/test: power cuts. QEMU is killed after a number of its processors' seconds that is drawn; its disk is then a
# qcow2 on top of what was there, whose tables QEMU keeps in memory until the guest flushes: what was not flushed is lost or torn, as on a disk with a cache.
# shellcheck disable=SC2034,SC2154  # variables of image/test
: "${work:?}" "${image:?}" "${out:?}" "${role:?}" "${version:?}"

draw() { # FROM TO: a number of hundredths between these seconds
  echo $(($1 * 100 + RANDOM % (($2 - $1) * 100 + 1)))
}

cpu_hundredths() { # of QEMU so far
  awk -v tick="$(getconf CLK_TCK)" '{ sub(/^.*\) /, ""); printf "%.0f\n", ($12 + $13) * 100 / tick }' "/proc/$machine/stat"
}

on_top() { # of $work/cuts.raw, until `settle`; sets `disk`
  disk=$work/cuts.qcow2
  rm -f "$disk"
  qemu-img create -q -f qcow2 -b "$work/cuts.raw" -F raw "$disk"
}

settle() { # what came of it is what the next one begins with
  qemu-img commit -q "$work/cuts.qcow2"
  rm "$work/cuts.qcow2"
  disk=$work/cuts.raw
}

cut_after() { # HUNDREDTHS WHAT: the power goes
  local until=$((SECONDS + 600))
  while [ "$(cpu_hundredths)" -lt "$1" ] && [ "$SECONDS" -lt "$until" ] && kill -0 "$machine" 2>/dev/null; do sleep 0.05; done
  local was_running=''
  ! kill -KILL "$machine" 2>/dev/null || was_running=yes
  wait "$machine" 2>/dev/null || true
  machine=''
  settle
  [ -n "$was_running" ] || { step "it started itself anew before it was cut; slots: $(slots_now)"; return 0; }
  cuts=$((cuts + 1))
  step "cut $cuts: $2, after $(($1 / 100)).$(printf %02d $(($1 % 100))) s of CPU; slots: $(slots_now)"
}

slots_now() { # nothing while there is no ESP
  rm -f "$work/grubenv"
  mcopy -n -i "$disk@@${esp_at}M" ::/grub/grubenv "$work/grubenv" 2>/dev/null && grub-editenv "$work/grubenv" list | tr '\n' ' '
}

start_on_top() { # [QEMU'S ARGUMENTS...]: with the second disk
  on_top
  start cuts bios "${drives[@]}" "$@"
}

crashed() { # whether QEMU itself did, as 7.2 does now and then: one more cut
  local status=0
  ! kill -0 "$machine" 2>/dev/null || return 1
  wait "$machine" 2>/dev/null || status=$?
  [ $status = 139 ] || return 1
  machine=''
  settle
  cuts=$((cuts + 1))
  step "cut $cuts: QEMU crashed; slots: $(slots_now)"
}

runs_again() { # a start that nobody cuts: it ends in a slot that is good, with its identity and its link
  start_on_top
  until await_line cuts "sluice: ready ROLE=$role VERSION=(third|next|$version) SLOT=[AB] " 1800 && await_line cuts 'sluice: link up' 600; do
    crashed || return 1
    start_on_top
  done
  stop_machine
  settle
  [[ $(slots_now) = *" $(grep -aoE 'SLOT=[AB]' "$work/cuts.serial" | tail -n 1 | cut -d = -f 2)_state=good "* ]] ||
    { echo "it runs from a slot that is not good: $(slots_now)" >&2; return 1; }
}

# Seconds of CPU that the phases take here, as uncut runs of the same test have shown, with some more: a cut after the end is a cut, too.
install_least=12 install_most=110 start_least=4 start_most=60 trial_least=4 trial_most=75

cut_installation() {
  local count
  stick=$work/stick.raw
  cp --sparse=always "$out/sluice-$role-$version.iso" "$stick"
  { printf 'erase = "everything"\n'; cat "$work/site.toml"; } >"$work/stick.toml"
  mapfile -t lines <"$work/stick.toml"
  put_site_file "${lines[@]}"
  rm -f "$work/cuts.raw"
  truncate -s 8G "$work/cuts.raw"
  stick_drive=(-device qemu-xhci -device "usb-storage,drive=stick,bootindex=0" -drive "if=none,id=stick,format=raw,file=$stick,cache=unsafe")
  for ((count = 0; count < 4; count++)); do
    on_top
    start_machine cuts uefi "$disk" "${stick_drive[@]}"
    cut_after "$(draw $install_least $install_most)" 'installing'
  done
  on_top
  start_machine cuts uefi "$disk" "${stick_drive[@]}"
  await_line cuts 'sluice: INSTALLED on' 900
  timeout 120 tail --pid="$machine" -f /dev/null || { echo "it did not switch itself off" >&2; return 1; }
  machine=''
  settle
  rm "$stick"
}

cut_first_start() {
  local count
  for ((count = 0; count < 4; count++)); do
    start_on_top
    if [ $count = 0 ]; then
      # A PIN, for the page later on; only then can it enrol.
      await_line cuts 'PIN +[0-9]' 600
      pin_shown=$(last_pin cuts)
      start_centre
      cut_after $(($(cpu_hundredths) + $(draw 0 15))) 'first start, enrolling'
    else
      cut_after "$(draw $start_least $start_most)" 'first start'
      ! grep -aq 'PIN  ' "$work/cuts.serial" || pin_shown=$(last_pin cuts)
    fi
  done
}

begin_replicating() {
  start_on_top
  await_line cuts 'sluice: link up' 600
  ! grep -aq 'PIN  ' "$work/cuts.serial" || pin_shown=$(last_pin cuts)
  enter_page "$pin_shown"
  add_volume
  stop_machine
  settle
}

cut_putting() { # of a trial: part of the slot is written, then all of it but not what makes it one
  local next=$out/sluice-$role-next.slot count
  for ((count = 0; count < 3; count++)); do
    dd if="$next" of="$disk" bs=1M seek="$slot_b_at" count=$((1 + RANDOM % 420)) conv=notrunc status=none
    [ $count != 2 ] || put_slot_words B "$next.cfg"
    cuts=$((cuts + 1))
    step "cut $cuts: putting a version into slot B"
    runs_again
    grubenv_is A_state=good
  done
}

cut_trial() { # COUNT FROM TO WHAT
  local count
  for ((count = 0; count < $1; count++)); do
    set_grubenv 'order=A B' A_state=good A_tries=0
    put_trial next
    start_on_top
    cut_after "$(draw "$2" "$3")" "$4"
    runs_again
  done
}

# A release that the gateway brings: asked for, installed, tried. What is cut twice while it is tried is left, as any other that does not get there.
cut_upgrade() {
  local before=$cuts
  import_running "$version" "$sequence"
  import_running next $((sequence + 1))
  at_office release import "$out/sluice-$role-third.sluice-release"
  at_office rollout start third --site branch --soak 0 --reason test
  while [ "$cuts" -lt $((before + 6)) ]; do
    start_on_top -no-reboot
    cut_after "$(draw 25 140)" 'upgrade over the line'
  done
  # Uncut, it comes to an end by itself: confirmed, or left.
  local until=$((SECONDS + 3600))
  until rollout_is 'done' || rollout_is stopped; do
    [ "$SECONDS" -lt "$until" ] || { echo "the roll-out does not end: $(at_office rollout show)" >&2; return 1; }
    start_on_top -no-reboot
    while kill -0 "$machine" 2>/dev/null && ! rollout_is 'done' && ! rollout_is stopped && [ "$SECONDS" -lt "$until" ]; do sleep 1; done
    stop_machine
    settle
  done
  step "the roll-out ended: $(at_office rollout show --json | grep -oE '"state": *"[a-z]+"' | head -n 1); slots: $(slots_now)"
}

test_cuts() {
  local drives second=$work/cuts.second cuts=0 disk_cache=writeback
  RANDOM=$seed
  step "cuts: --seed $seed"
  build_next
  build_third
  make_branch_disk "$second" 96
  new_centre 10.0.2.2 "$(free_port)"
  trust_releases
  write_site_file "$work/site.toml" '[edge]' 'rate = "2 Mbit/s"'
  second_drive "$second"
  cut_installation
  cut_first_start
  begin_replicating
  cut_putting
  cut_trial 5 "$trial_least" "$trial_most" 'trial'
  cut_trial 4 40 "$trial_most" 'trial, near its confirmation'
  cut_upgrade
  runs_again
  start_on_top
  await_generation 1 1800
  stop_machine
  settle
  same_as_rebuilt "$second"
  more="\"cuts\":$cuts,\"seed\":$seed"
}
