#!/bin/bash
# The vendor's emulator of Azure Storage (Azurite): page blobs. It checks signatures, tokens, leases, conditions and CRC-64.
#
# Prints AZURE_STORAGE_CONNECTION_STRING as a file of credentials has it, SLUICE_CONTAINER, which is there, and SLUICE_SAS, a token for the account.
# shellcheck source=tests/services/lib.sh
. "$(dirname "$(readlink -f "$0")")/lib.sh"
STATE=$2
account=devstoreaccount1
key=Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw== # the same in every Azurite; opens nothing else
container=sluice

# signed TEXT: its signature with the account's key, in Base64.
signed() { printf %b "$1" | openssl dgst -sha256 -mac HMAC -macopt "hexkey:$(printf %s "$key" | base64 -d | od -An -v -tx1 | tr -d ' \n')" -binary | base64 -w0; }

make_container() {
  local date code
  date=$(date -u '+%a, %d %b %Y %H:%M:%S GMT')
  code=$(curl -s -m 10 -o /dev/null -w '%{http_code}' -X PUT "$endpoint/$container?restype=container" -H "x-ms-date: $date" -H 'x-ms-version: 2019-07-07' \
    -H 'Content-Length: 0' -H "Authorization: SharedKey $account:$(signed "PUT\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:$date\nx-ms-version:2019-07-07\n/$account/$account/$container\nrestype:container")")
  [ "$code" = 201 ] || [ "$code" = 409 ]
}

# All rights in blobs, for a year from now on.
token() {
  local from until
  from=$(date -u -d yesterday '+%Y-%m-%dT%H:%M:%SZ') until=$(date -u -d '+1 year' '+%Y-%m-%dT%H:%M:%SZ')
  sig=$(signed "$account\nrwdlc\nb\nsco\n$from\n$until\n\n\n2019-07-07\n" | sed 's/+/%2B/g; s,/,%2F,g; s/=/%3D/g')
  echo "sv=2019-07-07&ss=b&srt=sco&sp=rwdlc&st=$from&se=$until&sig=$sig"
}

case $1 in
  stop) stop_all ;;
  start)
    if ! command -v npm >/dev/null; then apt_need npm; fi
    apt_need curl openssl
    mkdir -p "$STATE/data" "$STATE/npm"
    [ -x "$STATE/npm/node_modules/.bin/azurite-blob" ] ||
      (cd "$STATE/npm" && npm install --no-fund --no-audit --silent azurite@3.37.0 >&2)
    if ! up azurite; then
      free_ports 1 >"$STATE/port"
      bg azurite "$STATE/npm/node_modules/.bin/azurite-blob" --blobHost 127.0.0.1 --blobPort "$(cat "$STATE/port")" -l "$STATE/data" --disableTelemetry
    fi
    endpoint=http://127.0.0.1:$(cat "$STATE/port")/$account
    wait_for 60 make_container
    echo "AZURE_STORAGE_CONNECTION_STRING='DefaultEndpointsProtocol=http;AccountName=$account;AccountKey=$key;BlobEndpoint=$endpoint;'"
    echo "SLUICE_CONTAINER=$container"
    echo "SLUICE_SAS='$(token)'"
    ;;
esac
