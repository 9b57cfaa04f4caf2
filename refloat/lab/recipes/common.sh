# shellcheck shell=sh
# Shared by the recipes; runs inside the new root.
KERNEL=$(ls /lib/modules)
test "$(echo "$KERNEL" | wc -l)" = 1

# The core has all that the menu needs built in: each file read through the BIOS costs time, most of
# all under emulation.
install_grub() {
    mkdir -p /boot/grub/i386-pc
    cp /usr/lib/grub/i386-pc/*.mod /usr/lib/grub/i386-pc/*.lst /usr/lib/grub/i386-pc/boot.img /boot/grub/i386-pc/
    grub-mkimage -O i386-pc -p '(hd0,msdos1)/boot/grub' -o /boot/grub/i386-pc/core.img \
        biosdisk part_msdos ext2 normal linux echo test search search_fs_uuid configfile loadenv minicmd gzio serial
    grub-editenv /boot/grub/grubenv create
}

# Names of units that only cost time on a machine that lives for an hour.
disable_housekeeping() {
    systemctl --quiet disable apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
        e2scrub_all.timer e2scrub_reap.service fstrim.timer
}

drop_build_leftovers() {
    rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/debconf/*-old /var/lib/dpkg/*-old /var/log/*.log \
        /var/log/apt /usr/share/info
}
