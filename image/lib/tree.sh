#!/bin/bash
# Not run but sourced: the tree of one slot: Debian's packages, our overlay, the role's daemon, its initramfs.
# `image` is the folder image/.
: "${image:?}"

# The time of every file: any would do, but it has to be the same in all versions, or each would have another list of files and another initramfs.
# When the version was made is told by one file only, /usr/lib/clock-epoch, before which the first process does not let the clock be.
tree_time=1767225600

put_overlay() { # TREE FOLDER: its files, as root's, with no more rights than they need
  local tree=$1 folder=$2 file mode
  while read -r file; do
    mode=644
    [ -x "$folder/$file" ] && mode=755
    install -D -o root -g root -m "$mode" "$folder/$file" "$tree/$file"
  done < <(cd "$folder" && find . -type f)
}

set_up_services() { # TREE ROLE
  local unit
  for unit in systemd-networkd systemd-resolved systemd-timesyncd nftables smartmontools sluice-grow-data sluice-lay-out-data sluice-confirm sluice-watch sluice-install "sluice-$2" sluice-console@{tty1,ttyS0}; do
    chroot "$1" systemctl --quiet enable "$unit.service"
  done
  [ "$2" = gateway ] || chroot "$1" systemctl --quiet enable sluice-enrol.service sluice-upgrade.path
  # Nobody logs in, and nothing is done behind the daemon's back.
  chroot "$1" systemctl --quiet mask getty@.service serial-getty@.service getty.target console-getty.service debug-shell.service \
    emergency.service rescue.service ctrl-alt-del.target systemd-networkd-wait-online.service systemd-firstboot.service \
    dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer mdmonitor.service mdmonitor-oneshot.timer \
    systemd-update-utmp.service systemd-update-utmp-runlevel.service systemd-hwdb-update.service \
    sys-kernel-debug.mount sys-kernel-tracing.mount sys-fs-fuse-connections.mount dev-hugepages.mount proc-sys-fs-binfmt_misc.automount \
    modprobe@drm.service modprobe@fuse.service systemd-ask-password-console.path systemd-ask-password-wall.path
  chroot "$1" systemctl --quiet set-default multi-user.target
}

check_services() { # TREE: none of ours may do more than systemd finds "OK"
  local file unit said
  for file in "$1"/etc/systemd/system/sluice-*.service; do
    unit=$(basename "$file")
    said=$(chroot "$1" systemd-analyze security --no-pager --offline=true --threshold=49 "${unit/@/@tty1}" 2>&1) ||
      die "$unit may do more than it should: $(tail -n 1 <<<"$said")"
  done
}

make_initramfs() { # TREE WORK
  local kernel
  kernel=$(basename "$1"/boot/vmlinuz-*)
  mv "$1/boot/$kernel" "$1/boot/vmlinuz"
  kernel=${kernel#vmlinuz-}
  rm -f "$1"/boot/System.map-* "$1"/boot/initrd.img-* "$1"/vmlinuz* "$1"/initrd.img*
  logged "$2/initramfs.log" chroot "$1" env SOURCE_DATE_EPOCH="$tree_time" mkinitramfs -o /boot/initrd.img "$kernel"
}

clean() { # TREE: what differs from build to build or that nobody needs
  rm -rf "$1"/var/cache/* "$1"/var/log/* "$1"/var/lib/apt "$1"/var/lib/systemd/random-seed "$1"/var/lib/initramfs-tools \
    "$1"/tmp/* "$1"/run/* "$1"/etc/machine-id "$1"/var/lib/dbus/machine-id "$1"/etc/hostname "$1"/etc/*- "$1"/var/lib/dpkg/*-old \
    "$1"/etc/resolv.conf "$1"/etc/ssh "$1"/var/lib/update-rc.d "$1"/etc/apt
  : >"$1/etc/machine-id"
  touch "$1/etc/.updated" "$1/var/.updated" # as new as /usr: nothing to be brought up to date at start
  ln -s ../run/systemd/resolve/stub-resolv.conf "$1/etc/resolv.conf"
}

make_tree() { # BASE TREE ROLE VERSION BINARIES WORK SEQUENCE KEY: KEY is the public one whose releases it takes
  local base=$1 tree=$2 role=$3 version=$4 binaries=$5 work=$6 sequence=$7 key=$8
  rm -rf --one-file-system "$tree"
  cp -a "$base" "$tree"
  put_overlay "$tree" "$image/rootfs"
  put_overlay "$tree" "$image/roles/$role"
  strip -o "$tree/usr/bin/sluice-$role" "$binaries/sluice-$role"
  strip -o "$tree/usr/bin/sluice-box" "$binaries/sluice-box"
  printf 'ROLE=%s\nVERSION=%s\nSEQUENCE=%s\n' "$role" "$version" "$sequence" >"$tree/usr/lib/sluice/release"
  printf '# Releases that one of these keys signed are taken.\n%s\n' "$key" >"$tree/usr/lib/sluice/release-keys"
  mkdir -p "$tree"/{data,boot/efi,etc/sluice,var/lib/sluice-"$role"}
  clean "$tree"
  printf 'sluice\n' >"$tree/etc/hostname"
  logged "$work/sysusers.log" chroot "$tree" systemd-sysusers
  rm -f "$tree"/etc/*- "$tree"/etc/.pwd.lock
  sed -i -E 's/^([^:]+:[^:]*):[0-9]*:/\1:1:/' "$tree/etc/shadow" # the day of the last change is the day of the build
  set_up_services "$tree" "$role"
  check_services "$tree"
  : >"$tree/usr/lib/clock-epoch"
  find "$tree" -xdev -exec touch -hd "@$tree_time" {} + # the initramfs takes the times of folders from here
  make_initramfs "$tree" "$work"
  find "$tree/boot" -exec touch -hd "@$tree_time" {} +
  touch -d "@$SOURCE_DATE_EPOCH" "$tree/usr/lib/clock-epoch"
}
