#!/bin/bash
# Not run but sourced: the installer, for a CD or a USB stick, BIOS and UEFI. It starts the very slot that it installs.

: "${image:?}" "${grub_modules:?}" "${grub_pc:?}" "${slot_a_at:?}" # image/lib/grub.sh, image/lib/disk.sh

make_iso() { # NAME WORK: from NAME.slot, NAME.slot.cfg, NAME.raw and the kernel and initramfs in WORK/boot
  local name=$1 work=$2 root=$2/iso
  rm -rf "$root"
  mkdir -p "$root"/{boot/grub,sluice} "$work/payload"
  cp "$work/boot/vmlinuz" "$work/boot/initrd.img" "$root/boot/"
  cp "$name.slot.cfg" "$root/boot/grub/slot.cfg"
  cp "$image/grub/install.cfg" "$root/boot/grub/grub.cfg"
  ln "$name.slot" "$work/payload/slot"
  cp "$name.slot.cfg" "$work/payload/slot.cfg"
  dd if="$name.raw" of="$work/payload/head" bs=1M count="$slot_a_at" conv=sparse status=none
  logged "$work/payload.log" mksquashfs "$work/payload" "$root/sluice/payload" -comp zstd -Xcompression-level "${iso_level:-15}" -b 1M \
    -noappend -no-progress -no-xattrs -all-root -processors 2

  # GRUB looks for the medium by a file that only this build has.
  : >"$root/sluice/$(sed -n 's/^set slot_root=//p' "$name.slot.cfg")"
  # shellcheck disable=SC2016  # GRUB's variable
  printf 'search --file --set=root /sluice/%s\nset prefix=($root)/boot/grub\n' "$(sed -n 's/^set slot_root=//p' "$name.slot.cfg")" >"$work/find.cfg"
  grub-mkimage -O i386-pc -p /boot/grub -c "$work/find.cfg" -o "$work/core.img" biosdisk iso9660 search search_fs_file "${grub_modules[@]}"
  cat "$grub_pc/cdboot.img" "$work/core.img" >"$root/boot/grub/bios.img"
  grub-mkimage -O x86_64-efi -p /boot/grub -c "$work/find.cfg" -o "$work/BOOTX64.EFI" iso9660 search search_fs_file "${grub_modules[@]}" all_video efi_gop
  rm -f "$work/efi.img"
  truncate -s 4M "$work/efi.img"
  mformat -i "$work/efi.img" -N 51ce0001 ::
  mmd -i "$work/efi.img" ::/EFI ::/EFI/BOOT
  mcopy -i "$work/efi.img" "$work/BOOTX64.EFI" ::/EFI/BOOT/
  # A place on the stick itself for the site's file, that any computer can write to.
  truncate -s 4M "$work/site.img"
  mformat -i "$work/site.img" -N 51ce0002 -v SLUICE ::

  find "$root" -exec touch -hd "@$SOURCE_DATE_EPOCH" {} +
  logged "$work/xorriso.log" xorriso -as mkisofs -o "$name.iso" -V SLUICE_INSTALL -r -J \
    -b boot/grub/bios.img -no-emul-boot -boot-load-size 4 -boot-info-table --grub2-boot-info --grub2-mbr "$grub_pc/boot_hybrid.img" \
    -append_partition 2 0xef "$work/efi.img" -append_partition 3 0x0c "$work/site.img" \
    -eltorito-alt-boot -e --interval:appended_partition_2:all:: -no-emul-boot "$root"
  rm -rf "$root" "$work/payload" "$work/efi.img" "$work/site.img"
}
