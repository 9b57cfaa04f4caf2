#!/bin/sh
# Turns a root filesystem's tar into a bootable raw disk.
#
# Runs in mount and PID namespaces of its own (unshare): whatever happens, kill -9 included, the
# mounts vanish with the process, and the loop device (autoclear) with the last mount.
#
# usage: disk.sh IMAGE SIZE_MIB FS_UUID FS_LABEL DISK_ID TAR RECIPES SCRIPT
set -eu
umask 022
image=$1 size_mib=$2 fs_uuid=$3 fs_label=$4 disk_id=$5 tar=$6 recipes=$7 script=$8
root=$image.mnt
start=1048576
bytes=$(((size_mib - 1) * 1048576))

truncate -s "${size_mib}M" "$image"
printf 'label: dos\nlabel-id: %s\n2048,,L,*\n' "$disk_id" | sfdisk -q "$image"
# assume_storage_prezeroed: the file is sparse, so inode tables need not be written, now or at first mount.
mke2fs -q -t ext4 -U "$fs_uuid" -L "$fs_label" -m 1 -J size=16 \
    -E "offset=$start,assume_storage_prezeroed=1" "$image" "$((bytes / 1024))k"

mkdir "$root"
mount -t ext4 -o "loop,offset=$start,sizelimit=$bytes,noatime,nobarrier" "$image" "$root"
tar -x --numeric-owner --xattrs --xattrs-include='*' -f "$tar" -C "$root"

mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t tmpfs tmpfs "$root/run"
mkdir "$root/run/recipes"
cp "$recipes"/*.sh "$root/run/recipes/"
# A clean environment: TMPDIR and the like of the host mean nothing in there.
env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 \
    DEBIAN_FRONTEND=noninteractive FS_UUID="$fs_uuid" \
    chroot "$root" /bin/sh "/run/recipes/$script"
umount "$root/run" "$root/sys" "$root/proc"
umount -l "$root/dev"

cp "$root/boot/grub/i386-pc/boot.img" "$image.boot"
cp "$root/boot/grub/i386-pc/core.img" "$image.core"
fstrim "$root" || true # only makes the file smaller
umount "$root"
rmdir "$root"

# What grub-install would do, without the partition nodes that it needs: the boot code (not the
# partition table behind byte 440) and the core in the gap before the first partition.
# From 512 KiB on the gap belongs to a controller's seed: see controller.sh.
test "$(stat -c %s "$image.core")" -lt $((start / 2 - 512))
dd if="$image.boot" of="$image" bs=440 count=1 conv=notrunc status=none
dd if="$image.core" of="$image" bs=512 seek=1 conv=notrunc status=none
rm "$image.boot" "$image.core"
sync "$image"
