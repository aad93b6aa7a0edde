#!/bin/bash
# What the scripts beside this one have in common (sourced, not run). A script NAME.sh is called as `NAME.sh start|stop STATE`:
#
#   start   installs what it needs, starts on 127.0.0.1 and free ports, waits until it is ready, and prints what tests need to know
#           as lines `NAME=VALUE`. What is running already is left running.
#   stop    ends what `start` began, after a start that was cut short too.
#
# STATE is a folder of its own; nothing else is written to. What only has to be made once (packages, schemas) stays there.
set -euo pipefail

# bg NAME CMD...: run CMD in the background, pid and log kept in $STATE/run.
bg() {
  local name=$1
  shift
  mkdir -p "$STATE/run"
  setsid "$@" >"$STATE/run/$name.log" 2>&1 </dev/null &
  echo "$! $(started_at $!)" >"$STATE/run/$name.pid"
}

# started_at PID: when it began, in the kernel's ticks; with the pid it names one process for good.
started_at() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }

# up NAME: is that background process alive?
up() {
  local pid began
  [ -s "$STATE/run/$1.pid" ] && read -r pid began <"$STATE/run/$1.pid" && [ "$(started_at "$pid")" = "$began" ]
}

# wait_for SECONDS CMD...: poll until CMD succeeds.
wait_for() {
  local until=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$until" ] || { echo "timeout: $*" >&2; return 1; }
    sleep 0.3
  done
}

# stop_all: end every process group that bg started, the newest first.
stop_all() {
  local file name pid
  while read -r file; do
    name=$(basename "$file" .pid)
    read -r pid _ <"$file" || true
    if up "$name"; then
      kill -- "-$pid" 2>/dev/null || true
      for _ in $(seq 40); do up "$name" || break; sleep 0.25; done
      kill -9 -- "-$pid" 2>/dev/null || true
    fi
    rm -f "$file"
  done < <(find "$STATE/run" -name '*.pid' -printf '%T@ %p\n' 2>/dev/null | sort -rn | cut -d' ' -f2-)
}

# free_ports N: N ports of 127.0.0.1 that nobody listens on.
free_ports() {
  python3 -c 'import socket, sys
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]
print(*(s.getsockname()[1] for s in held))' "$1"
}

# apt_need PKG...: install missing Debian packages without starting their services.
apt_need() {
  local package missing=() rc=/usr/sbin/policy-rc.d made=
  for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  (
    flock 9 # one at a time: scripts are run side by side
    [ -e $rc ] || { printf '#!/bin/sh\nexit 101\n' >$rc; chmod +x $rc; made=1; }
    status=0
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "${missing[@]}"; } \
      >"$STATE/apt.log" 2>&1 || status=$?
    [ -z "$made" ] || rm -f $rc
    [ "$status" = 0 ] || tail -n 5 "$STATE/apt.log" >&2
    exit "$status"
  ) 9>"$STATE/../apt.lock"
}
