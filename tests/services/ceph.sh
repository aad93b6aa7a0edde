#!/bin/bash
# Ceph of Debian with one monitor, one OSD that keeps everything in memory (4 GiB at most, gone at the end) and the RADOS gateway, a real S3-compatible store.
# Debian 12's (16.2) takes a wrong `x-amz-checksum-sha256` for a right one: what proves its bytes is reading them back.
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$(readlink -f "$0")")/lib.sh"
CMD=${1:?start or stop} STATE=${2:?a folder}
venv=$STATE/venv data=$STATE/data bucket=sluice
export CEPH_CONF=$data/ceph.conf

if [ "$CMD" = stop ]; then
  stop_all
  rm -rf "$data"
  exit 0
fi
apt_need ceph-mon ceph-osd radosgw ceph-common python3-venv
if [ ! -e "$venv/complete" ]; then
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" -q install boto3 >&2
  touch "$venv/complete"
fi

cluster() {
  local port monitor keyring=$data/keyring osd
  rm -rf "$data" && mkdir -p "$data"/{mon,osd,rgw,run} "$STATE/run"
  free_ports 2 >"$STATE/ports"
  read -r monitor port <"$STATE/ports"
  cat >"$CEPH_CONF" <<END
[global]
fsid = $(cat /proc/sys/kernel/random/uuid)
mon host = v2:127.0.0.1:$monitor
public network = 127.0.0.0/8
ms bind ipv6 = false
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
auth allow insecure global id reclaim = false
keyring = $keyring
run dir = $data/run
admin socket = $data/run/\$name.asok
log file = $STATE/run/\$name.ceph.log
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd crush chooseleaf type = 0
mon allow pool size one = true
mon warn on pool no redundancy = false
osd objectstore = memstore
memstore device bytes = 4294967296
osd data = $data/osd
mon data = $data/mon
rgw data = $data/rgw
rgw frontends = beast endpoint=127.0.0.1:$port
END
  ceph-authtool --create-keyring "$keyring" --gen-key -n mon. --cap mon 'allow *'
  ceph-authtool "$keyring" --gen-key -n client.admin --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *'
  ceph-authtool "$keyring" --gen-key -n osd.0 --cap mon 'allow profile osd' --cap osd 'allow *' --cap mgr 'allow *'
  ceph-authtool "$keyring" --gen-key -n client.rgw --cap mon 'allow rw' --cap osd 'allow rwx'
  monmaptool --create --clobber --addv a "[v2:127.0.0.1:$monitor]" --fsid "$(awk '/^fsid/ { print $3 }' "$CEPH_CONF")" "$data/monmap"
  ceph-mon --mkfs -i a --monmap "$data/monmap" --keyring "$keyring"
  bg mon ceph-mon -f -i a
  wait_for 30 timeout 5 ceph status
  osd=$(cat /proc/sys/kernel/random/uuid)
  ceph osd new "$osd"
  ceph auth import -i "$keyring"
  ceph-osd -i 0 --mkfs --osd-uuid "$osd"
  bg osd ceph-osd -f -i 0
  wait_for 60 sh -c "ceph osd stat | grep -q '1 up'"
  bg rgw radosgw -f -n client.rgw
}

if ! up mon || ! up osd || ! up rgw; then
  stop_all
  cluster >&2
fi
read -r _ port <"$STATE/ports"
wait_for 90 curl -fs -m 5 -o /dev/null "http://127.0.0.1:$port/"
radosgw-admin user info --uid=test >/dev/null 2>&1 ||
  radosgw-admin user create --uid=test --display-name=test --access-key=testkey --secret=testsecret >/dev/null
wait_for 30 "$venv/bin/python" -c "import boto3, botocore.config as c
boto3.client('s3', endpoint_url='http://127.0.0.1:$port', aws_access_key_id='testkey', aws_secret_access_key='testsecret', region_name='us-east-1',
             config=c.Config(s3={'addressing_style': 'path'})).create_bucket(Bucket='$bucket')"
printf '%s\n' "S3_ENDPOINT=http://127.0.0.1:$port" S3_ACCESS_KEY=testkey S3_SECRET_KEY=testsecret "S3_BUCKET=$bucket" "S3_PYTHON=$venv/bin/python"
