#!/bin/sh
# A root filesystem's tar becomes a guest's bootable raw disk. Runs in mount and PID namespaces of its own:
# whatever happens, no mount and no loop device outlives it. Nothing of the guest's needs partition nodes.
#
# usage: disk.sh DIRECTORY TAR RECIPES MIB; the rest as guest.sh, and WHO, the command that says who the guest is.
# Leaves DIRECTORY/system.raw, DIRECTORY/identity, for layouts that need a device-mapper (lvm, luks)
# DIRECTORY/tree.tar, and DIRECTORY/seed.img for a cloud-init that is to have run.
set -eu
umask 022
work=$1 tar=$2 recipes=$3 mib=$4
root=$work/root
image=$work/system.raw

mkdir "$root"
mount -t tmpfs -o size=6G,mode=0755 tmpfs "$root"
tar -x --numeric-owner --xattrs --xattrs-include='*' -f "$tar" -C "$root"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t tmpfs tmpfs "$root/run"
mkdir "$root/run/build"
mount --bind "$work" "$root/run/build"
in_guest() {
    env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 \
        DEBIAN_FRONTEND=noninteractive NAME="$NAME" TOOL="$TOOL" STACK="$STACK" FILESYSTEM="$FILESYSTEM" \
        LAYOUT="$LAYOUT" FIRMWARE="$FIRMWARE" ESP="$ESP" CLOUD_INIT="$CLOUD_INIT" NICS="$NICS" DNS="$DNS" KEY="$KEY" \
        ROOT_SPEC="$ROOT_SPEC" ROOT_UUID="$ROOT_UUID" BOOT_UUID="$BOOT_UUID" LUKS_UUID="$LUKS_UUID" \
        MACHINE_ID="$MACHINE_ID" chroot "$root" "$@"
}
cp "$recipes/guest.sh" "$root/run/guest.sh"
in_guest /bin/sh /run/guest.sh
in_guest sh -c "$WHO" >"$work/identity"

truncate -s "${mib}M" "$image"
first=2048
case $FIRMWARE:$LAYOUT in
uefi:*)
    first=133120
    printf 'label: gpt\n2048,131072,U\n133120,,L\n' | sfdisk -q "$image"
    esp=$work/esp.img
    truncate -s 64M "$esp"
    in_guest mkfs.vfat -n ESP -i "$ESP_ID" /run/build/esp.img >/dev/null
    in_guest mmd -i /run/build/esp.img ::/EFI ::/EFI/debian
    # Neither boot entries (those were in the old machine's NVRAM) nor a fallback loader.
    in_guest mcopy -i /run/build/esp.img /usr/lib/shim/shimx64.efi.signed ::/EFI/debian/shimx64.efi
    in_guest mcopy -i /run/build/esp.img /usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed ::/EFI/debian/grubx64.efi
    printf "search.fs_uuid %s root\nset prefix=(\$root)'/boot/grub'\nconfigfile \$prefix/grub.cfg\n" "$ROOT_UUID" >"$work/grub.cfg"
    in_guest mcopy -i /run/build/esp.img /run/build/grub.cfg ::/EFI/debian/grub.cfg
    dd if="$esp" of="$image" bs=1M seek=1 conv=notrunc,sparse status=none
    rm "$esp" "$work/grub.cfg"
    ;;
*:plain) printf 'label: dos\nlabel-id: %s\n2048,,L,*\n' "$DISK_ID" | sfdisk -q "$image" ;;
*) printf 'label: dos\nlabel-id: %s\n2048,524288,L,*\n526336,,%s\n' "$DISK_ID" "$([ "$LAYOUT" = lvm ] && echo V || echo L)" | sfdisk -q "$image" ;;
esac
if [ "$FIRMWARE" = bios ]; then
    # What grub-install would do, without the partition nodes that it needs.
    test "$(stat -c %s "$root/boot/grub/i386-pc/core.img")" -lt $((1048576 - 512))
    dd if="$root/boot/grub/i386-pc/boot.img" of="$image" bs=440 count=1 conv=notrunc status=none
    dd if="$root/boot/grub/i386-pc/core.img" of="$image" bs=512 seek=1 conv=notrunc status=none
fi

if [ "$LAYOUT" = plain ]; then # with the guest's own tools: those of its age
    part=$work/part.img
    truncate -s $((mib * 1048576 - first * 512 - 1048576)) "$part"
    case $FILESYSTEM in
    ext4) in_guest mke2fs -q -t ext4 -U "$ROOT_UUID" -J size=16 /run/build/part.img ;;
    xfs) in_guest mkfs.xfs -q -m "uuid=$ROOT_UUID" /run/build/part.img ;;
    btrfs) in_guest mkfs.btrfs -q -U "$ROOT_UUID" /run/build/part.img ;;
    esac
    to=$root/mnt
    mount -t "$FILESYSTEM" -o loop,noatime "$part" "$to"
    if [ "$FILESYSTEM" = btrfs ]; then
        in_guest btrfs -q subvolume create /mnt/@rootfs
        in_guest btrfs -q subvolume create /mnt/@home
        to=$root/mnt/@rootfs
    fi
fi
umount "$root/run/build" "$root/run" "$root/sys" "$root/proc"
umount -l "$root/dev"
pack() { tar -c --one-file-system --numeric-owner --xattrs --xattrs-include='*' -C "$root" .; }
if [ "$LAYOUT" = plain ]; then
    pack | tar -x --numeric-owner --xattrs --xattrs-include='*' -C "$to"
    umount "$root/mnt"
    dd if="$part" of="$image" bs=1M seek=$((first * 512)) oflag=seek_bytes conv=notrunc,sparse status=none
    rm "$part"
else
    pack >"$work/tree.tar"
fi
umount "$root"
rmdir "$root"
sync "$image"
