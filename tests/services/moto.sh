#!/bin/bash
# moto: a community emulator of AWS, not AWS. Here for the shape of requests to the EBS direct APIs and to EC2: it takes wrong checksums for right ones,
# inherits nothing from a parent and knows no pending snapshots.
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$(readlink -f "$0")")/lib.sh"
CMD=${1:?start or stop} STATE=${2:?a folder}
venv=$STATE/venv

if [ "$CMD" = stop ]; then
  stop_all
  exit 0
fi
if [ ! -e "$venv/complete" ]; then
  apt_need python3-venv
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" -q install 'moto[server,ec2,ebs]==5.2.5' >&2
  touch "$venv/complete"
fi
if ! up moto; then
  free_ports 1 >"$STATE/port"
  bg moto env MOTO_EC2_LOAD_DEFAULT_AMIS=false "$venv/bin/moto_server" -H 127.0.0.1 -p "$(cat "$STATE/port")"
fi
url=http://127.0.0.1:$(cat "$STATE/port")
wait_for 60 curl -fs -m 5 -o /dev/null "$url/moto-api/data.json"
echo "MOTO_URL=$url"
