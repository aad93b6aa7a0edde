#!/bin/bash
# A real libvirtd that starts guests by software emulation, as root, without networks. Prints SLUICE_LIBVIRT_URI.
#
# libvirtd has one set of domains for a machine: where one runs already that this script did not start, it refuses.
# shellcheck source=tests/services/lib.sh
. "$(dirname "$(readlink -f "$0")")/lib.sh"
STATE=$2
uri=qemu:///system
case $1 in
  stop) stop_all ;;
  start)
    apt_need libvirt-daemon libvirt-clients libvirt-daemon-driver-qemu qemu-system-x86 qemu-utils
    if ! up libvirtd && virsh -c $uri version >/dev/null 2>&1; then
      echo "another libvirtd runs on this machine" >&2
      exit 1
    fi
    mkdir -p /etc/libvirt
    grep -qs '^# for tests' /etc/libvirt/qemu.conf || # guests as root; no control groups, no relabelling
      printf '# for tests\nuser="root"\ngroup="root"\nsecurity_driver="none"\nremember_owner=0\ncgroup_controllers=[]\n' >>/etc/libvirt/qemu.conf
    id libvirt-qemu >/dev/null 2>&1 || useradd --system --no-create-home libvirt-qemu # its name has to exist
    up virtlogd || bg virtlogd virtlogd
    up libvirtd || bg libvirtd libvirtd
    wait_for 60 virsh -c $uri version
    echo "SLUICE_LIBVIRT_URI=$uri"
    ;;
esac
