#!/bin/bash
# make-volumes.sh OUTDIR [VOLUME...]     (Debian 12, root; about 3 minutes, 5 GB)
#
# Builds the benchmark volumes: raw images of file systems in which real software did real work, several generations each,
# as OUTDIR/VOLUME/gN.img (sparse files), and OUTDIR/manifest.txt with sizes and versions.
#
#   os      2 GiB ext4   A Debian root file system. g1: security upgrade (kernel held), nginx, python3 and postfix installed,
#                        a day of logs. g2: packages purged, logs rotated. g3: a quiet day.
#   pg      2 GiB ext4   A PostgreSQL data directory: pgbench tables with real-looking rows, an order table.
#                        g1: an hour of transactions. g2: a nightly batch over 2 % of the rows. g3: VACUUM.
#   files   1 GiB xfs    A file server. g1: bytes inserted at the start of files, edits, appended logs. g2: folders renamed and
#                        copied, new files, deletions. g3: office documents saved anew, appended logs.
#   sister  2 GiB ext4   Another branch's `os`: the same packages; its own host name, keys, logs and layout. g0, g1.
#   sparse  20 GiB ext4  250 MB used. g1: copies, deletions, explicit zeroes. g2: deletions, then TRIM.
#
# All content, seeds, file system ids and hash seeds follow from SEED (default 1). Builds are still not bit-identical:
# package versions, inode times, host keys, the kernel's allocator and the database's background writers differ.
# Compare programs only on one and the same build.
#
# Databases are copied live (frozen file system, no clean shutdown: crash-consistent), the others unmounted. Mounted without
# discard, so deleted data stays on the volume as it does on most block storage.
set -euo pipefail
export LC_ALL=C.UTF-8 TZ=UTC DEBIAN_FRONTEND=noninteractive
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
seed=${SEED:-1}
first_day=1760000000 # epoch of the first generated log line
pg_bin=/usr/lib/postgresql/15/bin
# shellcheck source=image/lib/sources.sh
. "$here/../../image/lib/sources.sh"

say() { printf '%s %s\n' "$(date +%T)" "$*" >&2; }
content() { python3 "$here/content.py" "$@"; }

# Without this, the package scripts would start database servers on this machine.
install_tools() {
  local package policy=/usr/sbin/policy-rc.d mine="" missing=()
  for package in mmdebstrap e2fsprogs xfsprogs util-linux python3 postgresql-15 systemd-journal-remote logrotate; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  say "installing ${missing[*]}"
  [ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' >$policy; chmod +x $policy; mine=yes; }
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  [ -z "$mine" ] || rm -f $policy
}

# ---------------------------------------------------------------- images

begin_volume() { # NAME SIZE ext4|xfs ID: a fresh image, mounted
  volume=$1 generation=0 image=$work/$1.img mnt=$work/mnt
  local uuid
  uuid=$(printf '%08x-0000-4000-8000-%012x' "$4" "$seed")
  rm -rf --one-file-system "${out:?}/$volume" "$image"
  mkdir -p "$out/$volume" "$mnt"
  truncate -s "$2" "$image"
  if [ "$3" = ext4 ]; then
    mkfs.ext4 -q -F -U "$uuid" -E "hash_seed=$uuid,nodiscard,lazy_itable_init=1,lazy_journal_init=1" "$image"
  else
    mkfs.xfs -q -f -K -m uuid="$uuid" "$image"
  fi
  mount -o loop,nodiscard "$image" "$mnt"
}

end_volume() {
  umount "$mnt"
  rm -f "$image"
  touch "$out/$volume/.done"
}

copy_image() {
  cp --sparse=always --reflink=auto "$image" "$out/$volume/g$generation.img"
  say "$volume g$generation: $(du -m "$out/$volume/g$generation.img" | cut -f1) MiB used"
  generation=$((generation + 1))
}

generation_unmounted() {
  sync -f "$mnt"
  umount "$mnt"
  copy_image
  mount -o loop,nodiscard "$image" "$mnt"
}

generation_live() {
  sync -f "$mnt"
  fsfreeze -f "$mnt"
  copy_image
  fsfreeze -u "$mnt"
}

clean_up() {
  set +e
  [ -z "${pg_run:-}" ] || stop_postgres
  if mountpoint -q "$work/mnt"; then
    fsfreeze -u "$work/mnt" 2>/dev/null
    umount "$work/mnt" || { echo "$work/mnt is still in use: unmount it, then remove $work" >&2; return; }
  fi
  rm -rf --one-file-system "$work"
}

# ---------------------------------------------------------------- os, sister

guest_apt() { # ARGS: this machine's apt-get on the mounted root; downloads and lists stay outside the image
  mkdir -p "$mnt/var/cache/apt/archives" "$work/debs/partial" "$work/lists/partial"
  cat >"$work/apt.conf" <<CONF
Dir "$mnt/"; DPkg::Chroot-Directory "$mnt"; APT::Install-Recommends "false";
Dir::State::lists "$work/lists/"; Dir::Cache::pkgcache ""; Dir::Cache::srcpkgcache "";
Dir::Etc::Trusted "/etc/apt/trusted.gpg"; Dir::Etc::TrustedParts "/etc/apt/trusted.gpg.d/";
APT::Sandbox::User "root"; APT::Keep-Downloaded-Packages "true";
DPkg::Options { "--force-confdef"; "--force-confold"; "--force-unsafe-io"; };
CONF
  # A mount namespace of its own: no mount outlives the command.
  # shellcheck disable=SC2016  # expanded by the inner shell
  env mnt="$mnt" work="$work" APT_CONFIG="$work/apt.conf" unshare -m --propagation private bash -ec '
    mount --bind "$work/debs" "$mnt/var/cache/apt/archives"
    mount -t proc proc "$mnt/proc"
    apt-get -y -qq "$@"' guest_apt "$@" </dev/null >>"$work/apt.log" 2>&1 || { tail -n 20 "$work/apt.log" >&2; return 1; }
}

add_journal() { # COUNT SEED EPOCH: entries for a real systemd journal file
  local dir=$mnt/var/log/journal/0123456789abcdef0123456789abcdef
  mkdir -p "$dir"
  content journal "$@" | /lib/systemd/systemd-journal-remote --compress=no --seal=no --split-mode=none \
    -o "$dir/system.journal" - >/dev/null 2>&1
}

add_logs() { # SYSLOG-LINES JOURNAL-ENTRIES SEED DAY
  local epoch=$((first_day + $4 * 90000))
  content syslog "$1" "$3" "$epoch" >>"$mnt/var/log/syslog"
  add_journal "$2" "$3" "$epoch"
}

os_packages=systemd,systemd-sysv,dbus,udev,linux-image-cloud-amd64,openssh-server,rsyslog,cron,logrotate,locales,less,vim-tiny
os_packages+=,man-db,iproute2,ifupdown,isc-dhcp-client,ca-certificates,curl,perl,sudo

install_branch_server() { # HOST
  debian_sources bookworm >"$work/main.list"
  mmdebstrap --quiet --variant=minbase --aptopt='APT::Install-Recommends "false"' --include="$os_packages" bookworm \
    "$work/root.tar" "$work/main.list" 2>"$work/mmdebstrap.log" || { tail -n 20 "$work/mmdebstrap.log" >&2; return 1; }
  tar -C "$mnt" --numeric-owner --xattrs --xattrs-include='*' -xf "$work/root.tar"
  rm "$work/root.tar"
  printf '#!/bin/sh\nexit 101\n' >"$mnt/usr/sbin/policy-rc.d"
  chmod +x "$mnt/usr/sbin/policy-rc.d"
  echo "$1" >"$mnt/etc/hostname"
  echo "127.0.1.1 $1" >>"$mnt/etc/hosts"
  printf '%s' "$1" | md5sum | cut -c1-32 >"$mnt/etc/machine-id"
  rm -f "$mnt"/etc/ssh/ssh_host_*
  chroot "$mnt" ssh-keygen -A >/dev/null
}

make_os() { # NAME HOST GENERATIONS ID
  local name=$1 host=$2 generations=$3 id=$4 s=$((seed * 100 + $4)) logs
  begin_volume "$name" 2G ext4 "$id"
  logs=$mnt/var/log
  install_branch_server "$host"
  add_logs 40000 8000 "$s" 0
  generation_unmounted # g0: a freshly installed branch server

  debian_sources 'bookworm.*' >"$mnt/etc/apt/sources.list"
  echo 'linux-image-cloud-amd64 hold' | chroot "$mnt" dpkg --set-selections
  guest_apt update
  guest_apt upgrade
  guest_apt install nginx python3 python3-requests postfix
  mkdir -p "$logs/nginx"
  content access 60000 "$s" $first_day >>"$logs/nginx/access.log"
  add_logs 30000 6000 $((s + 1)) 1
  generation_unmounted # g1: upgraded
  if [ "$generations" = 2 ]; then
    end_volume
    return
  fi

  guest_apt purge --autoremove nginx-common
  mkdir -p "$logs/nginx"
  touch "$logs/nginx/access.log"
  printf '%s/syslog %s/nginx/access.log {\n su root root\n compress\n rotate 7\n create 0640 root adm\n}\n' \
    "$logs" "$logs" >"$work/rotate.conf"
  logrotate -f -s "$work/rotate.state" "$work/rotate.conf"
  add_logs 20000 4000 $((s + 2)) 2
  generation_unmounted # g2: cleaned up

  sed -i 's/^#\?PermitRootLogin.*/PermitRootLogin no/' "$mnt/etc/ssh/sshd_config"
  echo "10.1.$id.20 fileserver" >>"$mnt/etc/hosts"
  echo "vm.swappiness=10" >>"$mnt/etc/sysctl.conf"
  chroot "$mnt" useradd -m "operator$id"
  add_logs 4000 3000 $((s + 3)) 3
  generation_unmounted # g3: a quiet day
  end_volume
}

# ---------------------------------------------------------------- pg

as_postgres() { setpriv --reuid=postgres --regid=postgres --clear-groups -- "$@"; }
sql() { as_postgres $pg_bin/psql -qX -v ON_ERROR_STOP=1 -h "$pg_run" -d bench "$@"; }
pgbench() { as_postgres $pg_bin/pgbench -h "$pg_run" -n "$@" bench >/dev/null 2>&1; }
transactions() { # PER-CLIENT SEED: four clients, 7 transfers to 3 orders
  pgbench -c 4 -t "$1" -b tpcb-like@7 -f "$work/order.sql@3" --random-seed=$((seed + $2))
}

start_postgres() {
  pg_run=$(mktemp -d)
  chown postgres "$pg_run"
  chmod 755 "$work"
  mkdir "$mnt/data"
  chown postgres "$mnt/data"
  as_postgres $pg_bin/initdb -D "$mnt/data" --no-sync -E UTF8 >/dev/null
  as_postgres $pg_bin/pg_ctl -D "$mnt/data" -l "$pg_run/log" -w start >/dev/null -o "-k $pg_run -c listen_addresses='' \
    -c shared_buffers=256MB -c max_wal_size=128MB -c fsync=off -c synchronous_commit=off -c autovacuum=off"
  as_postgres $pg_bin/createdb -h "$pg_run" bench
}

stop_postgres() {
  as_postgres $pg_bin/pg_ctl -D "$mnt/data" -m fast -w stop >/dev/null
  rm -rf "$pg_run"
  pg_run=""
}

load_database() {
  pgbench -i -I dtg -s 20 -q
  # pgbench pads its rows with blanks, which would flatter every compressor: give them contents.
  sql <<'SQL'
UPDATE pgbench_accounts SET filler = left(
  (ARRAY['Anna','Boris','Chloe','Dmitri','Elena','Farid','Grace','Hiro','Ines','Jonas','Karin','Liam','Mona','Nils','Olga','Pavel'])[1+(aid::bigint*7919)%16]
  || ' ' || (ARRAY['Schmidt','Okafor','Tanaka','Garcia','Novak','Larsen','Rossi','Dubois','Khan','Silva','Kowalski'])[1+(aid::bigint*104729)%11]
  || ';+49' || (aid::bigint*2654435761)%9999999999 || ';' || substr(md5(aid::text),1,10) || ';' || (aid%28+1) || '.' || (aid%12+1) || '.2024', 84);
VACUUM FULL pgbench_accounts;
ALTER TABLE pgbench_accounts ADD PRIMARY KEY (aid);
ALTER TABLE pgbench_branches ADD PRIMARY KEY (bid);
ALTER TABLE pgbench_tellers ADD PRIMARY KEY (tid);
CREATE TABLE orders (id bigint, customer int, created timestamp, status text, sku text, qty int,
  price numeric(10,2), ref uuid, address text, note text);
CREATE SEQUENCE new_order;
SQL
  content orders 250000 "$seed" $first_day | sql -c '\copy orders from stdin'
  sql -c 'ALTER TABLE orders ADD PRIMARY KEY (id)' -c 'CREATE INDEX ON orders (customer)' \
    -c 'CREATE INDEX ON orders (created)' -c 'VACUUM ANALYZE' -c CHECKPOINT
  cat >"$work/order.sql" <<'SQL'
\set customer random(1, 60000)
\set old random(1, 250000)
INSERT INTO orders SELECT 900000000 + nextval('new_order'), :customer, now(), 'new', sku, qty, price,
  md5(:old::text || :customer)::uuid, address, note FROM orders WHERE id = 10000000 + :old;
UPDATE orders SET status = 'paid', qty = qty + 1 WHERE id = 10000000 + :old;
SQL
  chmod 644 "$work/order.sql"
  sync -f "$mnt"
  fstrim "$mnt" # what loading left behind belongs to no generation
}

make_pg() {
  begin_volume pg 2G ext4 1
  start_postgres
  load_database
  generation_live # g0
  transactions 250 11
  sql -c CHECKPOINT
  transactions 50 12
  generation_live # g1: 1200 transactions
  sql -c "UPDATE orders SET status = 'closed' WHERE hashint8(id) % 50 = 7 AND id < 10250000" \
    -c "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid BETWEEN 800001 AND 840000"
  transactions 50 13
  sql -c CHECKPOINT
  generation_live # g2: a nightly batch
  sql -c VACUUM -c CHECKPOINT
  transactions 50 14
  generation_live # g3: vacuumed
  stop_postgres
  end_volume
}

# ---------------------------------------------------------------- files, sparse

fetch_packages() { # DIR PACKAGE...
  local dir=$1
  shift
  mkdir -p "$dir"
  (cd "$dir" && apt-get download -qq -o APT::Sandbox::User=root "$@")
}

unpack_into() { # DIR PACKAGE-FILE...: each into a folder named after the package
  local dir=$1 package name
  shift
  for package in "$@"; do
    name=$(basename "$package")
    dpkg-deb -x "$package" "$dir/${name%%_*}"
  done
}

office() { # NUMBER CHANGED-PARAGRAPHS
  content office "$mnt/office/report-$1.docx" $((seed * 1000 + $1)) "$2" "$work/paragraphs"
}

app_logs() { # LINES DAY NUMBER...
  local lines=$1 day=$2 n
  shift 2
  for n in "$@"; do
    content syslog "$lines" $((seed * 10 + n + 3 * day)) $((first_day + day * 90000)) >>"$mnt/logs/app$n.log"
  done
}

make_files() {
  local docs=$work/documents n file
  fetch_packages "$docs/g0" python3.11-doc r-doc-pdf manpages-dev perl-doc gnome-backgrounds iso-codes perl-modules-5.36
  fetch_packages "$docs/g2" postgresql-doc-15 debian-faq adwaita-icon-theme
  begin_volume files 1G xfs 1
  mkdir -p "$mnt"/{documents,packages,logs,office}
  content text 20000 "$seed" $first_day >"$work/paragraphs"
  unpack_into "$mnt/documents" "$docs"/g0/*.deb
  cp "$docs"/g0/{perl,manpages,iso}*.deb "$mnt/packages/"
  for n in $(seq 1 150); do office "$n" 0; done
  app_logs 60000 0 1 2 3
  find "$mnt/documents" -type f -size +2k \
    \( -name '*.txt' -o -name '*.html' -o -name '*.pod' -o -name '*.pm' -o -name '*.po' \) | sort >"$work/texts"
  generation_unmounted # g0

  shuf --random-source=<(yes "$seed") -n 200 "$work/texts" >"$work/edited"
  while read -r file; do
    { printf 'Reviewed by branch office, revision %s\n' "$(md5sum <<<"$file" | cut -c1-5)"; cat "$file"; } >"$work/new"
    cat "$work/new" >"$file"
  done <"$work/edited"
  shuf --random-source=<(yes "$seed$seed") -n 60 "$work/texts" | xargs -d '\n' sed -i 's/the /the very /'
  for n in $(seq 1 12); do office "$n" 3; done
  app_logs 8000 1 1 2 3
  generation_unmounted # g1: a day of edits

  mv "$mnt/documents/perl-doc" "$mnt/documents/perl-2024"
  cp -r "$mnt/documents/manpages-dev" "$mnt/documents/manpages-copy"
  cp -r "$mnt/documents/python3.11-doc/usr/share/doc/python3.11/html/library" "$mnt/documents/library-draft"
  find "$mnt/documents/library-draft" -name '*.html' | sort | sed -n 1,80p | xargs sed -i 's/<title>/<title>DRAFT /'
  unpack_into "$mnt/documents" "$docs"/g2/*.deb
  cp "$docs"/g2/*.deb "$mnt/packages/"
  rm -r "$mnt/documents/iso-codes"
  gzip -9n "$mnt/logs/app1.log"
  generation_unmounted # g2: tidied up

  for n in $(seq 20 45); do office "$n" 2; done
  for n in $(seq 151 156); do office "$n" 0; done
  app_logs 8000 2 2 3
  generation_unmounted # g3: a quiet day
  end_volume
}

make_sparse() {
  local docs=$work/documents-sparse
  fetch_packages "$docs" libpython3.11-stdlib unicode-data perl-modules-5.36 git libicu72
  begin_volume sparse 20G ext4 2
  unpack_into "$mnt" "$docs"/*.deb
  content access 250000 "$seed" $first_day >"$mnt/access.log"
  generation_unmounted # g0

  rm -r "$mnt/unicode-data"
  cp -r "$mnt/git" "$mnt/git-copy"
  content access 120000 $((seed + 1)) $((first_day + 400000)) >>"$mnt/access.log"
  dd if=/dev/zero of="$mnt/preallocated" bs=1M count=200 status=none
  generation_unmounted # g1: copies, deletions, explicit zeroes

  rm -r "$mnt/git-copy" "$mnt/preallocated" "$mnt/libicu72"
  sync -f "$mnt"
  fstrim "$mnt"
  content access 10000 $((seed + 2)) $((first_day + 700000)) >>"$mnt/access.log"
  generation_unmounted # g2: deleted and trimmed
  end_volume
}

# ---------------------------------------------------------------- main

wanted() { # VOLUME: asked for and not there yet
  if [ -e "$out/$1/.done" ]; then
    say "$1: already there"
    return 1
  fi
  [ ${#asked[@]} -eq 0 ] || [[ " ${asked[*]} " == *" $1 "* ]]
}

write_manifest() {
  local image
  for image in "$out"/*/g*.img; do
    echo "${image#"$out"/} size=$(stat -c %s "$image") allocated=$(($(stat -c %b "$image") * 512))"
  done >"$out/manifest.txt"
  {
    dpkg-query -W -f '${Package} ${Version}\n' postgresql-15 e2fsprogs xfsprogs
    uname -r
  } >>"$out/manifest.txt"
}

[ $# -ge 1 ] || { sed -n '2,20p' "$0"; exit 2; }
[ "$(id -u)" = 0 ] || { echo "make-volumes.sh mounts file systems: run it as root" >&2; exit 1; }
mkdir -p "$1"
out=$(cd "$1" && pwd)
work=$out/.work.$$
shift
asked=("$@")
mkdir -p "$work"
trap clean_up EXIT
install_tools
if wanted pg; then make_pg; fi
if wanted os; then make_os os branch-17 4 1; fi
if wanted sister; then make_os sister branch-08 2 6; fi
if wanted files; then make_files; fi
if wanted sparse; then make_sparse; fi
write_manifest
