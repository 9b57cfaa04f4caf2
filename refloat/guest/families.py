"""The Linux families that can be adapted, as rows of data.

A guest is matched by its ID, then by its ID_LIKE; without a match it is refused: never a silent default.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from refloat.model import DiskBus, NicModel


class KernelNaming(StrEnum):
    """What stands in the name of a kernel's file, and how its version is found from it."""

    VERSION = "version"  # the version itself: vmlinuz-6.1.0-18-amd64
    PKGBASE = "pkgbase"  # the package (vmlinuz-linux), which /lib/modules/<version>/pkgbase names
    FLAVOUR = "flavour"  # the end of the version (vmlinuz-lts), of which only one is installed


@dataclass(frozen=True)
class NetworkStack:
    """How a guest configures its network. One of `services` is enabled where it is in use; without a
    service one of `programs` is installed."""

    name: str
    services: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()


_GENERATOR = "lib/systemd/system-generators/netplan"

NETPLAN = NetworkStack("netplan", programs=(f"/usr/{_GENERATOR}", f"/{_GENERATOR}", "/usr/sbin/netplan"))
IFUPDOWN = NetworkStack("ifupdown", services=("networking",))
# NetworkManager reads ifcfg files as well, where its plugin for them is installed.
IFCFG = NetworkStack("ifcfg", services=("network", "NetworkManager"))
WICKED = NetworkStack("wicked", services=("wicked",))
NETWORKD = NetworkStack("networkd", services=("systemd-networkd",))
NETWORKMANAGER = NetworkStack("networkmanager", services=("NetworkManager",))

# In the order in which one has the first word on an interface that several configure.
ALL_STACKS = (NETPLAN, IFUPDOWN, IFCFG, WICKED, NETWORKD, NETWORKMANAGER)
RESTORED_STACKS = ALL_STACKS


@dataclass(frozen=True)
class Family:
    """A group of distributions that boot and configure themselves alike.

    `kernel` and `initramfs` are the file names in /boot, with {} for what names the kernel: its version,
    or what `naming` says. `inits` are the init systems that its guests may run, `efi` the directories
    below EFI/ of the system partition that hold its boot loader, `stacks` the network stacks that can
    be restored. `covers` says in words which systems this is about.
    """

    name: str
    ids: frozenset[str]
    covers: str
    initramfs_tool: str
    kernel: str
    initramfs: tuple[str, ...]
    efi: tuple[str, ...]
    naming: KernelNaming = KernelNaming.VERSION
    inits: tuple[str, ...] = ("systemd",)
    stacks: tuple[NetworkStack, ...] = RESTORED_STACKS


_DEBIAN = Family(
    "debian",
    ids=frozenset({"debian"}),
    covers="Debian, Proxmox VE; by ID_LIKE Kali, Devuan and others",
    initramfs_tool="initramfs-tools",
    kernel="vmlinuz-{}",
    initramfs=("initrd.img-{}",),
    efi=("debian", "proxmox", "kali", "devuan"),
    # Devuan is Debian without systemd; Debian itself still lets its administrators choose.
    inits=("systemd", "sysvinit", "openrc"),
)
_REDHAT = Family(
    "redhat",
    ids=frozenset({"rhel", "centos", "rocky", "almalinux", "ol", "scientific", "eurolinux", "cloudlinux"}),
    covers="RHEL 7 to 10, CentOS, Rocky, Alma, Oracle, Scientific; by ID_LIKE their relatives",
    initramfs_tool="dracut",
    kernel="vmlinuz-{}",
    initramfs=("initramfs-{}.img",),
    efi=("redhat", "centos", "rocky", "almalinux", "eurolinux", "cloudlinux"),
)

FAMILIES = (
    # Ubuntu comes before Debian: Mint and its like name both in ID_LIKE, the nearer one first.
    replace(
        _DEBIAN,
        name="ubuntu",
        ids=frozenset({"ubuntu"}),
        covers="Ubuntu; by ID_LIKE Linux Mint, Pop!_OS and others",
        efi=("ubuntu",),
        inits=("systemd",),
    ),
    _DEBIAN,
    _REDHAT,
    replace(
        _REDHAT,
        name="fedora",
        ids=frozenset({"fedora"}),
        covers="Fedora",
        efi=("fedora",),
    ),
    replace(
        _REDHAT,
        name="amazon",
        ids=frozenset({"amzn"}),
        covers="Amazon Linux 2 and 2023",
        efi=("amzn", "BOOT"),
    ),
    Family(
        "suse",
        ids=frozenset({"sles", "sled", "sles_sap", "opensuse", "opensuse-leap", "opensuse-tumbleweed"}),
        covers="SLES 12 and later, openSUSE Leap and Tumbleweed",
        initramfs_tool="dracut",
        kernel="vmlinuz-{}",
        initramfs=("initrd-{}",),
        efi=("sles", "sled", "opensuse", "sle", "systemd"),
    ),
    Family(
        "arch",
        ids=frozenset({"arch"}),
        covers="Arch; by ID_LIKE EndeavourOS, CachyOS and others",
        initramfs_tool="mkinitcpio",
        kernel="vmlinuz-{}",
        initramfs=("initramfs-{}.img", "initramfs-{}-fallback.img"),
        efi=("arch", "GRUB", "grub", "systemd", "endeavouros"),
        naming=KernelNaming.PKGBASE,
    ),
    Family(
        "alpine",
        ids=frozenset({"alpine"}),
        covers="Alpine, installed on a disk",
        initramfs_tool="mkinitfs",
        kernel="vmlinuz-{}",
        initramfs=("initramfs-{}",),
        efi=("alpine",),
        naming=KernelNaming.FLAVOUR,
        inits=("openrc",),
    ),
)


@dataclass(frozen=True)
class Unsupported:
    """A system that resembles a family (by ID_LIKE), and still must not be treated like it."""

    ids: frozenset[str]
    because: str


UNSUPPORTED = (
    Unsupported(
        frozenset({"sle-micro", "sl-micro", "suse-microos", "opensuse-microos", "opensuse-aeon"}),
        "not supported: its root filesystem is read-only and replaced as a whole by its updates",
    ),
    Unsupported(
        frozenset({"ubuntu-core", "rhcos", "scos", "fcos", "flatcar", "coreos", "bottlerocket", "cos"}),
        "not supported: it boots from images that it lets nobody change",
    ),
)

# Kernel modules that a guest needs to reach its disks and its network on a destination.
DISK_MODULES: Mapping[DiskBus, tuple[str, ...]] = {
    DiskBus.VIRTIO_BLK: ("virtio_pci", "virtio_blk"),
    DiskBus.VIRTIO_SCSI: ("virtio_pci", "virtio_scsi", "sd_mod"),
    DiskBus.PVSCSI: ("vmw_pvscsi", "sd_mod"),
    DiskBus.SATA: ("ahci", "sd_mod"),
    DiskBus.NVME: ("nvme",),
}
NIC_MODULES: Mapping[NicModel, tuple[str, ...]] = {
    NicModel.VIRTIO: ("virtio_pci", "virtio_net"),
    NicModel.VMXNET3: ("vmxnet3",),
    NicModel.E1000E: ("e1000e",),
}


def needed_modules(bus: DiskBus, nic: NicModel) -> tuple[str, ...]:
    """The modules that the destination's devices need, without repetition, in loading order."""
    return tuple(dict.fromkeys((*DISK_MODULES[bus], *NIC_MODULES[nic])))


def family_of(os_release: Mapping[str, str]) -> Family | None:
    """The family of a guest with this os-release, by its ID, then by its ID_LIKE; or None."""
    if unsupported(os_release):
        return None
    for identity in (os_release.get("ID", ""), *os_release.get("ID_LIKE", "").split()):
        for family in FAMILIES:
            if identity in family.ids:
                return family
    return None


def unsupported(os_release: Mapping[str, str]) -> str | None:
    """What a guest that says it is like a family is instead, in words; None if nothing is known."""
    identity = os_release.get("ID", "")
    return next((row.because for row in UNSUPPORTED if identity in row.ids), None)


_OS_RELEASE_LINE = 16384  # characters; shlex takes long on endless ones


def parse_os_release(text: str) -> dict[str, str]:
    """os-release(5): KEY=VALUE with shell quoting. Lines that are no assignment are ignored."""
    values = {}
    for line in text.splitlines():
        key, separator, value = line.strip().partition("=")
        if not separator or not key.isidentifier() or len(line) > _OS_RELEASE_LINE:
            continue
        try:
            values[key] = "".join(shlex.split(value))
        except ValueError:
            continue
    return values
