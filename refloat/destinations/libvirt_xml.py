"""A libvirt domain as a record, its XML, and the way back: pure functions, inverse of each other.

Refloat never edits a domain's XML: it reads the record, replaces fields and renders everything anew.
So nothing stale survives a promotion (device addresses are libvirt's to choose each time), and
`parse_domain(render_domain(spec)) == spec` is a test, not a hope.
"""

from __future__ import annotations

import ipaddress
import xml.etree.ElementTree as ET

from refloat.destinations.libvirt_spec import (
    AttachKind,
    DiskSpec,
    DomainSpec,
    DomainType,
    NetworkAttach,
    NicSpec,
)
from refloat.errors import Refused
from refloat.model import DiskBus, Firmware, NicModel

REFLOAT_NS = "https://refloat.org/xmlns/1"
QEMU_NS = "http://libvirt.org/schemas/domain/qemu/1.0"
REPORT_CHANNEL = "org.refloat.report"

ET.register_namespace("refloat", REFLOAT_NS)
ET.register_namespace("qemu", QEMU_NS)

# ---------------------------------------------------------------- record -> XML

_NIC_MODELS = {NicModel.VIRTIO: "virtio", NicModel.VMXNET3: "vmxnet3", NicModel.E1000E: "e1000e"}
_SCSI_MODELS = {DiskBus.VIRTIO_SCSI: "virtio-scsi", DiskBus.PVSCSI: "vmpvscsi"}
# What libvirt can attach: it has no NVMe disks of its own.
DISK_TARGETS = {
    DiskBus.VIRTIO_BLK: ("virtio", "vd"),
    DiskBus.SATA: ("sata", "sd"),
    DiskBus.VIRTIO_SCSI: ("scsi", "sd"),
    DiskBus.PVSCSI: ("scsi", "sd"),
}


def _add(parent: ET.Element, tag: str, text: str = "", **attributes: str) -> ET.Element:
    element = ET.SubElement(parent, tag, attributes)
    if text:
        element.text = text
    return element


def render_domain(spec: DomainSpec) -> str:
    """The whole domain XML of `spec`: nothing of an earlier definition is carried over but what is in it."""
    root = ET.Element("domain", {"type": spec.type})
    _add(root, "name", spec.name)
    _add(root, "uuid", spec.uuid)
    _render_metadata(root, spec)
    _add(root, "memory", str(spec.memory // 1024), unit="KiB")
    _add(root, "vcpu", str(spec.cpus), placement="static")
    _render_platform(root, spec)
    devices = _add(root, "devices")
    _render_disks(devices, spec.disks)
    _add(devices, "controller", type="usb", model="none")
    for index, nic in enumerate(spec.nics):
        _render_nic(devices, index, nic)
    channel = _add(devices, "channel", type="unix")  # no path: libvirt chooses one, and its permissions
    _add(channel, "target", type="virtio", name=REPORT_CHANNEL)
    _add(devices, "serial", type="pty")
    _add(_add(devices, "video"), "model", type="vga")  # VGA: every guest and every firmware has a driver
    # An entropy-starved first boot (sshd, systemd) waits for minutes under emulation.
    _add(_add(devices, "rng", model="virtio"), "backend", "/dev/urandom", model="random")
    _add(devices, "memballoon", model="virtio")
    _render_closed_segments(root, spec.nics)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"


def _render_metadata(root: ET.Element, spec: DomainSpec) -> None:
    ours = _add(_add(root, "metadata"), f"{{{REFLOAT_NS}}}vm", role=spec.role)
    for nic in spec.nics:
        _add(ours, f"{{{REFLOAT_NS}}}nic", mac=nic.mac, network=nic.network)
    for name, value in spec.labels:
        _add(ours, f"{{{REFLOAT_NS}}}label", name=name, value=value)


def _render_platform(root: ET.Element, spec: DomainSpec) -> None:
    system = _add(root, "os")
    if spec.firmware is Firmware.UEFI:
        system.set("firmware", "efi")
    _add(system, "type", "hvm", arch="x86_64", machine=spec.machine)
    if spec.firmware is Firmware.UEFI:
        # Without the enrolled keys: the firmware accepts the guest's own, unsigned loader too.
        features = _add(system, "firmware")
        _add(features, "feature", enabled="no", name="enrolled-keys")
        _add(features, "feature", enabled="no", name="secure-boot")
    features = _add(root, "features")
    _add(features, "acpi")
    _add(features, "apic")
    _render_cpu(root, spec)
    _add(root, "clock", offset="utc" if spec.clock_utc else "localtime")
    _add(root, "on_poweroff", "destroy")
    _add(root, "on_reboot", "restart")
    _add(root, "on_crash", "destroy")


def _render_cpu(root: ET.Element, spec: DomainSpec) -> None:
    if spec.cpu_model.startswith("host-"):
        cpu = _add(root, "cpu", mode=spec.cpu_model, check="none")
    else:
        cpu = _add(root, "cpu", mode="custom", match="exact", check="none")
        _add(cpu, "model", spec.cpu_model, fallback="forbid")
    # One socket: some guests license, or simply use, no more than one or two.
    _add(cpu, "topology", sockets="1", dies="1", cores=str(spec.cpus), threads="1")


def device_letters(index: int) -> str:
    """The kernel's letters of the disk with this number: 0 is "a", 25 "z", 26 "aa"."""
    letters = ""
    index += 1
    while index:
        index, rest = divmod(index - 1, 26)
        letters = chr(ord("a") + rest) + letters
    return letters


def _target(bus: DiskBus) -> tuple[str, str]:
    if bus not in DISK_TARGETS:
        raise Refused(
            f"libvirt cannot attach a disk by {bus}",
            code="disk_bus",
            hint=f"choose one of {', '.join(sorted(DISK_TARGETS))}",
        )
    return DISK_TARGETS[bus]


def require_devices(bus: DiskBus, nic: NicModel) -> None:
    """Raises Refused for what `render_domain` has no words for."""
    _target(bus)
    if nic not in _NIC_MODELS:
        raise Refused(
            f"libvirt has no adapter {nic}",
            code="nic_model",
            hint=f"choose one of {', '.join(sorted(_NIC_MODELS))}",
        )


def _render_disks(devices: ET.Element, disks: tuple[DiskSpec, ...]) -> None:
    controllers = [bus for bus in _SCSI_MODELS if any(disk.bus is bus for disk in disks)]
    for index, disk in enumerate(disks):
        element = _add(devices, "disk", type="file", device="disk")
        _add(element, "driver", name="qemu", type=disk.format, discard="unmap")
        _add(element, "source", file=disk.volume)
        bus, prefix = _target(disk.bus)
        # The letter counts over all buses: it alone carries the order, as libvirt groups disks by bus.
        _add(element, "target", dev=prefix + device_letters(index), bus=bus)
        _add(element, "serial", disk.serial)
        if index == 0:
            # Only the first: libvirt's QEMU boots nothing that has no number, so a boot sector on
            # another replica disk is never tried.
            _add(element, "boot", order="1")
        if disk.bus in controllers:
            _add(
                element,
                "address",
                type="drive",
                controller=str(controllers.index(disk.bus)),
                bus="0",
                target=str(index),
                unit="0",
            )
    for number, bus_of in enumerate(controllers):
        _add(devices, "controller", type="scsi", index=str(number), model=_SCSI_MODELS[bus_of])


def _render_nic(devices: ET.Element, index: int, nic: NicSpec) -> None:
    attach = nic.attach
    element = _add(devices, "interface", type=attach.kind)
    _add(element, "mac", address=nic.mac)
    if attach.kind is AttachKind.USER:
        subnet = ipaddress.IPv4Network(attach.subnet)
        _add(element, "ip", family="ipv4", address=str(subnet.network_address), prefix=str(subnet.prefixlen))
    else:
        _add(element, "source", **{attach.kind.value: attach.source})
    _add(element, "model", type=_NIC_MODELS[nic.model])
    _add(element, "alias", name=nic_alias(index))
    _add(element, "rom", enabled="no")  # no network boot: it costs seconds and could boot something else


def nic_alias(index: int) -> str:
    return f"ua-nic{index}"  # libvirt keeps a given alias only with this prefix


def closed_netdev(alias: str) -> str:
    return f"closed-{alias}"


def _render_closed_segments(root: ET.Element, nics: tuple[NicSpec, ...]) -> None:
    """libvirt 9.0 has no attribute for QEMU's restrict=on: a netdev by hand takes the place of libvirt's.

    The NIC stays libvirt's device (link state, MAC, address), only its `netdev` property is overridden;
    libvirt's own netdev is left without a peer. LibvirtDestination.start proves that before the guest runs.
    """
    closed = [(nic_alias(index), nic.attach.subnet) for index, nic in enumerate(nics) if nic.attach.restrict]
    if not closed:
        return
    commandline = _add(root, f"{{{QEMU_NS}}}commandline")
    override = _add(root, f"{{{QEMU_NS}}}override")
    for alias, subnet in closed:
        netdev = f"user,id={closed_netdev(alias)},net={subnet},restrict=on"
        _add(commandline, f"{{{QEMU_NS}}}arg", value="-netdev")
        _add(commandline, f"{{{QEMU_NS}}}arg", value=netdev)
        device = _add(override, f"{{{QEMU_NS}}}device", alias=alias)
        frontend = _add(device, f"{{{QEMU_NS}}}frontend")
        _add(frontend, f"{{{QEMU_NS}}}property", name="netdev", type="string", value=closed_netdev(alias))


# ---------------------------------------------------------------- XML -> record

_UNITS = {
    "b": 1,
    "bytes": 1,
    "KiB": 1 << 10,
    "k": 1 << 10,
    "MiB": 1 << 20,
    "M": 1 << 20,
    "GiB": 1 << 30,
    "G": 1 << 30,
    "TiB": 1 << 40,
    "T": 1 << 40,
}


def parse_domain(xml: str) -> DomainSpec:
    """The record of a domain's persistent XML, whoever wrote it; `role` is empty where it is not ours.

    Raises Refused for hardware that a DomainSpec cannot say.
    """
    root = ET.fromstring(xml)
    ours = root.find(f"metadata/{{{REFLOAT_NS}}}vm")
    memory = _require(root, "memory")
    system = _require(root, "os")
    return DomainSpec(
        name=_text(root, "name"),
        uuid=_text(root, "uuid"),
        type=DomainType(root.get("type", "")),
        cpus=int(_text(root, "vcpu")),
        memory=int(memory.text or "0") * _UNITS[memory.get("unit", "KiB")],
        role="" if ours is None else ours.get("role", ""),
        firmware=_parse_firmware(system),
        machine=_require(system, "type").get("machine", ""),
        cpu_model=_parse_cpu(root),
        disks=_parse_disks(_require(root, "devices")),
        nics=_parse_nics(root, ours),
        labels=tuple(
            (label.get("name", ""), label.get("value", ""))
            for label in (() if ours is None else ours.findall(f"{{{REFLOAT_NS}}}label"))
        ),
        clock_utc=_attribute(root, "clock", "offset") != "localtime",
    )


def _require(parent: ET.Element, path: str) -> ET.Element:
    element = parent.find(path)
    if element is None:
        raise Refused(f"the domain's XML has no <{path}>", code="bad_domain_xml")
    return element


def _text(parent: ET.Element, path: str) -> str:
    return (_require(parent, path).text or "").strip()


def _attribute(parent: ET.Element, path: str, name: str) -> str:
    element = parent.find(path)
    return "" if element is None else element.get(name, "")


def _parse_firmware(system: ET.Element) -> Firmware:
    uefi = system.get("firmware") == "efi" or _attribute(system, "loader", "type") == "pflash"
    return Firmware.UEFI if uefi else Firmware.BIOS


def _parse_cpu(root: ET.Element) -> str:
    mode = _attribute(root, "cpu", "mode")
    return mode if mode.startswith("host-") else (root.findtext("cpu/model") or "").strip()


def _parse_disks(devices: ET.Element) -> tuple[DiskSpec, ...]:
    found = []
    for element in devices.findall("disk"):
        if element.get("device", "disk") != "disk":
            continue
        dev = _attribute(element, "target", "dev")
        boot = int(_attribute(element, "boot", "order") or 1 << 30)
        disk = DiskSpec(
            serial=(element.findtext("serial") or dev).strip(),
            volume=_attribute(element, "source", "file") or _attribute(element, "source", "dev"),
            format=_attribute(element, "driver", "type"),
            bus=_parse_bus(devices, element),
        )
        found.append(((boot, len(dev), dev[2:]), disk))
    return tuple(disk for _, disk in sorted(found, key=lambda pair: pair[0]))


def _parse_bus(devices: ET.Element, disk: ET.Element) -> DiskBus:
    bus = _attribute(disk, "target", "bus")
    if bus == "scsi":
        number = _attribute(disk, "address", "controller") or "0"
        for controller in devices.findall(f"controller[@type='scsi'][@index='{number}']"):
            for kind, model in _SCSI_MODELS.items():
                if controller.get("model") == model:
                    return kind
    plain = {"virtio": DiskBus.VIRTIO_BLK, "sata": DiskBus.SATA}
    if bus not in plain:
        raise Refused(
            f"disk {_attribute(disk, 'target', 'dev')} is on a bus that Refloat does not know: "
            f"{bus or 'none'}",
            code="unknown_hardware",
        )
    return plain[bus]


def _parse_nics(root: ET.Element, ours: ET.Element | None) -> tuple[NicSpec, ...]:
    rows = () if ours is None else ours.findall(f"{{{REFLOAT_NS}}}nic")
    names = {row.get("mac", "").lower(): row.get("network", "") for row in rows}
    closed = {
        device.get("alias")
        for device in root.iter(f"{{{QEMU_NS}}}device")
        if device.find(f".//{{{QEMU_NS}}}property[@name='netdev']") is not None
    }
    models = {text: model for model, text in _NIC_MODELS.items()}
    nics = []
    for element in root.findall("devices/interface"):
        mac = _attribute(element, "mac", "address").lower()
        model = _attribute(element, "model", "type")
        if model not in models:
            raise Refused(
                f"NIC {mac} is of a model that Refloat does not know: {model or 'none'}",
                code="unknown_hardware",
            )
        attach = _parse_attach(element, _attribute(element, "alias", "name") in closed)
        nics.append(NicSpec(mac, names.get(mac, attach.source), attach, models[model]))
    return tuple(nics)


def _parse_attach(element: ET.Element, restrict: bool) -> NetworkAttach:
    kind = element.get("type", "")
    if kind == AttachKind.USER:
        address = _attribute(element, "ip[@family='ipv4']", "address")
        prefix = _attribute(element, "ip[@family='ipv4']", "prefix")
        # QEMU's own default where the XML names no subnet.
        return NetworkAttach.user(f"{address}/{prefix}" if address else "10.0.2.0/24", restrict=restrict)
    if kind in (AttachKind.NETWORK, AttachKind.BRIDGE):
        return NetworkAttach(AttachKind(kind), source=_attribute(element, "source", kind))
    raise Refused(f"a NIC is attached by {kind!r}, which Refloat does not know", code="unknown_hardware")


__all__ = [
    "QEMU_NS",
    "REFLOAT_NS",
    "REPORT_CHANNEL",
    "AttachKind",
    "DiskSpec",
    "DomainSpec",
    "DomainType",
    "NetworkAttach",
    "NicSpec",
    "closed_netdev",
    "device_letters",
    "nic_alias",
    "parse_domain",
    "render_domain",
    "require_devices",
]
