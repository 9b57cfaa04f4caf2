"""A libvirt domain's XML as the hardware that Refloat protects. Pure but for reading the disks' sizes."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass

from refloat.errors import Refused
from refloat.model import DiskBus, Firmware, NicModel, SourceDisk, SourceNic, SourceVM

# Written by Refloat's lab and destination driver: the estate's names of user-mode networks.
_REFLOAT_NS = "https://refloat.org/xmlns/1"

_QEMU_NS = "http://libvirt.org/schemas/domain/qemu/1.0"
_NO_ACPI_SLOTS = "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off"
_ALIAS = re.compile(r"[A-Za-z0-9_-]+")

_SCSI = {
    "virtio-scsi": DiskBus.VIRTIO_SCSI,
    "virtio-transitional": DiskBus.VIRTIO_SCSI,
    "virtio-non-transitional": DiskBus.VIRTIO_SCSI,
    "vmpvscsi": DiskBus.PVSCSI,
}
# The guest's kernel drives IDE and SATA alike (libata, sd): one family for every decision we make.
_PLAIN = {"virtio": DiskBus.VIRTIO_BLK, "sata": DiskBus.SATA, "ide": DiskBus.SATA}
_NICS = {
    "virtio": NicModel.VIRTIO,
    "vmxnet3": NicModel.VMXNET3,
    "e1000e": NicModel.E1000E,
    "e1000": NicModel.E1000E,
}
_UNITS = {
    "b": 1,
    "bytes": 1,
    "KB": 1000,
    "KiB": 1024,
    "k": 1024,
    "MiB": 1 << 20,
    "M": 1 << 20,
    "GiB": 1 << 30,
}


@dataclass(frozen=True)
class DiskImage:
    """Where a disk's bytes are: `path` is a file or block device of libvirt's host."""

    key: str
    path: str
    format: str
    bus: DiskBus
    shared: bool = False


def parse_vm(xml: str, capacity: Callable[[str], int]) -> SourceVM:
    """`capacity` gives a disk's size in bytes. Raises Refused (unknown_hardware) for what we cannot name."""
    root = ET.fromstring(xml)
    return SourceVM(
        name=root.findtext("name", ""),
        uuid=root.findtext("uuid", ""),
        cpus=int(root.findtext("vcpu", "1")),
        memory=_bytes(root.find("memory")),
        firmware=_firmware(root),
        disks=tuple(
            SourceDisk(disk.key, capacity(disk.key), disk.bus, disk.shared) for disk in parse_disks(xml)
        ),
        nics=_nics(root),
        secure_boot=_secure_boot(root),
        tpm=root.find("devices/tpm") is not None,
    )


def parse_disks(xml: str) -> tuple[DiskImage, ...]:
    """The disks (no CD-ROM, no floppy) in the order in which the guest's kernel numbers them.

    SCSI and SATA disks are found by controller, then target and unit; virtio disks by PCI address.
    """
    root = ET.fromstring(xml)
    found: list[tuple[tuple[int, ...], int, DiskImage]] = []
    for disk in root.findall("devices/disk"):
        if disk.get("device", "disk") != "disk":
            continue
        source = disk.find("source")
        path = "" if source is None else source.get("file") or source.get("dev") or ""
        key = _get(disk, "target", "dev")
        if not path:
            raise Refused(
                f"disk {key} is neither a file nor a block device",
                code="unknown_hardware",
                hint="Refloat reads local files and block devices of the source's host",
            )
        kind, shared = _get(disk, "driver", "type") or "raw", disk.find("shareable") is not None
        image = DiskImage(key, path, kind, _bus(root, disk, key), shared)
        found.append((_position(disk), len(found), image))
    return tuple(image for _, _, image in sorted(found, key=lambda item: item[:2]))


def _position(disk: ET.Element) -> tuple[int, ...]:
    address = disk.find("address")
    if address is None:
        return (9,)
    names = {
        "pci": ("domain", "bus", "slot", "function"),
        "drive": ("controller", "bus", "target", "unit"),
    }.get(address.get("type", ""), ())
    family = 0 if address.get("type") == "pci" else 1
    return (family, *(int(address.get(name, "0"), 0) for name in names))


def _bus(root: ET.Element, disk: ET.Element, key: str) -> DiskBus:
    bus = _get(disk, "target", "bus")
    if bus in _PLAIN:
        return _PLAIN[bus]
    number = _get(disk, "address", "controller") or "0"
    model = ""
    if bus == "scsi":
        one = root.find(f"devices/controller[@type='scsi'][@index='{number}']")
        model = "" if one is None else one.get("model", "")
    if model not in _SCSI:
        raise Refused(
            f"disk {key} is on a controller that Refloat does not know: {bus} {model}".rstrip(),
            code="unknown_hardware",
            hint=f"known: {', '.join(sorted({*_SCSI, *_PLAIN}))}",
        )
    return _SCSI[model]


def _nics(root: ET.Element) -> tuple[SourceNic, ...]:
    rows = root.findall(f"metadata/{{{_REFLOAT_NS}}}vm/{{{_REFLOAT_NS}}}nic")
    names = {row.get("mac", "").lower(): row.get("network", "") for row in rows}
    nics = []
    for nic in root.findall("devices/interface"):
        mac = _get(nic, "mac", "address").lower()
        model = _get(nic, "model", "type")
        if model not in _NICS:
            raise Refused(
                f"NIC {mac} is of a model that Refloat does not know: {model or 'none'}",
                code="unknown_hardware",
                hint=f"known: {', '.join(_NICS)}",
            )
        nics.append(SourceNic(mac, _NICS[model], names.get(mac) or _network(nic), _guest_name(root, nic)))
    return tuple(nics)


def _guest_name(root: ET.Element, nic: ET.Element) -> str:
    """What the guest's kernel calls this NIC: "ens192" in a port whose hot-plug slot is 192.

    Empty unless the definition says the slot: libvirt has no element for it, only an override of QEMU's
    property; and where ACPI does the hot-plug, the slots' numbers are its own.
    """
    arguments = {one.get("value", "") for one in root.findall(f"{{{_QEMU_NS}}}commandline/{{{_QEMU_NS}}}arg")}
    address = nic.find("address")
    if _NO_ACPI_SLOTS not in arguments or address is None or address.get("type", "pci") != "pci":
        return ""
    bus, slot, function = (int(address.get(name, "0"), 0) for name in ("bus", "slot", "function"))
    port = root.find(f"devices/controller[@type='pci'][@index='{bus}'][@model='pcie-root-port']")
    if port is None or slot or function or address.get("multifunction") == "on":
        return ""
    alias = _get(port, "alias", "name")
    device = f"{{{_QEMU_NS}}}override/{{{_QEMU_NS}}}device[@alias='{alias}']"
    properties = f"{device}/{{{_QEMU_NS}}}frontend/{{{_QEMU_NS}}}property[@name='slot']"
    found = root.find(properties) if _ALIAS.fullmatch(alias) else None
    value = "" if found is None else found.get("value", "")
    return f"ens{value}" if value.isdigit() and int(value) else ""


def _network(nic: ET.Element) -> str:
    """The network as libvirt names it; for a user-mode segment, its subnet."""
    for attribute in ("network", "bridge", "dev"):
        name = _get(nic, "source", attribute)
        if name:
            return name
    address, prefix = _get(nic, "ip", "address"), _get(nic, "ip", "prefix")
    return f"{address}/{prefix}" if address else nic.get("type", "")


def _firmware(root: ET.Element) -> Firmware:
    system = root.find("os")
    loader = root.find("os/loader")
    uefi = (system is not None and system.get("firmware") == "efi") or (
        loader is not None and loader.get("type") == "pflash"
    )
    return Firmware.UEFI if uefi else Firmware.BIOS


def _secure_boot(root: ET.Element) -> bool:
    """A loader that asks for protected variables, or a firmware chosen with keys enrolled. Source:
    https://libvirt.org/formatdomain.html#bios-bootloader"""
    loader = root.find("os/loader")
    chosen = {one.get("name"): one.get("enabled") for one in root.findall("os/firmware/feature")}
    if "enrolled-keys" in chosen or "secure-boot" in chosen:
        return chosen.get("enrolled-keys", chosen.get("secure-boot")) == "yes"
    return loader is not None and loader.get("secure") == "yes"


def _bytes(element: ET.Element | None) -> int:
    if element is None:
        return 0
    return int(element.text or "0") * _UNITS[element.get("unit", "KiB")]


def _get(element: ET.Element, child: str, attribute: str) -> str:
    found = element.find(child)
    return "" if found is None else found.get(attribute, "")
