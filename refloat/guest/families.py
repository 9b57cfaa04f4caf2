"""The Linux families that can be adapted, as rows of data.

A guest is matched by its ID, then by its ID_LIKE; without a match it is refused: never a silent default.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from refloat.model import DiskBus, NicModel


@dataclass(frozen=True)
class NetworkStack:
    """How a guest configures its network. `evidence` are directories or files that show its use."""

    name: str
    evidence: tuple[str, ...]


IFUPDOWN = NetworkStack("ifupdown", ("/etc/network/interfaces", "/etc/network/interfaces.d"))
NETPLAN = NetworkStack("netplan", ("/etc/netplan",))
NETWORKMANAGER = NetworkStack("networkmanager", ("/etc/NetworkManager/system-connections",))
NETWORKD = NetworkStack("networkd", ("/etc/systemd/network",))

ALL_STACKS = (IFUPDOWN, NETPLAN, NETWORKMANAGER, NETWORKD)


@dataclass(frozen=True)
class Family:
    """A group of distributions that boot and configure themselves alike.

    `initramfs` is the file name of a kernel's initramfs in /boot, `kernel` that of the kernel, both
    with {} for the version. `stacks` are the network stacks that can be restored.
    """

    name: str
    ids: frozenset[str]
    initramfs_tool: str
    kernel: str
    initramfs: str
    grub_cfg: str
    stacks: tuple[NetworkStack, ...]


FAMILIES = (
    Family(
        "debian",
        ids=frozenset({"debian"}),
        initramfs_tool="initramfs-tools",
        kernel="vmlinuz-{}",
        initramfs="initrd.img-{}",
        grub_cfg="/boot/grub/grub.cfg",
        stacks=(IFUPDOWN,),
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
    """The family of a guest with this os-release, or None."""
    for identity in (os_release.get("ID", ""), *os_release.get("ID_LIKE", "").split()):
        for family in FAMILIES:
            if identity in family.ids:
                return family
    return None


def parse_os_release(text: str) -> dict[str, str]:
    """os-release(5): KEY=VALUE with shell quoting. Lines that are no assignment are ignored."""
    values = {}
    for line in text.splitlines():
        key, separator, value = line.strip().partition("=")
        if not separator or not key.isidentifier():
            continue
        try:
            values[key] = "".join(shlex.split(value))
        except ValueError:
            continue
    return values
