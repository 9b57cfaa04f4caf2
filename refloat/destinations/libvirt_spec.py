"""A libvirt domain as Refloat decides it: records without any XML."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from enum import StrEnum

from refloat.model import DiskBus, Firmware, NicModel

SERIAL_LIMIT = 20  # bytes of a virtio-blk serial that a guest can read (VIRTIO_BLK_ID_BYTES)


class DomainType(StrEnum):
    KVM = "kvm"
    QEMU = "qemu"  # software emulation


class AttachKind(StrEnum):
    USER = "user"
    NETWORK = "network"
    BRIDGE = "bridge"


@dataclass(frozen=True)
class NetworkAttach:
    """How a NIC joins one of the estate's networks.

    USER: a user-mode segment of its own with this IPv4 `subnet` ("10.20.30.0/24"; gateway .2, DNS .3);
    `restrict` closes it: nothing leaves it but answers to forwards. NETWORK and BRIDGE: the name of a
    libvirt network or of a bridge of libvirt's host in `source`.
    """

    kind: AttachKind
    subnet: str = ""
    restrict: bool = False
    source: str = ""

    def __post_init__(self) -> None:
        user = self.kind is AttachKind.USER
        if user == bool(self.source) or user != bool(self.subnet) or (self.restrict and not user):
            raise ValueError(
                f"a {self.kind} attachment cannot have subnet={self.subnet!r}, "
                f"source={self.source!r}, restrict={self.restrict}"
            )
        if user:
            ipaddress.IPv4Network(self.subnet)

    @staticmethod
    def user(subnet: str, *, restrict: bool = False) -> NetworkAttach:
        return NetworkAttach(AttachKind.USER, subnet=subnet, restrict=restrict)

    @staticmethod
    def network(name: str) -> NetworkAttach:
        return NetworkAttach(AttachKind.NETWORK, source=name)

    @staticmethod
    def bridge(name: str) -> NetworkAttach:
        return NetworkAttach(AttachKind.BRIDGE, source=name)


@dataclass(frozen=True)
class DiskSpec:
    """`volume` is the path as libvirt's host sees it; `format` is "raw" or "qcow2", stated, never probed."""

    serial: str
    volume: str
    format: str
    bus: DiskBus = DiskBus.VIRTIO_BLK


@dataclass(frozen=True)
class NicSpec:
    """`mac` in lower case; `network` is the estate's name of the network that `attach` leads to."""

    mac: str
    network: str
    attach: NetworkAttach
    model: NicModel = NicModel.VIRTIO


@dataclass(frozen=True)
class DomainSpec:
    """All that Refloat decides of a domain. `memory` in bytes (whole KiB); the first disk boots.

    `clock_utc`: else its hardware clock shows the local time of libvirt's host.
    `role` ("controller") marks the domain as Refloat's: only such a domain is ever redefined. `labels`
    are facts that must survive with the definition, such as a merge under way.
    """

    name: str
    uuid: str
    type: DomainType
    cpus: int
    memory: int
    role: str
    firmware: Firmware = Firmware.BIOS
    machine: str = "q35"
    cpu_model: str = "qemu64"  # or "host-model", "host-passthrough"
    disks: tuple[DiskSpec, ...] = ()
    nics: tuple[NicSpec, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    clock_utc: bool = True

    def __post_init__(self) -> None:
        if self.memory <= 0 or self.memory % 1024:
            raise ValueError(f"memory must be whole KiB: {self.memory}")
        if self.cpus < 1:
            raise ValueError(f"a domain needs a CPU: {self.cpus}")
