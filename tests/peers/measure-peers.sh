#!/bin/bash
# measure-peers.sh [--peers A,B,...] RESULTS.csv DIR...     (Debian 12)      measure-peers.sh --list
#
# How many bytes restic, borg, casync and rsync put on the wire for the generations g0.img, g1.img, ... of the volume in each DIR,
# each at the settings at which it is best on such volumes, and R: all dirty blocks as one zstd frame with the whole old image in
# its window. Rows are added to RESULTS.csv; a row that is there already, for the same images, is not measured again, so an
# interrupted run goes on where it was. Scratch space (about twice the largest volume) lies beside RESULTS.csv and is removed.
set -euo pipefail
export LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive
here=$(cd "$(dirname "$0")" && pwd)
[ $# -ge 1 ] || { sed -n '2,7p' "$0"; exit 2; }

missing=()
for package in time restic borgbackup casync rsync zstd python3; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  [ "$(id -u)" = 0 ] || { echo "not installed: ${missing[*]}. Install them, or run this once as root." >&2; exit 1; }
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
exec /usr/bin/python3 "$here/measure-peers.py" "$@"
