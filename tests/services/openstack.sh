#!/bin/bash
# OpenStack: real Keystone, Glance and Cinder (from PyPI) and RabbitMQ (from Debian), without systemd. start|stop STATE, see lib.sh.
#
# Cinder runs its unmodified NFS driver; instead of an NFS mount there is a bind mount of STATE/data/volumes where the driver looks, so volumes are files
# there. Each start begins with an empty cloud: a project `bank` and a user `sluice` in it with the role `member`, besides `admin`.
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$(readlink -f "$0")")/lib.sh"
CMD=${1:?start or stop} STATE=${2:?a folder}
here=$(dirname "$(readlink -f "$0")")
venv=$STATE/venv made=$STATE/made data=$STATE/data admin_password=secret
share=127.0.0.1:/volumes
mount_point=$data/mnt/$(printf %s "$share" | md5sum | cut -d' ' -f1) # where the NFS driver looks
daemons=(keystone glance rabbit cinder-api cinder-scheduler cinder-volume)

stop() {
  stop_all
  # Erlang's port mapper is started by RabbitMQ and outlives it.
  # shellcheck disable=SC1091
  [ ! -e "$data/rabbit.env" ] || (. "$data/rabbit.env" && epmd -kill) >/dev/null 2>&1 || true
  ! mountpoint -q "$mount_point" || umount -l "$mount_point"
}

is_running() {
  local name
  [ -e "$data/ready" ] || return 1
  for name in "${daemons[@]}"; do up "$name" || return 1; done
}

install() {
  apt_need python3-venv rabbitmq-server qemu-utils nfs-common # nfs-common: the driver insists on mount.nfs
  [ -e "$venv/complete" ] && return 0
  rm -rf "$venv" "$made"
  python3 -m venv "$venv"
  "$venv/bin/pip" -q install -c "$here/openstack-constraints.txt" keystone glance cinder gunicorn >&2
  touch "$venv/complete"
}

# once NAME CMD...: an empty database is made once and copied for each start.
once() {
  local name=$1
  shift
  if [ ! -e "$made/$name.db" ]; then
    "$@" >"$STATE/run/$name-setup.log" 2>&1
    mkdir -p "$made" && cp "$data/$name.db" "$made/$name.db"
  else
    cp "$made/$name.db" "$data/$name.db"
  fi
}

# serve NAME PORT: gunicorn without arguments (the services parse sys.argv themselves).
serve() {
  printf '%s\n' "bind='127.0.0.1:$2'" "wsgi_app='$1.wsgi.api:application'" "worker_class='gthread'" \
    "threads=8" "timeout=600" "control_socket_disable=True" >"$data/etc/$1/gunicorn.conf.py"
  bg "$1" env -C "$data/etc/$1" gunicorn
}

# Services ask Keystone about each token each time, so that one that was revoked is refused at once.
service_auth() {
  cat <<END
[keystone_authtoken]
www_authenticate_uri = $keystone
auth_url = $keystone
auth_type = password
project_domain_name = Default
user_domain_name = Default
project_name = admin
username = admin
password = $admin_password
token_cache_time = -1
END
}

start_keystone() {
  cat >"$data/etc/keystone/keystone.conf" <<END
[database]
connection = sqlite:///$data/keystone.db
[token]
provider = fernet
expiration = 86400
# In its one process's memory, so that what is revoked is known at once; without, each question to a service waits for this database.
[cache]
enabled = true
backend = dogpile.cache.memory
# Passwords of tests need not be hard to guess, and each sign-in pays for it.
[identity]
password_hash_rounds = 4
[fernet_tokens]
key_repository = $data/etc/keystone/fernet-keys
[credential]
key_repository = $data/etc/keystone/fernet-keys
END
  local manage=(keystone-manage --config-file "$data/etc/keystone/keystone.conf")
  once keystone "${manage[@]}" db_sync
  {
    "${manage[@]}" fernet_setup --keystone-user root --keystone-group root
    "${manage[@]}" bootstrap --bootstrap-password $admin_password --bootstrap-region-id RegionOne \
      --bootstrap-public-url "$keystone" --bootstrap-internal-url "$keystone" --bootstrap-admin-url "$keystone"
  } >"$STATE/run/keystone-setup.log" 2>&1
  OS_KEYSTONE_CONFIG_FILES=$data/etc/keystone/keystone.conf serve keystone "$keystone_port"
  wait_for 60 curl -fs -m 5 -o /dev/null "$keystone"
}

# identity PATH [BODY]: asks Keystone as admin; with a body it posts.
identity() {
  curl -fsS -m 30 -H "X-Auth-Token: $token" -H 'Content-Type: application/json' ${2:+-d "$2"} "$keystone/$1"
}

# field A B: what JSON on standard input says at A, B.
field() { python3 -c 'import json, sys
found = json.load(sys.stdin)
for key in sys.argv[1:]: found = found[int(key) if key.isdigit() else key]
print(found)' "$@"; }

fill_keystone() {
  local id user role type name url interface
  token=$(curl -fsSi -m 30 "$keystone/auth/tokens" -H 'Content-Type: application/json' -d '{"auth":{"identity":{"methods":["password"],"password":
    {"user":{"name":"admin","domain":{"id":"default"},"password":"'$admin_password'"}}},"scope":{"project":{"name":"admin","domain":{"id":"default"}}}}}' |
    tr -d '\r' | awk 'tolower($1) == "x-subject-token:" { print $2 }')
  while read -r type name url; do
    id=$(identity services '{"service":{"type":"'"$type"'","name":"'"$name"'"}}' | field service id)
    for interface in public internal; do
      identity endpoints '{"endpoint":{"service_id":"'"$id"'","interface":"'$interface'","region_id":"RegionOne","url":"'"$url"'"}}' >/dev/null
    done
  done <<END
image glance $glance
block-storage cinder $cinder/v3/%(tenant_id)s
volumev3 cinderv3 $cinder/v3/%(tenant_id)s
END
  id=$(identity projects '{"project":{"name":"bank","domain_id":"default"}}' | field project id)
  user=$(identity users '{"user":{"name":"sluice","password":"sluice-secret","domain_id":"default"}}' | field user id)
  role=$(identity 'roles?name=member' | field roles 0 id)
  curl -fsS -m 30 -X PUT -H "X-Auth-Token: $token" "$keystone/projects/$id/users/$user/roles/$role"
  admin_project=$(identity 'projects?name=admin' | field projects 0 id)
}

start_glance() {
  cp "$venv/etc/glance/glance-api-paste.ini" "$data/etc/glance/"
  cat >"$data/etc/glance/glance-api.conf" <<END
[DEFAULT]
enabled_backends = file:file
enabled_import_methods = [glance-direct]
worker_self_reference_url = $glance
image_cache_dir = $data/cache
show_multiple_locations = false
[database]
connection = sqlite:///$data/glance.db
[glance_store]
default_backend = file
[file]
filesystem_store_datadir = $data/images
[os_glance_staging_store]
filesystem_store_datadir = $data/staging
[os_glance_tasks_store]
filesystem_store_datadir = $data/tasks
[paste_deploy]
flavor = keystone
config_file = $data/etc/glance/glance-api-paste.ini
[oslo_concurrency]
lock_path = $data/lock
$(service_auth)
END
  once glance glance-manage --config-file "$data/etc/glance/glance-api.conf" db_sync
  OS_GLANCE_CONFIG_DIR=$data/etc/glance serve glance "$glance_port"
}

start_rabbit() {
  mkdir -p "$data/rabbit"
  cat >"$data/rabbit.env" <<END
export HOME=$data/rabbit RABBITMQ_NODENAME=cinder@localhost RABBITMQ_NODE_PORT=$rabbit_port RABBITMQ_NODE_IP_ADDRESS=127.0.0.1
export RABBITMQ_DIST_PORT=$dist_port RABBITMQ_MNESIA_BASE=$data/rabbit RABBITMQ_LOG_BASE=$data/rabbit RABBITMQ_PID_FILE=$data/rabbit/pid
export RABBITMQ_CONFIG_FILE=$data/rabbit/none RABBITMQ_ENABLED_PLUGINS_FILE=$data/rabbit/plugins ERL_EPMD_ADDRESS=127.0.0.1 ERL_EPMD_PORT=$epmd_port
export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="+S 1:1 +sbwt none" PATH=/usr/lib/rabbitmq/bin:\$PATH
END
  # shellcheck disable=SC1091
  (. "$data/rabbit.env" && bg rabbit rabbitmq-server)
}

start_cinder() {
  local name
  # shellcheck disable=SC1091
  (. "$data/rabbit.env" && wait_for 90 rabbitmqctl -q await_startup --timeout 5)
  cp "$venv/etc/cinder/api-paste.ini" "$venv/etc/cinder/resource_filters.json" "$data/etc/cinder/"
  echo "$share" >"$data/etc/cinder/nfs_shares"
  mkdir -p "$mount_point"
  mount --bind "$data/volumes" "$mount_point"
  cat >"$data/etc/cinder/cinder.conf" <<END
[DEFAULT]
state_path = $data
my_ip = 127.0.0.1
host = cinderhost
osapi_volume_listen = 127.0.0.1
osapi_volume_listen_port = $cinder_port
osapi_volume_workers = 1
api_paste_config = $data/etc/cinder/api-paste.ini
resource_query_filters_file = $data/etc/cinder/resource_filters.json
auth_strategy = keystone
transport_url = rabbit://guest:guest@127.0.0.1:$rabbit_port/
glance_api_servers = $glance
enabled_backends = nfs
quota_volumes = 1000
quota_snapshots = 1000
quota_gigabytes = 10000
# A scheduler that was not there yet when the backend first told of itself knows none until the next time, a minute later by default.
backend_stats_polling_interval = 5
default_volume_type = __DEFAULT__
[nfs]
volume_backend_name = nfs
volume_driver = cinder.volume.drivers.nfs.NfsDriver
nfs_shares_config = $data/etc/cinder/nfs_shares
nfs_mount_point_base = $data/mnt
nfs_snapshot_support = true
nas_secure_file_operations = false
nas_secure_file_permissions = false
nfs_qcow2_volumes = false
[database]
connection = sqlite:///$data/cinder.db
[oslo_concurrency]
lock_path = $data/lock
# Everything is root's: neither sudo nor rootwrap is needed.
[cinder_sys_admin]
helper_command = $venv/bin/privsep-helper --config-file $data/etc/cinder/cinder.conf
[privsep_osbrick]
helper_command = $venv/bin/privsep-helper --config-file $data/etc/cinder/cinder.conf
$(service_auth)
END
  once cinder cinder-manage --config-file "$data/etc/cinder/cinder.conf" db sync
  for name in api scheduler volume; do
    bg cinder-$name cinder-$name --config-file "$data/etc/cinder/cinder.conf"
  done
}

# Cinder's services say "up" before they can do anything, so a volume is made and removed.
await_cinder() {
  local url=$cinder/v3/$admin_project id
  ask() { curl -fsS -m 10 -H "X-Auth-Token: $token" -H 'Content-Type: application/json' "$@"; }
  both_are_up() { [ "$(ask "$url/os-services" | grep -o '"state": "up"' | wc -l)" = 2 ]; }
  is_available() { [ "$(ask "$url/volumes/$id" | field volume status)" = available ]; }
  wait_for 120 both_are_up
  id=$(ask "$url/volumes" -d '{"volume":{"size":1,"name":"ready"}}' | field volume id)
  wait_for 60 is_available
  ask -X DELETE "$url/volumes/$id"
  # shellcheck disable=SC2016 # $1 and $2 are the inner shell's
  wait_for 60 sh -c '! curl -fs -m 10 -o /dev/null -H "X-Auth-Token: $1" "$2"' - "$token" "$url/volumes/$id"
}

variables() {
  cat <<END
OS_AUTH_URL=$keystone
OS_USERNAME=sluice
OS_PASSWORD=sluice-secret
OS_PROJECT_NAME=bank
OS_USER_DOMAIN_ID=default
OS_PROJECT_DOMAIN_ID=default
OS_REGION_NAME=RegionOne
ADMIN_USERNAME=admin
ADMIN_PASSWORD=$admin_password
ADMIN_PROJECT_NAME=admin
SHARE=$share
SHARE_FOLDER=$data/volumes
END
}

if [ "$CMD" = stop ]; then
  stop
  exit 0
fi
if is_running; then
  cat "$data/ready"
  exit 0
fi
stop
rm -rf "$data"
mkdir -p "$STATE/run" "$data"/{etc/keystone/fernet-keys,etc/glance,etc/cinder,images,staging,tasks,volumes,mnt,lock}
install
PATH=$venv/bin:$PATH
read -r keystone_port glance_port cinder_port rabbit_port dist_port epmd_port < <(free_ports 6)
keystone=http://127.0.0.1:$keystone_port/v3 glance=http://127.0.0.1:$glance_port cinder=http://127.0.0.1:$cinder_port
start_rabbit
start_keystone
fill_keystone
start_glance
start_cinder
wait_for 90 curl -fs -m 5 -H "X-Auth-Token: $token" "$glance/v2/schemas/image"
await_cinder
variables | tee "$data/ready"
