"""Guests of every family: realistic trees, with kernels and initramfs in the formats of their tools."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

from refloat.guest.families import FAMILIES, Family
from refloat.guest.journal import Journal
from refloat.guest.linux import cpio, kernels, persistence
from refloat.guest.linux.storage import DeviceNames
from refloat.guest.notes import Notes
from refloat.guest.tree import Tree
from refloat.model import DiskBus, Firmware, GuestFacts, GuestFilesystem, GuestKernel, NicModel
from tests.unit.guest.archives import Image, build, make_kernel_modules
from tests.unit.guest.guests import GOLDEN, ORDER, filesystems, request

BY_PATH = "/dev/disk/by-path/pci-0000:03:00.0-scsi-0:0:1:0-part1"
UNIT = r"dev-disk-by\x2dpath-pci\x2d0000:03:00.0\x2dscsi\x2d0:0:1:0\x2dpart1"
FINISHED = "usr/lib/dracut/hooks/initqueue/finished"
UNITS = "etc/systemd/system"
FOREVER = "[Unit]\nJobTimeoutSec=0\nJobRunningTimeoutSec=0\n"
HOSTONLY = {
    "etc/cmdline.d/95root-dev.conf": " root=/dev/sda1 rootfstype=xfs rootflags=rw,relatime\n",
    "etc/cmdline.d/95resume.conf": " resume=/dev/sda5\n",
    f"{FINISHED}/devexists-x.sh": f'[ -e "{BY_PATH}" ]\n',
    f"{FINISHED}/devexists-y.sh": '[ -e "/dev/sdb1" ]\n',
    f"{FINISHED}/devexists-z.sh": '[ -e "/dev/mapper/vg-root" ]\n',
    f"{UNITS}/{UNIT}.device.d/timeout.conf": FOREVER,
    f"{UNITS}/dev-mapper-vg\\x2droot.device.d/timeout.conf": FOREVER,
    "etc/lvm/devices/system.devices": "VERSION=1.1.2\nIDTYPE=sys_wwid IDNAME=naa.6000c29 DEVNAME=/dev/sda2\n",
    "etc/mdadm.conf": "DEVICE /dev/sda1 /dev/sdb1\nARRAY /dev/md0 UUID=1:2:3:4\n",
}
TWINS = (f"{UNITS}/{UNIT}.device.d/timeout.conf", f"{UNITS}/dev-mapper-vg\\x2droot.device.d/timeout.conf")


@dataclass(frozen=True)
class Case:
    """A golden tree, its kernels (version, file), the suffix of their modules and their images."""

    family: str
    version: str
    suffix: str
    kernel: str
    images: dict[str, Image]
    empty: tuple[str, ...] = ()  # more files in /boot
    texts: dict[str, str] = field(default_factory=dict)


CASES = {
    "rhel7": Case(
        "redhat",
        "3.10.0-1160.el7.x86_64",
        ".ko.xz",
        "vmlinuz-3.10.0-1160.el7.x86_64",
        {"initramfs-3.10.0-1160.el7.x86_64.img": Image("dracut", "gzip", 1, HOSTONLY, TWINS)},
        empty=(
            "vmlinuz-0-rescue-0123",
            "initramfs-0-rescue-0123.img",
            "initramfs-3.10.0-1160.el7.x86_64kdump.img",
        ),
    ),
    "rhel8": Case(
        "redhat",
        "4.18.0-513.5.1.el8_9.x86_64",
        ".ko.xz",
        "vmlinuz-4.18.0-513.5.1.el8_9.x86_64",
        {"initramfs-4.18.0-513.5.1.el8_9.x86_64.img": Image("dracut-plain", "gzip", 1)},
    ),
    "rhel9": Case(
        "redhat",
        "5.14.0-427.13.1.el9_4.x86_64",
        ".ko.xz",
        "vmlinuz-5.14.0-427.13.1.el9_4.x86_64",
        {"initramfs-5.14.0-427.13.1.el9_4.x86_64.img": Image("dracut", "zstd", 1, HOSTONLY)},
    ),
    "fedora": Case(
        "fedora",
        "6.8.5-301.fc40.x86_64",
        ".ko.xz",
        "vmlinuz-6.8.5-301.fc40.x86_64",
        {"initramfs-6.8.5-301.fc40.x86_64.img": Image("dracut", "zstd", 1)},
    ),
    "amazon2023": Case(
        "amazon",
        "6.1.84-99.169.amzn2023.x86_64",
        ".ko.xz",
        "vmlinuz-6.1.84-99.169.amzn2023.x86_64",
        {"initramfs-6.1.84-99.169.amzn2023.x86_64.img": Image("dracut", "gzip")},
    ),
    "sles15": Case(
        "suse",
        "5.14.21-150500.53-default",
        ".ko.zst",
        "vmlinuz-5.14.21-150500.53-default",
        {"initrd-5.14.21-150500.53-default": Image("dracut", "xz", 1, merged=False)},
        empty=("System.map-5.14.21-150500.53-default", "vmlinux-5.14.21-150500.53-default.gz"),
    ),
    "ubuntu": Case(
        "ubuntu",
        "6.8.0-31-generic",
        ".ko.zst",
        "vmlinuz-6.8.0-31-generic",
        {"initrd.img-6.8.0-31-generic": Image("initramfs-tools", "zstd", 2)},
    ),
    "arch": Case(
        "arch",
        "6.9.1-arch1-1",
        ".ko.zst",
        "vmlinuz-linux",
        {
            "initramfs-linux.img": Image("mkinitcpio", "zstd", 1),
            "initramfs-linux-fallback.img": Image("mkinitcpio-systemd", "gzip"),
        },
        empty=("intel-ucode.img",),
        texts={"usr/lib/modules/6.9.1-arch1-1/pkgbase": "linux\n"},
    ),
    "alpine": Case(
        "alpine",
        "6.6.31-0-lts",
        ".ko.gz",
        "vmlinuz-lts",
        {"initramfs-lts": Image("mkinitfs", "gzip", merged=False)},
    ),
}


def family(name: str) -> Family:
    return next(row for row in FAMILIES if row.name == name)


def make(root: Path, name: str) -> Path:
    case = CASES[name]
    shutil.copytree(GOLDEN / f"family-{name}" / "tree", root, symlinks=True)
    if name != "alpine":
        (root / "usr/lib").mkdir(parents=True, exist_ok=True)
        (root / "lib").symlink_to("usr/lib")
    make_kernel_modules(root / "lib/modules" / case.version, case.suffix)
    (root / "boot").mkdir(exist_ok=True)
    for path in (case.kernel, *case.empty):
        (root / "boot" / path).write_bytes(b"x")
    for path, image in case.images.items():
        (root / "boot" / path).write_bytes(build(image, case.version, case.suffix))
    for path, text in case.texts.items():
        (root / path).write_text(text)
    for one in root.rglob("*"):
        if not one.is_symlink():
            one.chmod(0o755 if one.is_dir() else 0o600 if one.parent == root / "boot" else 0o644)
    return root


_ROOT, _SWAP, _DATA = filesystems()
# The data partition has a PARTUUID, the root's is not known.
NAMES = DeviceNames(
    ORDER,
    (
        _ROOT,
        _SWAP,
        replace(_DATA, names=("PARTUUID=0d0d0d0d-01",)),
        GuestFilesystem("disk-b", 2, "LVM2_member", "pv"),
    ),
)


def look(tree: Tree, name: str, notes: Notes, bus: DiskBus = DiskBus.VIRTIO_BLK) -> tuple[GuestKernel, ...]:
    return kernels.look(tree, family(CASES[name].family), bus, NicModel.VIRTIO, NAMES, (), notes)


def facts_with(found: tuple[GuestKernel, ...]) -> GuestFacts:
    root = filesystems()[0]
    return GuestFacts("", "", "", "", "", "", Firmware.BIOS, "", "", "", root, (), found, ())


def adapt(tree: Tree, run_dir: Path, found: tuple[GuestKernel, ...]) -> Journal:
    facts = facts_with(found)
    journal = Journal(run_dir, tree)
    kernels.drivers(tree, journal, facts, request(facts), NAMES, lambda step, figures: None)
    persistence.change(tree, journal, facts, request(facts), lambda step, figures: None)
    return journal


def unpacked(path: Path) -> dict[str, cpio.Member]:
    """What a kernel makes of an initramfs: later members win."""
    with path.open("rb") as handle:
        size = path.stat().st_size
        items = cpio.read(handle, size, lambda member: member.is_file)
        return {item.name: item for item in items if isinstance(item, cpio.Member)}
