#!/bin/sh
# The controller: an appliance that holds other machines' disks and must not touch them by itself,
# and that is reachable as early as possible. Runs inside the new root.
set -eu
. /run/recipes/common.sh

echo refloat-controller >/etc/hostname
printf '127.0.0.1\tlocalhost refloat-controller\n' >/etc/hosts
echo c0f7a10e5b2d4d6c9e3f8a1b7c5d2e90 >/etc/machine-id
echo "UUID=$FS_UUID / ext4 errors=remount-ro,noatime 0 0" >/etc/fstab
rm -f /etc/resolv.conf
: >/etc/resolv.conf

# --- no disk but its own -----------------------------------------------------------------------
# An empty devices file: LVM sees nothing unless a command names its devices (--devices).
mkdir -p /etc/lvm/devices /etc/lvm/profile
printf 'VERSION=1.1.1\n' >/etc/lvm/devices/system.devices
cat >/etc/lvm/lvmlocal.conf <<'END'
devices {
    use_devicesfile = 1
}
global {
    event_activation = 0
}
activation {
    auto_activation_volume_list = []
    monitoring = 0
}
END
ln -sf /dev/null /etc/udev/rules.d/64-md-raid-assembly.rules
ln -sf /dev/null /etc/udev/rules.d/63-md-raid-arrays.rules
ln -sf /dev/null /etc/udev/rules.d/69-md-clustered-confirm-device.rules
ln -sf /dev/null /etc/udev/rules.d/69-lvm.rules
ln -sf /dev/null /etc/udev/rules.d/64-btrfs.rules
ln -sf /dev/null /etc/udev/rules.d/64-btrfs-dm.rules
mkdir -p /etc/mdadm
printf 'AUTO -all\nMAILADDR root\n' >/etc/mdadm/mdadm.conf
echo 'options nbd nbds_max=16 max_part=16' >/etc/modprobe.d/nbd.conf
systemctl --quiet mask swap.target lvm2-monitor.service lvm2-lvmpolld.socket lvm2-lvmpolld.service \
    blk-availability.service dm-event.socket dm-event.service mdmonitor.service mdmonitor-oneshot.timer \
    mdcheck_start.timer mdcheck_continue.timer

# --- network and ssh ---------------------------------------------------------------------------
mkdir -p /etc/systemd/network
cat >/etc/systemd/network/10-any.network <<'END'
# Whatever NIC the platform gives. No wait for anything: a controller has one network.
[Match]
Type=ether

[Network]
DHCP=ipv4
LinkLocalAddressing=no
IPv6AcceptRA=no
ConfigureWithoutCarrier=yes

[DHCPv4]
ClientIdentifier=mac
UseDNS=no
UseNTP=no
UseHostname=no
END
systemctl --quiet enable systemd-networkd.service
systemctl --quiet mask systemd-networkd-wait-online.service systemd-network-generator.service

# The host key is put in per deployment; the package's own would be the same everywhere.
rm -f /etc/ssh/ssh_host_*
install -d -m 0700 /root/.ssh
cat >/etc/ssh/sshd_config.d/refloat.conf <<'END'
HostKey /etc/ssh/ssh_host_ed25519_key
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
GSSAPIAuthentication no
UsePAM no
UseDNS no
X11Forwarding no
PrintMotd no
AllowTcpForwarding yes
AllowStreamLocalForwarding yes
StreamLocalBindUnlink yes
MaxSessions 64
MaxStartups 64
END
usermod -p '*' root # no password, yet not locked: sshd without PAM refuses locked accounts
# sshd needs neither the network nor most of the boot; it listens on every address, whenever that
# comes. A whole unit, because a drop-in cannot take an After= away.
cat >/etc/systemd/system/ssh.service <<'END'
[Unit]
Description=OpenBSD Secure Shell server, early
DefaultDependencies=no
Requires=local-fs.target
After=local-fs.target systemd-tmpfiles-setup.service systemd-sysusers.service
Conflicts=shutdown.target
Before=shutdown.target

[Service]
Type=notify
ExecStart=/usr/sbin/sshd -D
ExecReload=/bin/kill -HUP $MAINPID
KillMode=process
Restart=on-failure
RestartSec=2
RuntimeDirectory=sshd
RuntimeDirectoryMode=0755

[Install]
WantedBy=multi-user.target
END
systemctl --quiet enable ssh.service

# --- what makes this image one controller --------------------------------------------------------
# The seed lies between the boot loader and the first partition (refloat/controller/seed.py): whose key is
# accepted, this machine's host key, and its address where it is static. Used once, before sshd starts.
cat >/usr/local/sbin/refloat-seed <<'END'
#!/bin/sh
set -eu
umask 077
root=$(readlink -f "/sys/dev/block/$(stat -c '%Hd:%Ld' /)")
disk=${root%/*}
dd if="/dev/${disk##*/}" of=/run/seed bs=65536 skip=8 count=1 status=none
read -r magic length sum </run/seed || exit 0
[ "$magic" = REFLOAT-SEED-1 ] || exit 0
header="$magic $length $sum"
tail -c "+$((${#header} + 2))" /run/seed | head -c "$length" >/run/seed.tar
echo "$sum  /run/seed.tar" | sha256sum -c --status
tar -x --numeric-owner --no-overwrite-dir -C / -f /run/seed.tar
sync
rm /run/seed /run/seed.tar
END
chmod 0755 /usr/local/sbin/refloat-seed
cat >/etc/systemd/system/refloat-seed.service <<'END'
[Unit]
Description=Keys and address of this controller
DefaultDependencies=no
Requires=local-fs.target
After=local-fs.target
Before=ssh.service systemd-networkd.service shutdown.target
Conflicts=shutdown.target
ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/refloat-seed

[Install]
WantedBy=multi-user.target
END
systemctl --quiet enable refloat-seed.service

# --- a fast boot -------------------------------------------------------------------------------
disable_housekeeping
systemctl --quiet mask systemd-pstore.service systemd-binfmt.service systemd-update-utmp.service \
    systemd-update-utmp-runlevel.service dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount \
    sys-kernel-tracing.mount sys-kernel-config.mount sys-fs-fuse-connections.mount modprobe@drm.service getty@tty1.service \
    systemd-journal-flush.service systemd-tmpfiles-clean.timer
# gpt-auto and lvm2 are also here for safety: they would look at the replicas' partition tables.
mkdir -p /etc/systemd/system-generators
for generator in systemd-gpt-auto lvm2-activation systemd-cryptsetup systemd-veritysetup systemd-integritysetup \
    systemd-hibernate-resume systemd-bless-boot systemd-rc-local systemd-sysv systemd-system-update; do
    ln -sf /dev/null "/etc/systemd/system-generators/$generator-generator"
done
# Network first: logind (the power button) and the console's login can wait a second.
mkdir -p /etc/systemd/system/systemd-logind.service.d /etc/systemd/system/serial-getty@.service.d
printf '[Unit]\nAfter=systemd-networkd.service\n' |
    tee /etc/systemd/system/systemd-logind.service.d/later.conf >/etc/systemd/system/serial-getty@.service.d/later.conf
# Hardware of the emulated board that a controller never uses.
for module in kvm_amd kvm_intel ccp ppdev parport_pc psmouse pcspkr i2c_i801 lpc_ich iTCO_wdt joydev serio_raw sr_mod sg cdrom bochs drm snd_hda_intel; do
    echo "blacklist $module"
done >/etc/modprobe.d/refloat-unused.conf
mkdir -p /etc/systemd/journald.conf.d
printf '[Journal]\nStorage=volatile\nRuntimeMaxUse=16M\n' >/etc/systemd/journald.conf.d/refloat.conf

cat >>/etc/initramfs-tools/modules <<'END'
virtio_pci
virtio_blk
virtio_scsi
ahci
sd_mod
ext4
END
sed -i -e 's/^MODULES=.*/MODULES=list/' -e 's/^BUSYBOX=.*/BUSYBOX=n/' -e 's/^COMPRESS=.*/COMPRESS=zstd/' \
    /etc/initramfs-tools/initramfs.conf
echo 'RESUME=none' >/etc/initramfs-tools/conf.d/resume
update-initramfs -c -k "$KERNEL"

install_grub
cat >/boot/grub/grub.cfg <<END
terminal_input console
terminal_output console
set timeout=0
linux /boot/vmlinuz-$KERNEL root=UUID=$FS_UUID ro console=ttyS0,115200 quiet noresume net.ifnames=0 systemd.gpt_auto=0 systemd.swap=0
initrd /boot/initrd.img-$KERNEL
boot
END

# Both Pythons' caches: a first import that compiles costs seconds under emulation.
python3 -m compileall -q /usr/lib/python3.11 /usr/lib/python3 || true
drop_build_leftovers
