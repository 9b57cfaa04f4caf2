# Makes the filesystems of a guest that needs a device-mapper, in a controller: /boot on the first partition,
# the root on a volume of the second. Runs after lines that set LAYOUT, ROOT_UUID, BOOT_UUID, LUKS_UUID and
# PASSPHRASE; the disk and the tree's tar are found by their serials.
# shellcheck shell=sh
set -eu
disk=/dev/disk/by-id/virtio-guest
tree=/dev/disk/by-id/virtio-tree
udevadm settle
case $LAYOUT in
lvm)
    pv=$(readlink -f "$disk-part2")
    lvm_here() {
        tool=$1
        shift
        "$tool" --devices "$pv" --config 'devices { use_devicesfile=0 }' "$@" >&2
    }
    lvm_here pvcreate -q "$pv"
    lvm_here vgcreate -q vg0 "$pv"
    lvm_here lvcreate -q -y -Wn -n root -L 2400M vg0
    volume=/dev/mapper/vg0-root
    close() { lvm_here vgchange -q -an vg0; }
    ;;
luks)
    printf %s "$PASSPHRASE" | cryptsetup luksFormat -q --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 \
        --uuid "$LUKS_UUID" "$disk-part2" - >&2
    printf %s "$PASSPHRASE" | cryptsetup open "$disk-part2" guest-root - >&2
    volume=/dev/mapper/guest-root
    close() { cryptsetup close guest-root; }
    ;;
esac
mke2fs -q -t ext4 -U "$ROOT_UUID" -J size=16 "$volume" >&2
mke2fs -q -t ext4 -U "$BOOT_UUID" -J size=16 "$disk-part1" >&2
mkdir -p /run/guest
mount "$volume" /run/guest
mkdir /run/guest/boot
mount "$disk-part1" /run/guest/boot
tar -x --numeric-owner --xattrs --xattrs-include='*' -f "$tree" -C /run/guest
umount /run/guest/boot /run/guest
close
sync
