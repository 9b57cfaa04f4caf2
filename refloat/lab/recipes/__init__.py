"""What the lab's images are made of: rows of data; the scripts beside this file do the work in the chroot."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SUITE = "bookworm"

_DIRECTORY = Path(__file__).parent

# Documentation and drivers of hardware that no VM has: the first sync copies every allocated block.
_NO_DOCS = tuple(f"/usr/share/{folder}/*" for folder in ["doc", "man", "info", "locale", "lintian", "bug"])
_NO_HARDWARE = tuple(
    f"/lib/modules/*/kernel/{folder}/*"
    for folder in [
        "drivers/gpu",
        "drivers/media",
        "drivers/iio",
        "drivers/staging",
        "drivers/infiniband",
        "drivers/comedi",
        "drivers/net/wireless",
        "drivers/bluetooth",
        "drivers/isdn",
        "drivers/mtd",
        "drivers/hwmon",
        "drivers/thunderbolt",
        "drivers/platform",
        "drivers/mmc",
        "net/bluetooth",
        "net/mac80211",
        "net/wireless",
        "sound",
    ]
)
_NO_LAB_HARDWARE = tuple(
    f"/lib/modules/*/kernel/drivers/{folder}/*"
    for folder in [
        "net/ethernet",
        "usb",
        "hid",
        "scsi/qla2xxx",
        "scsi/lpfc",
        "scsi/bfa",
        "scsi/be2iscsi",
        "target",
    ]
)
# lvm2, mdadm and friends would put themselves into the initrd and look at every disk from there.
_NO_INITRD_HOOKS = tuple(
    f"/usr/share/initramfs-tools/{part}/{tool}"
    for part in [
        "hooks",
        "scripts/local-top",
        "scripts/local-block",
        "scripts/local-bottom",
        "scripts/init-premount",
    ]
    for tool in ["lvm2", "mdadm", "btrfs", "ntfs_3g", "ntfs-3g", "dmsetup", "xfs"]
)

_BASE = (
    "linux-image-amd64",
    "systemd-sysv",
    "udev",
    "kmod",
    "initramfs-tools",
    "busybox",
    "openssh-server",
    "dbus",
    "iproute2",
    "e2fsprogs",
    "zstd",
)


@dataclass(frozen=True)
class Recipe:
    """One system disk: an MBR with one ext4 root partition that starts at 1 MiB. Sizes are in MiB."""

    name: str
    packages: tuple[str, ...]
    excludes: tuple[str, ...]
    script: str
    size_mib: int
    fs_uuid: str
    fs_label: str
    disk_id: str

    def scripts(self) -> bytes:
        """Every script's text that has a part in the disk: a change of any makes another image."""
        names = ("disk.sh", "common.sh", self.script, "data.sh")
        return b"".join((_DIRECTORY / name).read_bytes() for name in names)


SOURCE = Recipe(
    name="source",
    packages=(*_BASE, "ifupdown", "iputils-ping", "grub-pc"),
    excludes=(*_NO_DOCS, *_NO_HARDWARE, *_NO_LAB_HARDWARE),
    script="source.sh",
    size_mib=2048,
    fs_uuid="5c1f9a7e-2d4b-4e0a-9b5d-6f0f1c2a7d11",
    fs_label="",
    disk_id="0x5ea0f10a",
)

CONTROLLER = Recipe(
    name="controller",
    packages=(
        *_BASE,
        *[
            "grub2-common",
            "grub-pc-bin",
            "lvm2",
            "cryptsetup-bin",
            "mdadm",
            "xfsprogs",
            "btrfs-progs",
            "ntfs-3g",
            "dosfstools",
            "bubblewrap",
        ],
        *["fdisk", "qemu-utils", "python3", "python3-hivex", "xz-utils", "lz4", "bzip2", "lzop", "cpio"],
    ),
    excludes=(*_NO_DOCS, *_NO_HARDWARE, *_NO_INITRD_HOOKS),
    script="controller.sh",
    size_mib=6144,
    fs_uuid="0b6e3c52-8a51-4c0f-8e5e-3d9d6f7ac001",
    fs_label="refloat-ctl",
    disk_id="0x5ea0f10c",
)

# The source's second disk: one MBR partition with its own filesystem, mounted on /srv/data by /dev/sdb1.
DATA_SIZE_MIB = 256
DATA_UUID = "a1d2c3b4-7788-4f5e-8a9b-0c1d2e3f4a5b"
DATA_DISK_ID = "0x5ea0f10b"


def script(name: str) -> Path:
    return _DIRECTORY / name
