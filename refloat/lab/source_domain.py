"""The lab's source VM as libvirt XML: the virtual hardware that an old VMware guest sees.

Disks on a paravirtual SCSI controller (/dev/sda, /dev/sdb), a vmxnet3 NIC that the kernel calls ens192,
BIOS, and not one virtio device, so that the unadapted guest cannot boot on the recovery hardware.
"""

from __future__ import annotations

import ipaddress
import xml.etree.ElementTree as ET

from refloat.destinations.libvirt_spec import DomainType
from refloat.destinations.libvirt_xml import QEMU_NS, REFLOAT_NS

# Linux names a NIC by the hot-plug slot number of its port ("ens192"): VMware's first PCIe NIC has 192.
VMWARE_NIC_SLOT = 192
_PORT_ALIAS = "ua-slot192"


def render_source(
    name: str,
    uuid: str,
    memory: int,
    cpus: int,
    system_disk: str,
    data_disk: str,
    subnet: str,
    mac: str,
    domain_type: DomainType,
) -> str:
    """The domain XML. `memory` in bytes; disks are paths of qcow2 volumes; `subnet` like "10.20.30.0/24"
    is the NIC's user-mode segment, whose gateway is .2 and DNS .3."""
    root = ET.Element("domain", {"type": domain_type})
    metadata = ET.SubElement(root, "metadata")
    ET.SubElement(metadata, f"{{{REFLOAT_NS}}}vm", role="source")
    ET.SubElement(root, "name").text = name
    ET.SubElement(root, "uuid").text = uuid
    ET.SubElement(root, "memory", unit="KiB").text = str(memory // 1024)
    ET.SubElement(root, "vcpu").text = str(cpus)
    _platform(root, cpus, domain_type)
    devices = ET.SubElement(root, "devices")
    for number, path in enumerate((system_disk, data_disk)):
        _disk(devices, number, path)
    _controllers(devices)
    _nic(devices, ipaddress.IPv4Network(subnet), mac)
    ET.SubElement(devices, "serial", type="pty")
    ET.SubElement(ET.SubElement(devices, "video"), "model", type="vga")
    ET.SubElement(devices, "memballoon", model="none")  # libvirt would add a virtio one
    _vmware_slot(root)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"


def _platform(root: ET.Element, cpus: int, domain_type: DomainType) -> None:
    ET.SubElement(ET.SubElement(root, "os"), "type", arch="x86_64", machine="q35").text = "hvm"
    features = ET.SubElement(root, "features")
    ET.SubElement(features, "acpi")
    ET.SubElement(features, "apic")
    if domain_type is DomainType.KVM:
        cpu = ET.SubElement(root, "cpu", mode="host-model", check="none")
    else:
        cpu = ET.SubElement(root, "cpu", mode="custom", match="exact", check="none")
        ET.SubElement(cpu, "model", fallback="forbid").text = "qemu64"
    ET.SubElement(cpu, "topology", sockets="1", dies="1", cores=str(cpus), threads="1")
    ET.SubElement(root, "clock", offset="utc")
    for event, action in (("poweroff", "destroy"), ("reboot", "restart"), ("crash", "destroy")):
        ET.SubElement(root, f"on_{event}").text = action


def _disk(devices: ET.Element, number: int, path: str) -> None:
    disk = ET.SubElement(devices, "disk", type="file", device="disk")
    ET.SubElement(disk, "driver", name="qemu", type="qcow2", discard="unmap")
    ET.SubElement(disk, "source", file=path)
    ET.SubElement(disk, "target", dev=f"sd{'abcdef'[number]}", bus="scsi")
    if number == 0:
        ET.SubElement(disk, "boot", order="1")
    # pvscsi has one unit per target.
    ET.SubElement(disk, "address", type="drive", controller="0", bus="0", target=str(number), unit="0")


def _controllers(devices: ET.Element) -> None:
    scsi = ET.SubElement(devices, "controller", type="scsi", index="0", model="vmpvscsi")
    ET.SubElement(scsi, "address", type="pci", bus="0x00", slot="0x10")
    ET.SubElement(devices, "controller", type="usb", model="none")
    ET.SubElement(devices, "controller", type="pci", index="0", model="pcie-root")
    port = ET.SubElement(devices, "controller", type="pci", index="1", model="pcie-root-port")
    ET.SubElement(port, "model", name="pcie-root-port")
    ET.SubElement(port, "target", chassis="1")
    ET.SubElement(port, "alias", name=_PORT_ALIAS)
    ET.SubElement(port, "address", type="pci", bus="0x00", slot="0x11")


def _nic(devices: ET.Element, subnet: ipaddress.IPv4Network, mac: str) -> None:
    nic = ET.SubElement(devices, "interface", type="user")
    ET.SubElement(nic, "mac", address=mac)
    ET.SubElement(nic, "ip", family="ipv4", address=str(subnet.network_address), prefix=str(subnet.prefixlen))
    ET.SubElement(nic, "model", type="vmxnet3")
    ET.SubElement(nic, "rom", enabled="no")
    ET.SubElement(nic, "address", type="pci", bus="0x01", slot="0x00")


def _vmware_slot(root: ET.Element) -> None:
    commandline = ET.SubElement(root, f"{{{QEMU_NS}}}commandline")
    # Otherwise ACPI hot-plug gives the port's devices slot numbers of its own, which win over `slot`.
    for argument in ("-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off"):
        ET.SubElement(commandline, f"{{{QEMU_NS}}}arg", value=argument)
    override = ET.SubElement(root, f"{{{QEMU_NS}}}override")
    device = ET.SubElement(override, f"{{{QEMU_NS}}}device", alias=_PORT_ALIAS)
    frontend = ET.SubElement(device, f"{{{QEMU_NS}}}frontend")
    # libvirt writes `port`, not `slot`, and has no element for it.
    slot = ET.SubElement(frontend, f"{{{QEMU_NS}}}property", name="slot", type="unsigned")
    slot.set("value", str(VMWARE_NIC_SLOT))
