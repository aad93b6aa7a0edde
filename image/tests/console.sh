#!/bin/bash
# Not run but sourced by image/test: the console, driven over the serial line.
# shellcheck disable=SC2034,SC2154  # variables of image/test
: "${work:?}" "${image:?}" "${out:?}" "${role:?}" "${version:?}"

start_at_console() { # with a stick, and a card whose page is looked for at an address that somebody sets at the console
  http=$((20000 + RANDOM % 20000))
  start_machine console bios "$disk" -device e1000e,netdev=net -device e1000e,netdev=other -netdev user,id=other,net=10.0.4.0/24 \
    -netdev "user,id=net,hostfwd=tcp:127.0.0.1:$http-10.0.2.77:$page_port,hostfwd=tcp:127.0.0.1:$((http + 1))-10.0.2.77:$other_port" \
    -device qemu-xhci -device usb-storage,drive=stick,removable=on -drive "if=none,id=stick,format=raw,file=$work/stick.raw,cache=unsafe"
}

ask_for_address() { # ADDRESS: the steps from the status to a trial of it on the first card
  cat <<EOF
type \\r
see 120 Number:
type 1\\r
see 120 Number:
type 1\\r
see 120 VLAN
type \\r
see 120 Address
type $1/24\\r
see 120 Gateway
type 10.0.2.2\\r
see 120 DNS
type \\r
see 120 Time servers
type \\r
see 120 address $1/24, gateway 10\\.0\\.2\\.2
see 120 Number:
type 1\\r
see 180 Press K within 120 s
see 180 $1/24
EOF
}

test_console() {
  [ "$role" = edge ] || { echo "the console is tested with an edge"; cpu=null; return 0; }
  new_disk console
  put_at "$out/sluice-$role-$version.slot" "$disk" "$slot_b_at"
  sed 's/^set slot_version=.*/set slot_version=before/' "$out/sluice-$role-$version.slot.cfg" >"$work/slot-B.cfg"
  mcopy -o -i "$disk@@${esp_at}M" "$work/slot-B.cfg" ::/grub/slot-B.cfg
  set_grubenv B_state=good B_tries=0
  rm -f "$work/stick.raw"
  truncate -s 64M "$work/stick.raw"
  mformat -i "$work/stick.raw" -F -v MINE ::
  start_at_console
  await_ready console A "$version" 600

  {
    cat <<'EOF'
type l
see 180 系统槽 A
see 120 按回车进入菜单
type L
see 180 slot A
see 120 10\.0\.2\.15/24
see 120 PIN +[0-9 ]+\(until this box is enrolled\)
see 120 Press Enter for the menu, L for 中文
type x
see 120 Press Enter for the menu\.
see 180 L for 中文
type \r
see 120 Number:
type nine\r
see 120 "nine" is not in the list\. Type a number from 0 to 8 and press Enter\.
type 1\r
see 120 Number:
type 1\r
see 120 VLAN
type 4095\r
see 120 Not taken: a VLAN is a number from 1 to 4094\. Type it again\.
type \e
see 120 Number:
type 0\r
see 180 L for 中文
EOF
    ask_for_address 10.0.2.77
    cat <<'EOF'
see 240 The settings from before are back\.
see 120 Number:
type 0\r
see 180 link up
see 180 10\.0\.2\.15/24
see 180 L for 中文
EOF
    ask_for_address 10.0.2.77
    cat <<'EOF'
type k
see 180 Kept\. These settings hold from now on\.
see 120 Number:
type 1\r
see 120 4  two cards as one
see 120 Number:
type 4\r
see 120 Number:
type 1\r
see 120 Number:
type 1\r
see 120 How do they work together
see 120 Number:
type 1\r
see 120 VLAN
type 42\r
see 120 Address
type 10.0.3.7/24\r
see 120 Gateway
type \r
see 120 DNS
type \r
see 120 Time servers
type \r
see 120 bond of .*, active-backup
see 120 Number:
type 1\r
see 180 Press K
see 180 now: vlan42 10\.0\.3\.7/24
type r
see 180 The settings from before are back\.
see 120 Number:
type 2\r
see 120 Only its beginning is shown\.
EOF
    printf 'type sluice1.%s\\r\n' "$(head -c 3000 /dev/zero | tr '\0' 'A')"
    cat <<'EOF'
see 180 sluice1\.\*{2992,}
see 180 3008 characters\. Asking the gateway
see 300 Not enrolled:
see 120 Number:
type 4\r
see 180 Writing to /dev/sd[a-z]
see 300 Written: sluice-diagnostics-
see 120 Number:
type 7\r
see 120 Number:
type 1\r
see 120 Restarting
see 600 sluice: ready ROLE=edge VERSION=tested SLOT=A
see 120 10\.0\.2\.77/24
EOF
  } >"$work/script"
  talk console <"$work/script"
  page_answers # at the address that was set
  mdir -b -i "$work/stick.raw" :: | grep -q 'sluice-diagnostics-.*json' || { echo "no bundle on the stick" >&2; return 1; }

  { printf 'type \\e\nsee 60 L for 中文\n'; ask_for_address 10.0.2.88; } >"$work/script"
  talk console <"$work/script"
  kill -KILL "$machine"
  wait "$machine" 2>/dev/null || true
  start_at_console
  cat >"$work/script" <<'EOF'
see 600 sluice: ready ROLE=edge VERSION=tested SLOT=A
type \e
see 180 10\.0\.2\.77/24
unseen 10\.0\.2\.88
see 180 L for 中文
type \r
see 120 Number:
type 5\r
see 120 Slot B has version before
see 120 Type previous
type yes\r
see 120 Nothing was done
see 120 Number:
type 5\r
see 120 Type previous
type previous\r
see 600 sluice: ready ROLE=edge VERSION=tested SLOT=B
type \e
see 180 slot B
see 180 10\.0\.2\.77/24
see 180 L for 中文
type \r
see 120 Number:
type 6\r
see 120 Type forget
type forget\r
see 600 sluice: ready ROLE=edge VERSION=tested SLOT=B
type \e
see 180 10\.0\.2\.15/24
EOF
  talk console <"$work/script"
  cpu=$(cpu_seconds)
  stop_machine
}
