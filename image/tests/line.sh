#!/bin/bash
# Not run but sourced by image/test: an edge and its gateway.
# shellcheck disable=SC2034,SC2154  # variables of image/test
: "${work:?}" "${image:?}" "${out:?}" "${role:?}" "${version:?}"

site_drive() { # FILE: QEMU's arguments for a volume named SLUICE
  # shellcheck disable=SC2054  # QEMU's commas
  drives=(-drive "if=none,id=site,format=raw,file=$1" -device scsi-hd,drive=site,bus=scsi.0)
}

free_port() { # of UDP and TCP, on the loopback
  python3 -c 'import socket
while True:
    with socket.socket() as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        tcp.bind(("127.0.0.1", 0))
        try:
            udp.bind(("0.0.0.0", tcp.getsockname()[1]))
        except OSError:
            continue
        print(tcp.getsockname()[1])
        break'
}

# What it costs from the machine's start until the gateway knows the box: a new disk, which enrols by its site's file, by both firmwares.
test_link() {
  local drives firmware
  new_centre 10.0.2.2 "$(free_port)"
  start_centre
  for firmware in bios uefi; do
    new_disk link
    make_site_volume "$work/site.img"
    site_drive "$work/site.img"
    start link "$firmware" "${drives[@]}"
    await_line link "sluice: link up VERSION=$version" 900
    cpu=$(cpu_seconds)
    more+="${more:+,}\"link_up_${firmware}_cpu_seconds\":$cpu"
    stop_machine
  done
}

# The same version, four times: without a line that comes back for the old one, without a line for both, with a line.
test_nolink() {
  local drives machine_restarts=yes
  build_next
  new_disk nolink
  new_centre 10.0.2.2 "$(free_port)"
  make_site_volume "$work/site.img"
  site_drive "$work/site.img"
  put_slot_words A "$out/sluice-$role-$version.slot.cfg" sluice.line_seconds=240

  start_centre
  start nolink bios "${drives[@]}"
  await_line nolink "sluice: link up VERSION=$version" 900
  stop_machine
  stop_centre
  [[ $(on_data /link-worked) = 1* ]] || { echo "nothing was written down of the link that worked" >&2; return 1; }

  put_trial next sluice.trial_seconds=90
  start nolink bios
  await_ready nolink A "$version" 1800
  said_times nolink 'sluice: slot B is left: after 90 s there is no link to the gateway' 2
  start_centre # in time: it was the release
  await_line nolink "sluice: link up VERSION=$version" 300
  stop_machine
  stop_centre
  grubenv_is B_state=bad A_state=good
  last_is '{"version":"next","slot":"B","result":"fell back","why":"after 90 s there is no link*","line_down":false,*'

  put_trial next sluice.trial_seconds=90
  start nolink bios
  await_line nolink 'was left for want of a link, but this one has none either' 1800
  stop_machine
  last_is '{"version":"next","slot":"B","result":"fell back","why":"*it was the line and not the release","line_down":true,*'

  start_centre
  put_trial next
  start nolink bios
  await_ready nolink B next 900
  cpu=$(cpu_seconds)
  stop_machine
  grubenv_is 'order=B A' B_state=good
  last_is '{"version":"next","slot":"B","result":"confirmed",*'
}

# Two namespaces with the lab's emulated line between them; QEMU's own network dials from the one, the gateway listens in the other.
start_line() { # RATE [OPTIONS OF WANEM...]
  local until=$((SECONDS + 60))
  if [ -z "$wanem" ]; then
    (cd "$image/.." && cargo build --locked --quiet -p lab --bin wanem)
    wanem=${CARGO_TARGET_DIR:-$image/../target}/debug/wanem
  fi
  branch=sluice-b-$$ office=sluice-o-$$
  ip netns add "$branch" && ip netns add "$office"
  ip -n "$branch" link set lo up && ip -n "$office" link set lo up
  "$wanem" --a "$branch" --b "$office" --rate "$@" </dev/null >"$work/wanem.log" 2>&1 &
  wanem_pid=$!
  until grep -qs '<->' "$work/wanem.log"; do
    if [ "$SECONDS" -ge "$until" ] || ! kill -0 "$wanem_pid" 2>/dev/null; then
      echo "there is no line: $(tail -n 5 "$work/wanem.log")" >&2
      return 1
    fi
    sleep 0.1
  done
}

stop_line() {
  [ -z "${wanem_pid:-}" ] || { kill "$wanem_pid" 2>/dev/null; wait "$wanem_pid" 2>/dev/null || true; }
  [ -z "${branch:-}" ] || { ip netns del "$branch"; ip netns del "$office"; } 2>/dev/null || true
  wanem_pid='' branch=''
}

make_branch_disk() { # FILE MIB: a file system with files, half of which packs well
  local files=$work/files
  mkdir -p "$files/pictures" "$files/letters"
  python3 -c 'import random, sys
folder, mib = sys.argv[1], int(sys.argv[2])
draw = random.Random(7)
words = ["".join(draw.choices("aeiounrstlmd", k=draw.randint(2, 9))) for _ in range(3000)]
for number in range(mib // 8):
    with open(f"{folder}/pictures/{number}.jpg", "wb") as file:
        file.write(draw.randbytes(1 << 20))
    for part in range(16):
        with open(f"{folder}/letters/{number}-{part}.txt", "w") as file:
            file.write(" ".join(draw.choices(words, k=20000)))' "$files" "$2"
  truncate -s "$2M" "$1"
  mke2fs -q -t ext4 -d "$files" "$1"
  rm -rf "$files"
}

page() { # PATH [CURL'S ARGUMENTS...]: of the box, with the session that enter_page began
  "${in_branch[@]}" curl -sSk --max-time 120 -b "$work/cookies" -c "$work/cookies" "https://127.0.0.1:$http$1" "${@:2}"
}

last_pin() { # NAME: that its screen shows; nothing if it shows none
  grep -aoE 'PIN +[0-9][0-9 ]+[0-9]' "$work/$1.serial" | tail -n 1 | tr -dc 0-9
}

enter_page() { # PIN; sets `csrf`
  local until=$((SECONDS + 300))
  rm -f "$work/cookies"
  until page /login >/dev/null 2>&1; do # what listens behind QEMU's port may come later
    [ "$SECONDS" -lt "$until" ] || { echo "the page does not answer" >&2; return 1; }
    sleep 1
  done
  page /login --data-urlencode "pin=$1" >/dev/null
  csrf=$(page / | grep -oE 'name="csrf" value="[^"]+"' | head -n 1 | cut -d '"' -f 4)
  [ -n "$csrf" ] || { echo "the page did not let the PIN in" >&2; return 1; }
}

add_volume() { # the second disk, by the page
  page /volumes --data-urlencode "csrf=$csrf" --data-urlencode name=disk \
    --data-urlencode 'source=block:/dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_branch-disk' >/dev/null
}

second_drive() { # FILE: adds it to QEMU's arguments in `drives`
  # shellcheck disable=SC2054  # QEMU's commas
  drives+=(-drive "if=none,id=second,format=raw,file=$1,readonly=on" -device scsi-hd,drive=second,bus=scsi.0,serial=branch-disk)
}

generations() { # how many of the volume `disk` the gateway has whole
  { at_centre generations --json branch/disk 2>/dev/null || echo '{}'; } | python3 -c 'import json, sys
print(sum(1 for one in json.load(sys.stdin).get("generations", []) if one.get("sealed")))'
}

await_generation() { # COUNT SECONDS
  local until=$((SECONDS + $2))
  until [ "$(generations)" -ge "$1" ]; do
    [ "$SECONDS" -lt "$until" ] || { echo "the gateway had $(generations) generations after $2 s" >&2; return 1; }
    kill -0 "$machine" || return 1
    sleep 1
  done
}

same_as_rebuilt() { # DISK
  rm -f "$work/rebuilt.raw"
  at_centre rehydrate --volume branch/disk --to "$work/rebuilt.raw" >"$work/rehydrate.log" 2>&1 || { tail -n 5 "$work/rehydrate.log" >&2; return 1; }
  cmp "$1" "$work/rebuilt.raw"
  rm "$work/rebuilt.raw"
}

test_replicate() {
  local drives second=$work/replicate.second began mib=200
  make_branch_disk "$second" "$mib"
  new_disk replicate
  start_line 10mbit --delay 20ms
  in_branch=(ip netns exec "$branch")
  new_centre 10.99.0.2 9470
  make_site_volume "$work/site.img" '[edge]' 'rate = "10 Mbit/s"'
  site_drive "$work/site.img"
  second_drive "$second"
  start replicate bios "${drives[@]}"
  await_line replicate 'PIN +[0-9]' 600 # before it belongs to somebody; then it enrols by itself
  enter_page "$(last_pin replicate)"
  start_centre ip netns exec "$office"
  await_line replicate "sluice: link up VERSION=$version" 600
  began=$SECONDS
  add_volume
  await_generation 1 1800
  cpu=$(cpu_seconds)
  more="\"disk_mib\":$mib,\"crossed_seconds\":$((SECONDS - began))"
  same_as_rebuilt "$second"
}
