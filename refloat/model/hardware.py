"""A VM's hardware: as the source states it, as the destination defines it, as it runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class PowerState(StrEnum):
    RUNNING = "running"
    PAUSED = "paused"
    OFF = "off"


class Firmware(StrEnum):
    BIOS = "bios"
    UEFI = "uefi"


class DiskBus(StrEnum):
    VIRTIO_BLK = "virtio-blk"
    VIRTIO_SCSI = "virtio-scsi"
    PVSCSI = "pvscsi"
    LSI = "lsi"  # VMware's LSI Logic and BusLogic adapters: at the source only
    SATA = "sata"
    NVME = "nvme"


class NicModel(StrEnum):
    VIRTIO = "virtio-net"
    VMXNET3 = "vmxnet3"
    E1000E = "e1000e"


@dataclass(frozen=True)
class SourceDisk:
    """One disk of the protected VM. `key` is its stable name at the source (for libvirt: "sda"). `shared`:
    its platform lets other VMs use it at the same time.

    The order of a VM's disks is the order in which its kernel numbers them: the first is /dev/sda.
    `mode` is the platform's word for what a snapshot does to it ("persistent"), `backing` where its
    bytes are.
    """

    key: str
    capacity: int
    bus: DiskBus
    shared: bool = False
    mode: str = ""
    backing: str = ""
    uuid: str = ""


class AddressOrigin(StrEnum):
    """Where an address came from, as the guest told its platform. "" where it did not tell."""

    UNKNOWN = ""
    MANUAL = "manual"
    DHCP = "dhcp"
    AUTO = "auto"  # by router advertisements, or made by the link itself


@dataclass(frozen=True)
class SeenAddress:
    """`address` has its prefix: "10.20.30.40/24"."""

    address: str
    origin: AddressOrigin = AddressOrigin.UNKNOWN


@dataclass(frozen=True)
class SeenRoute:
    """`to` is a network with prefix, or "default"."""

    to: str
    via: str


@dataclass(frozen=True)
class SeenNic:
    """One adapter's network as the guest's agent told the source platform, while the guest ran.

    `at` is the instant at which the platform was asked. `dhcp`: whether IPv4 is by DHCP; None: not told.
    """

    at: str
    addresses: tuple[SeenAddress, ...]
    dhcp: bool | None = None
    routes: tuple[SeenRoute, ...] = ()
    dns: tuple[str, ...] = ()
    search: tuple[str, ...] = ()


@dataclass(frozen=True)
class SourceNic:
    """`guest_name` is what the guest's kernel calls it at the source, where the slot tells: "ens192".

    `seen` is None where the platform knows nothing of what the guest does with it; `address_type` is the
    platform's word for where the MAC comes from ("assigned", "manual").
    """

    mac: str
    model: NicModel
    network: str
    guest_name: str = ""
    address_type: str = ""
    seen: SeenNic | None = None


@dataclass(frozen=True)
class SourceVM:
    """The protected VM's hardware as its platform states it.

    `problems` are why it cannot be replicated as it is, `warnings` what an operator should know; both in
    words. `cores_per_socket` is 0 where the platform does not say.
    """

    name: str
    uuid: str
    cpus: int
    memory: int
    firmware: Firmware
    disks: tuple[SourceDisk, ...]
    nics: tuple[SourceNic, ...]
    secure_boot: bool = False
    tpm: bool = False
    cores_per_socket: int = 0
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class AttachedDisk:
    """A disk as the destination attaches it: `serial` is what the guest sees, `volume` the platform's id.

    The first disk of a VM boots.
    """

    serial: str
    volume: str
    bus: DiskBus = DiskBus.VIRTIO_BLK


@dataclass(frozen=True)
class AttachedNic:
    """`address`: the IPv4 that a platform which gives out addresses is asked for, or gave; "": any."""

    mac: str
    network: str
    model: NicModel = NicModel.VIRTIO
    address: str = field(default="", compare=False)


@dataclass(frozen=True)
class Hardware:
    """A destination VM as it is defined: recorded before promotion so that every step can be undone.

    `clock_utc`: what its hardware clock shows at start, UTC or the local time of the platform's host.
    """

    cpus: int
    memory: int
    firmware: Firmware
    disks: tuple[AttachedDisk, ...]
    nics: tuple[AttachedNic, ...]
    clock_utc: bool = True


@dataclass(frozen=True)
class RollbackPoint:
    """The layer that takes all writes to one replica disk after step 5; dropping it is the rollback.

    `base_stamp` changes with every write to the base: equal stamps prove that the base was not touched.
    `written` is what the layer holds, in bytes. On CloudStack, which has snapshots beside the disk and sees
    no writes, `overlay` is the snapshot, `base_stamp` tells which one it is, and `written` is always 0.
    """

    serial: str
    base: str
    overlay: str
    base_stamp: str
    written: int


@dataclass(frozen=True)
class Observation:
    """What the platform itself sees of a VM now. Counters are since its start."""

    power: PowerState
    reason: str = ""
    disk_bytes_read: dict[str, int] = field(default_factory=dict)
    disk_bytes_written: dict[str, int] = field(default_factory=dict)
    nics_linked: tuple[str, ...] = ()
