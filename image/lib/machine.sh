#!/bin/bash
# Not run but sourced: a machine without KVM that is given a disk, and what can be heard of it on its serial line.
#
# Every wait has a deadline, counted in seconds of the clock; what it costs is counted in seconds of QEMU's processors, because other
# work may run beside it.

: "${work:?}" # the folder of what belongs to this run
: "${image:?}" # the folder image/
ovmf=/usr/share/OVMF
in_branch=() # a command before QEMU's, such as one that leads into a namespace

# QEMU 7.2 without KVM may hang for good when a guest starts again within the same process (it invalidates what it translated of the run before,
# and does not get to an end). So a start of the guest is one of QEMU, where `machine_restarts` is set.
run_again() { # COMMAND...
  local child
  trap 'kill "$child" 2>/dev/null; wait "$child"; exit' TERM
  while :; do
    "$@" &
    child=$!
    wait "$child" || exit
  done
}

# What the serial line says is in $work/NAME.serial; who wants to type connects to $work/NAME.line.
start_machine() { # NAME FIRMWARE DISK [QEMU'S ARGUMENTS...]: sets `machine`
  local name=$1 firmware=$2 disk=$3 flags=() before=("${in_branch[@]}")
  shift 3
  if [ "$firmware" = uefi ]; then
    [ -e "$work/$name.vars" ] || cp "$ovmf/OVMF_VARS_4M.fd" "$work/$name.vars"
    flags=(-drive "if=pflash,format=raw,readonly=on,file=$ovmf/OVMF_CODE_4M.fd" -drive "if=pflash,format=raw,file=$work/$name.vars")
  fi
  : >"$work/$name.serial"
  if [ -n "${machine_restarts:-}" ]; then
    flags+=(-no-reboot)
    before=(run_again "${in_branch[@]}")
  fi
  "${before[@]}" qemu-system-x86_64 -nodefaults -no-user-config -display none -monitor "unix:$work/$name.monitor,server=on,wait=off" -machine q35 -accel tcg,thread=multi -cpu "${machine_cpu:-Nehalem}" -smp 2 \
    -m "${machine_mib:-1024}" "${flags[@]}" -watchdog-action reset \
    -chardev "socket,id=line,path=$work/$name.line,server=on,wait=off,logfile=$work/$name.serial,logappend=on" -serial chardev:line \
    -device virtio-scsi-pci,id=scsi -drive "if=none,id=disk,format=${disk##*.},file=$disk,cache=${disk_cache:-unsafe},discard=unmap" \
    -device scsi-hd,drive=disk,bus=scsi.0,bootindex=1 -device virtio-rng-pci "$@" </dev/null >"$work/$name.qemu" 2>&1 &
  machine=$!
}

await_line() { # NAME PATTERN SECONDS: until the serial line has it; fails when QEMU ends or the time is over
  local name=$1 pattern=$2 until=$((SECONDS + $3))
  until grep -aqE "$pattern" "$work/$name.serial"; do
    kill -0 "$machine" 2>/dev/null || { echo "QEMU ended: $(cat "$work/$name.qemu")" >&2; return 1; }
    if [ "$SECONDS" -ge "$until" ]; then
      echo "nothing on the serial line of $name matched \"$pattern\" within $3 s; its end:" >&2
      tail -n 20 "$work/$name.serial" >&2
      return 1
    fi
    sleep 0.2
  done
}

talk() { # NAME: follows the script on standard input at the serial line (image/lib/talk.py)
  until [ -S "$work/$1.line" ]; do
    kill -0 "$machine" 2>/dev/null || { echo "QEMU ended: $(cat "$work/$1.qemu")" >&2; return 1; }
    sleep 0.1
  done
  python3 "$image/lib/talk.py" "$work/$1.line"
}

cpu_seconds() { # of QEMU so far
  local child
  child=$(pgrep -P "$machine" || true)
  cat "/proc/$machine/stat" ${child:+"/proc/$child/stat"} |
    awk -v tick="$(getconf CLK_TCK)" '{ sub(/^.*\) /, ""); sum += $12 + $13 + $14 + $15 } END { printf "%.0f\n", sum / tick }'
}

stop_machine() {
  [ -n "${machine:-}" ] || return 0
  kill "$machine" 2>/dev/null || true
  wait "$machine" 2>/dev/null || true
  machine=''
}
