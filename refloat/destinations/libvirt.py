"""The destination driver for libvirt: user-mode segments, libvirt networks or bridges, one storage pool."""

from __future__ import annotations

import ipaddress
import posixpath
import random
import socket
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import libvirt

from refloat.destinations.base import Channel, Feasible
from refloat.destinations.libvirt_console import open_channel, open_serial, take_screenshot
from refloat.destinations.libvirt_cpu import guest_flags
from refloat.destinations.libvirt_domains import Domains
from refloat.destinations.libvirt_layers import Layers
from refloat.destinations.libvirt_live import LiveNic, parse_disks, parse_forwards, parse_nics
from refloat.destinations.libvirt_spec import (
    SERIAL_LIMIT,
    AttachKind,
    DiskSpec,
    DomainSpec,
    DomainType,
    NetworkAttach,
    NicSpec,
)
from refloat.destinations.libvirt_volumes import VolumePool
from refloat.destinations.libvirt_xml import require_devices
from refloat.errors import Failed, NotFound, Refused
from refloat.libvirt_connection import Connection, libvirt_errors
from refloat.model import (
    AttachedDisk,
    AttachedNic,
    DiskBus,
    Firmware,
    Hardware,
    NicModel,
    Observation,
    PowerState,
    RollbackPoint,
)

_MIB = 1 << 20
_FORWARD_TRIES = 8
_HAS_NVRAM = ("nvram", "kept")  # label: this VM has been a UEFI one, its variables may still exist
_FORMATS = {".qcow2": "qcow2", ".raw": "raw", ".img": "raw"}


class LibvirtDestination:
    """Destination (base.py) on the libvirt at `uri`. Volume ids are paths on libvirt's host.

    `networks` maps the estate's network names to how a NIC joins them. Only domains that carry
    Refloat's metadata are ever redefined, and only volumes of `pool` ever deleted (without a name: of
    the pools in which the VM's own disks are).
    """

    has_channel = True

    def __init__(self, uri: str, networks: Mapping[str, NetworkAttach], pool: str = "") -> None:
        self._connection = Connection(uri)
        self._networks = dict(networks)
        self._domains = Domains(self._connection)
        self._volumes = VolumePool(self._connection, pool)
        self._layers = Layers(self._domains, self._volumes)

    # ------------------------------------------------------------ power

    def power_state(self, vm: str) -> PowerState:
        return self._domains.power(self._domains.lookup(vm))[0]

    def start(self, vm: str) -> None:
        self._domains.start(self._domains.lookup(vm))

    def stop(self, vm: str, graceful: float) -> None:
        self._domains.stop(self._domains.lookup(vm), graceful)

    # ------------------------------------------------------------ definition

    def hardware(self, vm: str) -> Hardware:
        spec = self._domains.spec(self._domains.lookup(vm))
        return Hardware(
            cpus=spec.cpus,
            memory=spec.memory,
            firmware=spec.firmware,
            disks=tuple(AttachedDisk(disk.serial, disk.volume, disk.bus) for disk in spec.disks),
            nics=tuple(AttachedNic(nic.mac, nic.network, nic.model) for nic in spec.nics),
            clock_utc=spec.clock_utc,
        )

    def require_devices(self, bus: DiskBus, nic: NicModel) -> None:
        require_devices(bus, nic)

    def check(self, vm: str, wanted: Hardware, name: str) -> Feasible:
        """What can be known beforehand is refused by `require_devices`, `free_bytes` and the volumes."""
        return Feasible()

    def cpu_flags(self, vm: str) -> frozenset[str] | None:
        """Known only of a VM that runs: libvirt's own models lack what QEMU adds to them."""
        domain = self._domains.lookup(vm)
        with libvirt_errors(f"read the processor of {vm}"):
            if self._domains.power(domain)[0] is PowerState.OFF:
                return None
            defined = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
            return guest_flags(self._connection.get(), self._domains.xml(domain), defined)

    def set_compute(self, vm: str, cpus: int, memory: int) -> None:
        """Memory is rounded up to whole MiB, as QEMU does."""
        whole = -(-memory // _MIB) * _MIB
        self._domains.change(vm, lambda spec: replace(spec, cpus=cpus, memory=whole))

    def set_disks(self, vm: str, disks: Sequence[AttachedDisk]) -> None:
        """Refused for a volume that does not exist or whose format neither the definition nor its
        name's suffix says: guessing it from the content would let a guest choose it. Refused, too, where
        a disk that is left out could therefore not come back."""
        self._domains.change(vm, lambda spec: replace(spec, disks=self._disk_specs(spec, disks)))

    def set_nics(self, vm: str, nics: Sequence[AttachedNic]) -> None:
        specs = tuple(self.nic_spec(nic) for nic in nics)
        self._domains.change(vm, lambda spec: replace(spec, nics=specs))

    def set_name(self, vm: str, name: str) -> None:
        """libvirt tells a guest no name."""

    def set_firmware(self, vm: str, firmware: Firmware) -> None:
        """UEFI starts with libvirt's default variables, and later with what the VM left in them."""
        self._domains.change(vm, lambda spec: _with_firmware(spec, firmware))

    def set_clock(self, vm: str, utc: bool) -> None:
        self._domains.change(vm, lambda spec: replace(spec, clock_utc=utc))

    def nic_spec(self, nic: AttachedNic) -> NicSpec:
        attach = self._networks.get(nic.network)
        if attach is None:
            raise Refused(
                f"this destination has no network {nic.network!r}",
                code="no_such_network",
                hint=f"it has {', '.join(sorted(self._networks)) or 'none'}",
            )
        return NicSpec(nic.mac.lower(), nic.network, attach, nic.model)

    def _disk_specs(self, spec: DomainSpec, disks: Sequence[AttachedDisk]) -> tuple[DiskSpec, ...]:
        for name, values in (
            ("serial", [disk.serial for disk in disks]),
            ("volume", [disk.volume for disk in disks]),
        ):
            if len(set(values)) != len(values):
                raise Refused(f"two disks of VM {spec.name} have the same {name}", code="duplicate_disk")
        for disk in spec.disks:
            if disk.volume not in {kept.volume for kept in disks}:
                _require_parkable(spec.name, disk)
        formats = {disk.volume: disk.format for disk in spec.disks}
        return tuple(self.disk_spec(disk, formats.get(disk.volume, "")) for disk in disks)

    def disk_spec(self, disk: AttachedDisk, known_format: str = "") -> DiskSpec:
        if not 0 < len(disk.serial.encode()) <= SERIAL_LIMIT:
            raise Refused(
                f"disk serial {disk.serial!r} must have 1 to {SERIAL_LIMIT} bytes",
                code="bad_serial",
                hint="a guest reads no more of a virtio disk's serial",
            )
        self._volumes.get(disk.volume)
        format_ = known_format or _named_format(disk.volume)
        if not format_:
            raise Refused(
                f"the format of volume {disk.volume} is not known",
                code="unknown_format",
                hint="a volume's name must end in .raw, .img or .qcow2",
            )
        return DiskSpec(disk.serial, disk.volume, format_, disk.bus)

    # ------------------------------------------------------------ rollback points and volumes

    def snapshot(self, vm: str, serials: Sequence[str], tag: str) -> tuple[RollbackPoint, ...]:
        return self._layers.snapshot(vm, serials, tag)

    def rollback_points(self, vm: str, tag: str) -> tuple[RollbackPoint, ...]:
        return self._layers.points(vm, tag)

    def stamps(self, vm: str) -> dict[str, str]:
        return self._layers.stamps(vm)

    def revert(self, vm: str, tag: str) -> None:
        self._layers.revert(vm, tag)

    def merge(self, vm: str, tag: str) -> None:
        self._layers.merge(vm, tag)

    def delete_volume(self, vm: str, volume: str) -> None:
        spec = self._domains.own_spec(self._domains.lookup(vm))
        directories = {posixpath.dirname(disk.volume) for disk in spec.disks}
        if posixpath.dirname(volume) not in directories:
            raise Refused(
                f"volume {volume} is not where the disks of VM {vm} are",
                code="not_ours",
                hint=f"its disks are in {', '.join(sorted(directories)) or 'no pool'}",
            )
        self._layers.delete_unused(volume)

    def free_bytes(self, vm: str) -> int:
        disks = self._domains.spec(self._domains.lookup(vm)).disks
        if not disks:
            raise Refused(f"VM {vm} has no disk", code="no_such_disk")
        _require_parkable(vm, disks[0])
        return self._volumes.free_bytes(disks[0].volume)

    # ------------------------------------------------------------ the guest from outside

    def reach(self, vm: str, address: str, port: int) -> tuple[str, int]:
        domain = self._domains.lookup(vm)
        nic = _nic_towards(parse_nics(self._domains.xml(domain)), address)
        if nic is None:
            return address, port  # a bridge or a libvirt network: routed, no forward to open
        if not self._connection.is_local():
            raise Refused(
                f"{address} is in a user-mode segment of another host",
                code="no_way_from_here",
                hint="use a bridge or a libvirt network with a remote libvirt",
            )
        self._domains.require_active(domain)
        return self._forward(domain, nic, address, port)

    def _forward(self, domain: libvirt.virDomain, nic: LiveNic, address: str, port: int) -> tuple[str, int]:
        for _ in range(_FORWARD_TRIES):
            for forward in parse_forwards(self._domains.hmp(domain, "info usernet")):
                if (forward.netdev, forward.address, forward.port) == (nic.netdev, address, port):
                    return "127.0.0.1", forward.local_port
            # Between our look for a free port and QEMU's bind another program may take it: QEMU then
            # refuses, nothing shows up in the list, and the next round takes another port.
            local = _free_port()
            answer = self._domains.hmp(
                domain, f"hostfwd_add {nic.netdev} tcp:127.0.0.1:{local}-{address}:{port}"
            )
        raise Failed(
            f"no forward to {address}:{port} of VM {domain.name()}: {answer.strip()}",
            code="no_forward",
            hint="are there free ports on 127.0.0.1?",
        )

    def channel(self, vm: str, name: str) -> AbstractContextManager[Channel]:
        domain = self._domains.lookup(vm)
        return open_channel(self._connection.get(), domain, name)

    def serial(self, vm: str) -> AbstractContextManager[Channel]:
        domain = self._domains.lookup(vm)
        return open_serial(self._connection.get(), domain)

    def screenshot(self, vm: str) -> bytes:
        domain = self._domains.lookup(vm)
        return take_screenshot(self._connection.get(), domain)

    def console(self, vm: str) -> str:
        return ""

    def observe(self, vm: str) -> Observation:
        domain = self._domains.lookup(vm)
        power, reason = self._domains.power(domain)
        if power is PowerState.OFF:
            return Observation(power, reason)
        xml = self._domains.xml(domain)
        read, written = {}, {}
        with libvirt_errors(f"read the counters of {vm}"):
            for disk in parse_disks(xml):
                stats = domain.blockStats(disk.target)
                read[disk.serial], written[disk.serial] = stats[1], stats[3]
        linked = tuple(nic.mac for nic in parse_nics(xml) if nic.linked)
        return Observation(power, reason, read, written, linked)

    # ------------------------------------------------------------ whole VMs, for the lab

    def create(self, spec: DomainSpec) -> None:
        """Defines the VM, off. Refused where the name is taken by a domain that is not Refloat's."""
        try:
            existing = self._domains.lookup(spec.name)
        except NotFound:
            existing = None
        if existing is not None:
            self._domains.own_spec(existing)
            self._domains.require_off(existing)
        self._domains.define(spec)

    def destroy(self, vm: str) -> None:
        """Stops a VM of ours hard and removes its definition, NVRAM and libvirt's records of it; its
        volumes stay. Done when there is none."""
        try:
            domain = self._domains.lookup(vm)
        except NotFound:
            return
        spec = self._domains.own_spec(domain)
        self._domains.stop(domain, 0)
        if spec.firmware is Firmware.BIOS and _HAS_NVRAM in spec.labels:
            # libvirt deletes only the variables that the definition has, and it names them by the VM.
            self._domains.define(replace(spec, firmware=Firmware.UEFI))
        flags = (
            libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
            | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
            | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
            | libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
        )
        with libvirt_errors(f"undefine VM {vm}"):
            domain.undefineFlags(flags)

    def domain_type(self) -> DomainType:
        return usable_domain_type(self._connection.get())


def usable_domain_type(connection: libvirt.virConnect) -> DomainType:
    """KVM where libvirt offers it and its host's CPU has vmx or svm, else emulation.

    /dev/kvm alone proves nothing: on some clouds it opens and the guest then hangs. libvirt names a
    CPU by model plus features, and a model may imply svm, so the model is expanded first.
    """
    with libvirt_errors("read the capabilities"):
        capabilities = ET.fromstring(connection.getCapabilities())
        offered = any(
            domain.get("type") == DomainType.KVM for domain in capabilities.findall("guest/arch/domain")
        )
        cpu = capabilities.find("host/cpu")
        if not offered or cpu is None:
            return DomainType.QEMU
        names = {feature.get("name") for feature in cpu.findall("feature")}
        expanded = connection.baselineCPU(
            [ET.tostring(cpu, encoding="unicode")], libvirt.VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES
        )
    names |= {feature.get("name") for feature in ET.fromstring(expanded).findall("feature")}
    return DomainType.KVM if names & {"vmx", "svm"} else DomainType.QEMU


def _named_format(volume: str) -> str:
    return _FORMATS.get(posixpath.splitext(volume)[1], "")


def _require_parkable(vm: str, disk: DiskSpec) -> None:
    """A parked disk leaves the definition: only its volume's name then says how to attach it again."""
    if _named_format(disk.volume) != disk.format:
        raise Refused(
            f"disk {disk.serial} of VM {vm} is {disk.format or 'of no stated format'}, and the name of its "
            f"volume {disk.volume} does not say so: it could not come back after a failover",
            code="unknown_format",
            hint="let the volume's name end in .qcow2, or in .raw or .img, as its format is",
        )


def _with_firmware(spec: DomainSpec, firmware: Firmware) -> DomainSpec:
    new = Firmware.UEFI in (spec.firmware, firmware) and _HAS_NVRAM not in spec.labels
    return replace(spec, firmware=firmware, labels=(*spec.labels, _HAS_NVRAM) if new else spec.labels)


def _nic_towards(nics: Sequence[LiveNic], address: str) -> LiveNic | None:
    """The NIC whose user-mode segment contains `address`. Refused where all NICs are in such segments
    and none contains it: nothing could answer. Forwards of segments are for IPv4."""
    try:
        wanted = ipaddress.ip_address(address)
    except ValueError as error:
        raise Refused(f"{address!r} is not an IP address", code="bad_address") from error
    for nic in nics:
        if nic.subnet is not None and wanted in nic.subnet:
            return nic
    if nics and all(nic.subnet is not None for nic in nics):
        if wanted.version == 6:
            raise Refused(f"{address}: user-mode segments forward no IPv6", code="no_way_from_here")
        raise Refused(
            f"no NIC is in a segment that contains {address}",
            code="not_reachable",
            hint="segments: " + ", ".join(str(nic.subnet) for nic in nics),
        )
    return None


def _free_port() -> int:
    """A port that is free now, chosen at random: the kernel's own order would hand the same one to
    every caller that asks at the same time."""
    while True:
        port = random.randrange(20000, 32000)  # below the kernel's range for outgoing connections
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


__all__ = ["AttachKind", "LibvirtDestination", "NetworkAttach", "usable_domain_type"]
