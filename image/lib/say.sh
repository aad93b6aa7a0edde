#!/bin/bash
# Not run but sourced: how the build speaks.

die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

step() { printf '%(%H:%M:%S)T  %s\n' -1 "$*"; }

logged() { # LOG COMMAND...: the end of what it said only if it fails
  local log=$1
  shift
  "$@" >"$log" 2>&1 || { tail -n 25 "$log" >&2; die "$1 failed; all that it said is in ${log##*/}"; }
}

need() { # PROGRAM...
  local program missing=()
  for program in "$@"; do
    command -v "$program" >/dev/null || missing+=("$program")
  done
  [ ${#missing[@]} -eq 0 ] || die "missing here: ${missing[*]}; image/README.md has the packages that bring them"
}

words_of() { # FILE: its lines without comments
  sed -E 's/[[:space:]]*#.*//; /^$/d' "$1"
}
