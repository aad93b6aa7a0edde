#!/bin/bash
# Not run but sourced by tests: a gateway on this machine, which a box in QEMU reaches at 10.0.2.2 (QEMU's own network), and the
# site's file that leads the box there.

: "${work:?}" "${gateway_binary:?}"
centre=$work/centre

new_centre() { # ADDRESS PORT: its state, and where boxes find it
  rm -rf "$centre"
  "$gateway_binary" init --state "$centre" --tenant bank --address "$1:$2" >/dev/null
  sed -i "s|^# listen = .*:9470.*|listen = [\"[::]:$2\"]|; s|^# http = .*|http = \"127.0.0.1:$2\"|; s|^# listen = \"127.0.0.1:9443\"|listen = \"off\"|" "$centre/gateway.toml"
  grep -qx "listen = \[\"\[::\]:$2\"\]" "$centre/gateway.toml" || { echo "the gateway's configuration has another form" >&2; return 1; }
  centre_port=$2
}

start_centre() { # [COMMAND...]: before the gateway's own, such as one that leads into a namespace; waits until it is ready
  local until=$((SECONDS + 120)) in=("$@")
  "${in[@]}" "$gateway_binary" run --state "$centre" </dev/null >>"$work/centre.log" 2>&1 &
  centre_pid=$!
  until "${in[@]}" curl -sf --max-time 5 "http://127.0.0.1:$centre_port/health" >/dev/null; do
    if [ "$SECONDS" -ge "$until" ] || ! kill -0 "$centre_pid" 2>/dev/null; then
      echo "the gateway did not start: $(tail -n 5 "$work/centre.log")" >&2
      return 1
    fi
    sleep 0.2
  done
}

stop_centre() {
  [ -n "${centre_pid:-}" ] || return 0
  kill "$centre_pid" 2>/dev/null || true
  wait "$centre_pid" 2>/dev/null || true
  centre_pid=''
}

at_centre() { "$gateway_binary" "$1" --state "$centre" "${@:2}"; } # COMMAND [ARGUMENTS...]

write_site_file() { # FILE [LINES...]: a token, and these
  { printf 'token = "%s"\n' "$(at_centre token --tenant bank --site branch)"; printf '%s\n' "${@:2}"; } >"$1"
}

make_site_volume() { # FILE [LINES...]: a small volume named SLUICE with such a site's file in it
  local file=$1
  write_site_file "$work/sluice.toml" "${@:2}"
  rm -f "$file"
  truncate -s 4M "$file"
  mformat -i "$file" -v SLUICE ::
  mcopy -i "$file" "$work/sluice.toml" ::/sluice.toml
  rm "$work/sluice.toml"
}
