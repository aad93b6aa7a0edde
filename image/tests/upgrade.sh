#!/bin/bash
# Not run but sourced by image/test: a release that a gateway rolls out over a thin line.
# shellcheck disable=SC2034,SC2154  # variables of image/test
: "${work:?}" "${image:?}" "${out:?}" "${role:?}" "${version:?}"

at_office() { "${in_office[@]}" "$gateway_binary" "$1" "$2" --state "$centre" "${@:3}"; } # COMMAND WHAT [ARGUMENTS...]

office_metric() { # NAME: its value, whatever its labels; nothing if there is none
  "${in_office[@]}" curl -sf --max-time 10 "http://127.0.0.1:$centre_port/metrics" | awk -v name="$1" '$1 ~ "^" name "([{]|$)" { print $2; exit }'
}

await_at_office() { # SECONDS WHAT COMMAND...: until it succeeds
  local until=$((SECONDS + $1)) what=$2
  shift 2
  until "$@"; do
    [ "$SECONDS" -lt "$until" ] || { echo "not within its time: $what" >&2; return 1; }
    kill -0 "$machine" || return 1
    sleep 1
  done
}

trust_releases() { # the gateway takes what is signed as the images here
  printf '\n[releases]\nkeys = ["%s"]\n' "$("$binaries/sluice-release" public "$out/release.key")" >>"$centre/gateway.toml"
}

import_running() { # VERSION SEQUENCE: what a box runs is the base of its upgrade, and the gateway has to know it
  local name=$out/sluice-$role-$1
  "$binaries/sluice-release" pack --slot "$name.slot" --bytes "$(sed -n 's/^set slot_offset=//p' "$name.slot.cfg")" \
    --salt "$(sed -n 's/^verity_salt=//p' "$image/lib/slot.sh")" --role "$role" --version "$1" --sequence "$2" --key "$out/release.key" --level 1 \
    --out "$work/running.sluice-release"
  at_office release import "$work/running.sluice-release"
  rm "$work/running.sluice-release"
}

rollout_is() { at_office rollout show --json 2>/dev/null | grep -q "\"state\": *\"$1\""; } # STATE

metric_is() { [ "$(office_metric "$1")" = "$2" ]; } # NAME VALUE

# A box at the end of a line of 2 Mbit/s. Its gateway rolls out a version that is well, and then one whose daemon does not run.
test_upgrade() {
  local drives machine_restarts=yes in_office came
  build_next
  mkdir -p "$work/broken"
  cp "$binaries"/sluice-{box,release} "$work/broken/"
  cp /bin/false "$work/broken/sluice-$role"
  build broken --binaries "$work/broken" --sequence $((sequence + 3)) --until release
  new_disk upgrade
  # A box that does not get ready is left after three minutes, instead of a quarter of an hour.
  echo 'set machine=sluice.trial_seconds=180' >"$work/machine.cfg"
  mcopy -o -i "$disk@@${esp_at}M" "$work/machine.cfg" ::/grub/machine.cfg
  start_line 2mbit --delay 40ms
  in_branch=(ip netns exec "$branch")
  in_office=(ip netns exec "$office")
  new_centre 10.99.0.2 9470
  trust_releases
  make_site_volume "$work/site.img" '[edge]' 'rate = "2 Mbit/s"'
  site_drive "$work/site.img"
  start_centre "${in_office[@]}"
  start upgrade bios "${drives[@]}"
  await_line upgrade "sluice: link up VERSION=$version" 900

  import_running "$version" "$sequence"
  at_office release import "$out/sluice-$role-next.sluice-release"
  at_office release import "$out/sluice-$role-broken.sluice-release"
  at_office rollout start next --site branch --soak 0 --reason test
  await_line upgrade "sluice: ready ROLE=edge VERSION=next SLOT=B " 2400
  await_line upgrade 'sluice: link up VERSION=next' 600
  await_at_office 300 'the roll-out is done' rollout_is 'done'
  came=$(office_metric sluice_gateway_release_bytes_total)
  last_is_in_office next confirmed

  at_office rollout start broken --site branch --soak 0 --reason test
  await_line upgrade 'sluice: version broken in slot A was tried and left' 6000
  await_at_office 600 'the roll-out has stopped by itself' rollout_is stopped
  await_at_office 300 'a metric says that a trial failed' metric_is sluice_gateway_site_trial_failed 1
  cpu=$(cpu_seconds)
  more="\"upgrade_bytes\":$came"
  stop_machine
  grubenv_is B_state=good A_state=bad
}

last_is_in_office() { # VERSION RESULT: of the site's history
  at_office release site branch | grep -q "$1.*$2" || { at_office release site branch >&2; return 1; }
}
