#!/bin/sh
# One guest as it looks after years on VMware. Runs inside the new root; all that varies comes from the
# environment: NAME TOOL STACK FILESYSTEM LAYOUT FIRMWARE ESP CLOUD_INIT NICS DNS ROOT_SPEC ROOT_UUID BOOT_UUID
# LUKS_UUID KEY. NICS has a line per adapter: name, address, gateway, IPv6 address, its gateway ("-": none).
set -eu
KERNEL=$(ls /lib/modules)
test "$(echo "$KERNEL" | wc -l)" = 1

# --- who it is ------------------------------------------------------------------------------------
echo "$NAME" >/etc/hostname
printf '127.0.0.1\tlocalhost\n127.0.1.1\t%s\n' "$NAME" >/etc/hosts
printf '%s\n' "$MACHINE_ID" >/etc/machine-id
rm -f /var/lib/dbus/machine-id /etc/resolv.conf
systemd-sysusers # as its first boot did, years ago: it adds users (Debian 11: systemd-coredump)
useradd --create-home --uid 1000 --user-group --shell /bin/bash app
install -d -m 0700 /root/.ssh
echo "$KEY" >/root/.ssh/authorized_keys
chmod 0600 /root/.ssh/authorized_keys
rm -f /etc/ssh/ssh_host_*
ssh-keygen -q -A

# --- storage --------------------------------------------------------------------------------------
boot=/boot
case $LAYOUT in
lvm | luks) boot= ;; # of a filesystem of its own
esac
options=defaults
flags=
case $FILESYSTEM in
ext4) options=errors=remount-ro ;;
btrfs) options=defaults,subvol=@rootfs flags="rootflags=subvol=@rootfs " boot=/@rootfs/boot ;;
esac
{
    echo '# <file system> <mount point> <type> <options> <dump> <pass>'
    echo "$ROOT_SPEC / $FILESYSTEM $options 0 1"
    [ "$FILESYSTEM" != btrfs ] || echo "$ROOT_SPEC /home btrfs defaults,subvol=@home 0 2"
    [ "$LAYOUT" = plain ] || echo '/dev/sda1 /boot ext4 defaults 0 2'
    [ "$ESP" != fstab ] || echo '/dev/sda1 /boot/efi vfat umask=0077 0 1'
} >/etc/fstab
mkdir -p /boot/efi
[ "$LAYOUT" != luks ] || echo "sda2_crypt UUID=$LUKS_UUID none luks,discard,initramfs" >/etc/crypttab

# --- network --------------------------------------------------------------------------------------
ifupdown() {
    echo "nameserver $DNS" >/etc/resolv.conf
    printf '# The loopback network interface\nauto lo\niface lo inet loopback\n' >/etc/network/interfaces
    echo "$NICS" | while read -r name address gateway address6 gateway6; do
        printf '\nauto %s\niface %s inet static\n\taddress %s\n' "$name" "$name" "$address"
        [ "$gateway" = - ] || printf '\tgateway %s\n' "$gateway"
        [ "$address6" = - ] || printf '\niface %s inet6 static\n\taddress %s\n' "$name" "$address6"
        [ "$gateway6" = - ] || printf '\tgateway %s\n' "$gateway6"
    done >>/etc/network/interfaces
}

ethernets() {
    printf 'network:\n  version: 2\n  renderer: networkd\n  ethernets:\n'
    echo "$NICS" | while read -r name address gateway address6 gateway6; do
        printf '    %s:\n      dhcp4: no\n      addresses:\n        - %s\n' "$name" "$address"
        [ "$gateway" = - ] || printf '      routes:\n        - to: default\n          via: %s\n' "$gateway"
        [ "$gateway" = - ] || printf '      nameservers:\n        addresses: [%s]\n' "$DNS"
    done
}

netplan() {
    echo "nameserver $DNS" >/etc/resolv.conf
    command -v netplan >/dev/null
    [ "$CLOUD_INIT" != recorded ] || return 0 # it writes the network itself
    {
        echo '# The server has one address.'
        ethernets
    } >/etc/netplan/01-netcfg.yaml
    chmod 0600 /etc/netplan/01-netcfg.yaml
}

networkmanager() {
    echo "$NICS" | while read -r name address gateway address6 gateway6; do
        file="/etc/NetworkManager/system-connections/$name.nmconnection"
        {
            printf '[connection]\nid=%s\nuuid=%s\ntype=ethernet\ninterface-name=%s\n\n' "$name" \
                "$(cat /proc/sys/kernel/random/uuid)" "$name"
            printf '[ipv4]\nmethod=manual\naddress1=%s\ngateway=%s\ndns=%s;\n\n' "$address" "$gateway" "$DNS"
            printf '[ipv6]\nmethod=disabled\n'
        } >"$file"
        chmod 0600 "$file"
    done
}

"$STACK"

# What runs once, on VMware's hardware, before the disk is done (see build.py). It ends with the power off.
first_life() { # COMMAND
    cat >/etc/systemd/system/first-life.service <<UNIT
[Unit]
Description=What happened on the source
After=multi-user.target
[Service]
Type=oneshot
StandardOutput=journal+console
StandardError=journal+console
ExecStart=/bin/sh -c '$1 && systemctl disable first-life.service && rm /etc/systemd/system/first-life.service && sync && echo FIRST-LIFE-DONE; systemctl poweroff'
[Install]
WantedBy=multi-user.target
UNIT
    systemctl --quiet enable first-life.service
}

# It ran on another platform: what it meets after the failover is a new instance to cloud-init, which
# then makes new host keys, sets the hostname and writes the network anew.
[ -z "$CLOUD_INIT" ] || printf 'datasource_list: [ NoCloud, None ]\n' >/etc/cloud/cloud.cfg.d/90_datasource.cfg

# Its record of the instance is lost, as after a clean.
unrecorded() {
    mkdir -p /var/lib/cloud/instances/iid-vmware/sem /var/lib/cloud/data
    ln -s instances/iid-vmware /var/lib/cloud/instance
    echo iid-vmware >/var/lib/cloud/data/instance-id
    cp /var/lib/cloud/data/instance-id /var/lib/cloud/data/previous-instance-id
    touch /var/lib/cloud/instances/iid-vmware/sem/config_ssh /var/lib/cloud/instances/iid-vmware/boot-finished
}

# The source has a disk from which cloud-init makes the machine at its first boot; the destination has none.
recorded() {
    first_life 'cloud-init status --wait >/dev/null; test -s /var/lib/cloud/instance/obj.pkl'
    mkdir /run/seed
    cd /run/seed
    printf 'instance-id: iid-vmware\nlocal-hostname: %s\n' "$NAME" >meta-data
    ethernets >network-config
    cat >user-data <<'SEED'
#cloud-config
disable_root: false
ssh_genkeytypes: [ecdsa, ed25519]
chpasswd:
  expire: false
  users:
    - name: app
      type: hash
      password: "$6$refloattests$YZZsScxMFVTwtUYKNajlpM.6rCLoUCtl.QlEaAlhfbWtPrNNzgAXgTjzYB/1Wstyk3eZ1rQChGdmkqdA1j0dL1"
SEED
    truncate -s 1M /run/build/seed.img
    mkfs.vfat -n CIDATA /run/build/seed.img >/dev/null
    mcopy -i /run/build/seed.img meta-data user-data network-config ::
    cd /
}

[ -z "$CLOUD_INIT" ] || "$CLOUD_INIT"

# --- the initramfs has VMware's drivers, and nothing of virtio --------------------------------------
# Newer kernels probe disks side by side: with the disk driver there before the adapter, each is named
# when it is found.
echo 'softdep vmw_pvscsi pre: sd_mod' >/etc/modprobe.d/disk-order.conf
initramfs_tools() {
    modules=/etc/initramfs-tools/modules
    cp $modules /run/modules.default
    list="vmw_pvscsi sd_mod sr_mod vmxnet3 ata_piix ata_generic ahci mptspi $FILESYSTEM ext4"
    [ "$LAYOUT" != luks ] || list="$list dm-crypt aes xts"
    for module in $list; do echo "$module"; done >>$modules
    sed -i 's/^MODULES=.*/MODULES=list/' /etc/initramfs-tools/initramfs.conf
    [ "$LAYOUT" != luks ] || echo 'CRYPTSETUP=y' >>/etc/cryptsetup-initramfs/conf-hook
    update-initramfs -c -k "$KERNEL"
    cp /run/modules.default $modules
    sed -i 's/^MODULES=.*/MODULES=most/' /etc/initramfs-tools/initramfs.conf
    if lsinitramfs "/boot/initrd.img-$KERNEL" | grep virtio_blk; then
        echo "the initramfs has virtio in it: not the VMware guest that is wanted" >&2
        exit 1
    fi
}

# dracut looks at the hardware on which it runs: this one boots once, on VMware's, and makes its own there.
dracut_first() {
    dracut --force --no-hostonly --omit "qemu qemu-net virtfs virtiofs" \
        --add-drivers "vmw_pvscsi sd_mod $FILESYSTEM" --omit-drivers "virtio_blk virtio_scsi virtio_net" \
        "/boot/initrd.img-$KERNEL" "$KERNEL" >/dev/null
    first_life 'dracut --force --hostonly --omit "qemu qemu-net" /boot/initrd.img-$(uname -r) $(uname -r)'
}

case $TOOL in
initramfs-tools) initramfs_tools ;;
dracut) dracut_first ;;
esac

# --- GRUB, as update-grub writes it on such a machine ------------------------------------------------
if [ "$FIRMWARE" = bios ]; then
    mkdir -p /boot/grub/i386-pc
    cp /usr/lib/grub/i386-pc/*.mod /usr/lib/grub/i386-pc/*.lst /usr/lib/grub/i386-pc/boot.img /boot/grub/i386-pc/
    grub-mkimage -O i386-pc -p "(hd0,msdos1)$boot/grub" -o /boot/grub/i386-pc/core.img \
        biosdisk part_msdos ext2 xfs btrfs normal linux echo test search search_fs_uuid configfile loadenv \
        minicmd gzio serial
else
    mkdir -p /boot/grub/x86_64-efi
    cp /usr/lib/grub/x86_64-efi/*.mod /usr/lib/grub/x86_64-efi/*.lst /boot/grub/x86_64-efi/
fi
grub-editenv /boot/grub/grubenv create
sed -i -e 's/^GRUB_TIMEOUT=.*/GRUB_TIMEOUT=0/' \
    -e 's/^GRUB_CMDLINE_LINUX=.*/GRUB_CMDLINE_LINUX="scsi_mod.scan=sync console=tty0 console=ttyS0,115200"/' \
    -e 's/^#* *GRUB_DISABLE_LINUX_UUID=.*/GRUB_DISABLE_LINUX_UUID=true/' /etc/default/grub 2>/dev/null ||
    printf '%s\n' GRUB_DEFAULT=0 GRUB_TIMEOUT=0 'GRUB_CMDLINE_LINUX_DEFAULT="quiet"' GRUB_DISABLE_LINUX_UUID=true \
        'GRUB_CMDLINE_LINUX="scsi_mod.scan=sync console=tty0 console=ttyS0,115200"' >/etc/default/grub
arguments="root=$ROOT_SPEC ro ${flags}scsi_mod.scan=sync console=tty0 console=ttyS0,115200"
entry() { # TITLE ARGUMENTS
    cat <<END_ENTRY
menuentry '$1' --class debian --class gnu-linux --class gnu --class os {
	insmod gzio
	insmod part_msdos
	insmod ext2
	search --no-floppy --fs-uuid --set=root $BOOT_UUID
	echo	'Loading Linux $KERNEL ...'
	linux	$boot/vmlinuz-$KERNEL $2
	echo	'Loading initial ramdisk ...'
	initrd	$boot/initrd.img-$KERNEL
}
END_ENTRY
}
{
    cat <<'END_HEAD'
#
# DO NOT EDIT THIS FILE
#
# It is automatically generated by grub-mkconfig using templates
# from /etc/grub.d and settings from /etc/default/grub
#
### BEGIN /etc/grub.d/00_header ###
if [ -s $prefix/grubenv ]; then
  set have_grubenv=true
  load_env
fi
set default="0"
terminal_input console
terminal_output console
set timeout_style=menu
set timeout=0
### END /etc/grub.d/00_header ###
### BEGIN /etc/grub.d/10_linux ###
END_HEAD
    entry 'Debian GNU/Linux' "$arguments"
    echo "submenu 'Advanced options for Debian GNU/Linux' {"
    entry "Debian GNU/Linux, with Linux $KERNEL (recovery mode)" "root=$ROOT_SPEC ro ${flags}single" | sed 's/^/	/'
    echo '}'
    echo '### END /etc/grub.d/10_linux ###'
} >/boot/grub/grub.cfg
chmod 0444 /boot/grub/grub.cfg
grub-script-check /boot/grub/grub.cfg

systemctl --quiet disable apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/log/*.log /var/log/apt
