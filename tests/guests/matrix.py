"""The real guests that are built, adapted and booted: rows of data."""

from __future__ import annotations

from dataclasses import dataclass

from refloat.model import Firmware


@dataclass(frozen=True)
class GuestNic:
    """`name` is what the kernel calls it on the source's hardware, `gateway` is empty but on one."""

    name: str
    mac: str
    address: str
    gateway: str = ""
    address6: str = ""
    gateway6: str = ""


ENS192 = GuestNic("ens192", "00:50:56:aa:bb:01", "10.20.30.40/24", "10.20.30.2")
ENS192_BOTH = GuestNic(
    "ens192", "00:50:56:aa:bb:01", "10.20.30.40/24", "10.20.30.2", "fd00:20:30::40/64", "fd00:20:30::2"
)
ENS224 = GuestNic("ens224", "00:50:56:aa:bb:02", "10.20.31.40/24")
DNS = "10.20.30.3"


@dataclass(frozen=True)
class GuestCase:
    """One guest. `packages` names a row of PACKAGES in build.py, `layout` is plain, lvm or luks.

    `cloud_init`: empty, "recorded" (it made the machine at its first boot on the source) or "unrecorded"
    (what it knew of its instance is lost); at the destination it finds another. `esp_in_fstab` is for UEFI.
    `nics` are in the order of the source's slots; `swapped` boots them in the other order. `control`: the
    unadapted disk is booted too, and must not reach its root. `default`: part of `script/test`; all of
    them are of `script/test --all`. `booted` is what the support matrix says: this case has passed.
    """

    name: str
    suite: str
    packages: str
    firmware: Firmware = Firmware.BIOS
    filesystem: str = "ext4"
    layout: str = "plain"
    initramfs_tool: str = "initramfs-tools"
    network_stack: str = "ifupdown"
    cloud_init: str = ""
    esp_in_fstab: bool = True
    nics: tuple[GuestNic, ...] = (ENS192,)
    swapped: bool = False
    control: bool = False
    default: bool = False
    booted: bool = False
    family: str = "debian"

    @property
    def in_controller(self) -> bool:
        """Whether it needs a kernel with device-mapper and vfat, which build machines may lack."""
        return self.layout != "plain" or self.firmware is Firmware.UEFI


MATRIX: tuple[GuestCase, ...] = (
    GuestCase(
        name="debian12-ext4-ifupdown",
        suite="bookworm",
        packages="ifupdown",
        control=True,
        default=True,
        booted=True,
    ),
    GuestCase(
        name="debian11-ext4-ifupdown",
        suite="bullseye",
        packages="ifupdown",
        default=True,
        booted=True,
    ),
    GuestCase(
        name="debian12-xfs-dracut-networkmanager",
        suite="bookworm",
        packages="dracut-networkmanager",
        filesystem="xfs",
        initramfs_tool="dracut",
        network_stack="networkmanager",
        control=True,
        default=True,
        booted=True,
    ),
    GuestCase(
        name="debian13-ext4-netplan-cloudinit",
        suite="trixie",
        packages="netplan-efi",
        network_stack="netplan",
        cloud_init="recorded",
        default=True,
        booted=True,
    ),
    GuestCase(
        name="debian12-btrfs-two-nics-ipv6",
        suite="bookworm",
        packages="ifupdown",
        filesystem="btrfs",
        nics=(ENS192_BOTH, ENS224),
        swapped=True,
        default=True,
        booted=True,
    ),
    GuestCase(
        name="debian13-uefi-netplan",
        suite="trixie",
        packages="netplan-efi",
        firmware=Firmware.UEFI,
        network_stack="netplan",
        cloud_init="unrecorded",
        booted=True,
    ),
    GuestCase(
        name="debian13-uefi-esp-not-in-fstab",
        suite="trixie",
        packages="netplan-efi",
        firmware=Firmware.UEFI,
        network_stack="netplan",
        cloud_init="unrecorded",
        esp_in_fstab=False,
        booted=True,
    ),
    GuestCase(
        name="debian12-lvm",
        suite="bookworm",
        packages="volumes",
        layout="lvm",
        booted=True,
    ),
    GuestCase(
        name="debian12-luks",
        suite="bookworm",
        packages="volumes",
        layout="luks",
        booted=True,
    ),
)
