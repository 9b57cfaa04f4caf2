from __future__ import annotations

import pytest

from refloat.destinations.libvirt_spec import DomainType
from refloat.errors import Refused
from refloat.lab.source_domain import render_source
from refloat.model import DiskBus, Firmware, NicModel
from refloat.sources.libvirt_hardware import parse_disks, parse_vm

DOMAIN = """<domain xmlns:r='https://refloat.org/xmlns/1'><name>v</name><uuid>u</uuid>
<metadata>{metadata}</metadata><memory unit='KiB'>1048576</memory><vcpu>2</vcpu><os>{os}</os>
<devices>{devices}</devices></domain>"""


def domain(devices: str = "", os: str = "", metadata: str = "") -> str:
    return DOMAIN.format(devices=devices, os=os, metadata=metadata)


def disk(key: str, bus: str, address: str, kind: str = "disk", source: str = "<source file='/x'/>") -> str:
    return (
        f"<disk type='file' device='{kind}'><driver type='qcow2'/>{source}"
        f"<target dev='{key}' bus='{bus}'/><address {address}/></disk>"
    )


PVSCSI = "<controller type='scsi' index='{}' model='vmpvscsi'/>"
DRIVE = "type='drive' controller='{}' bus='0' target='{}' unit='0'"
PCI = "type='pci' domain='0x0000' bus='0x00' slot='{:#x}' function='0x0'"


def test_scsi_disks_by_controller_then_target() -> None:
    xml = domain(
        PVSCSI.format(0)
        + PVSCSI.format(1)
        + disk("sda", "scsi", DRIVE.format(1, 0))
        + disk("sdb", "scsi", DRIVE.format(0, 10))
        + disk("sdc", "scsi", DRIVE.format(0, 2))
        + disk("sdd", "sata", DRIVE.format(0, 0), kind="cdrom")
    )
    assert [(one.key, one.bus) for one in parse_disks(xml)] == [
        ("sdc", DiskBus.PVSCSI),
        ("sdb", DiskBus.PVSCSI),
        ("sda", DiskBus.PVSCSI),
    ]


def test_virtio_disks_by_pci_address() -> None:
    xml = domain(disk("vda", "virtio", PCI.format(9)) + disk("vdb", "virtio", PCI.format(5)))
    assert [one.key for one in parse_disks(xml)] == ["vdb", "vda"]


def test_a_disk_that_several_vms_may_use_is_shared() -> None:
    xml = domain(
        disk("vda", "virtio", PCI.format(5))
        + disk("vdb", "virtio", PCI.format(6), source="<source file='/q'/><shareable/>")
    )
    assert [disk.shared for disk in parse_vm(xml, lambda key: 1).disks] == [False, True]


@pytest.mark.parametrize(
    ("devices", "word"),
    [
        (
            "<controller type='scsi' index='0' model='lsilogic'/>" + disk("sda", "scsi", DRIVE.format(0, 0)),
            "lsi",
        ),
        (disk("sda", "usb", DRIVE.format(0, 0)), "usb"),
        (disk("sda", "sata", DRIVE.format(0, 0), source="<source protocol='rbd'/>"), "block device"),
    ],
)
def test_unknown_disks_are_refused_by_name(devices: str, word: str) -> None:
    with pytest.raises(Refused) as caught:
        parse_disks(domain(devices))
    assert caught.value.code == "unknown_hardware"
    assert word in str(caught.value) and "sda" in str(caught.value)


def nic(mac: str, model: str, source: str) -> str:
    return f"<interface><mac address='{mac}'/><model type='{model}'/>{source}</interface>"


def test_nics_by_the_estates_name_where_it_is_recorded() -> None:
    xml = domain(
        nic("00:50:56:AA:00:01", "vmxnet3", "<source network='prod'/>")
        + nic("00:50:56:aa:00:02", "e1000e", "<source bridge='br0'/>")
        + nic("00:50:56:aa:00:03", "virtio", "<ip family='ipv4' address='10.20.30.0' prefix='24'/>")
        + nic("00:50:56:aa:00:04", "virtio", "<ip family='ipv4' address='10.20.30.0' prefix='24'/>"),
        metadata="<r:vm><r:nic mac='00:50:56:aa:00:04' network='lab'/></r:vm>",
    )
    vm = parse_vm(xml, lambda _key: 0)
    assert [(one.mac, one.model, one.network) for one in vm.nics] == [
        ("00:50:56:aa:00:01", NicModel.VMXNET3, "prod"),
        ("00:50:56:aa:00:02", NicModel.E1000E, "br0"),
        ("00:50:56:aa:00:03", NicModel.VIRTIO, "10.20.30.0/24"),
        ("00:50:56:aa:00:04", NicModel.VIRTIO, "lab"),
    ]


SLOTTED = """<domain xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'><devices>
<controller type='pci' index='1' model='pcie-root-port'><alias name='ua-a'/></controller>
<controller type='pci' index='2' model='pcie-root-port'><alias name='pci.2'/></controller>
<interface><mac address='00:50:56:00:00:01'/><model type='vmxnet3'/>
<address type='pci' bus='{bus}' slot='0x00' function='{function}'/></interface></devices>
<q:commandline><q:arg value='-global'/><q:arg value='{argument}'/></q:commandline>
<q:override><q:device alias='ua-a'><q:frontend><q:property name='slot' type='unsigned' value='{slot}'/>
</q:frontend></q:device></q:override></domain>"""
ACPI_OFF = "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off"


@pytest.mark.parametrize(
    ("bus", "function", "argument", "slot", "name"),
    [
        ("0x01", "0x0", ACPI_OFF, "192", "ens192"),
        ("0x01", "0x0", "", "192", ""),  # ACPI's own numbers
        ("0x01", "0x1", ACPI_OFF, "192", ""),
        ("0x01", "0x0", ACPI_OFF, "0", ""),
        ("0x02", "0x0", ACPI_OFF, "192", ""),  # a port whose slot nobody says
        ("0x00", "0x0", ACPI_OFF, "192", ""),
    ],
)
def test_a_nic_is_called_as_its_ports_slot(
    bus: str, function: str, argument: str, slot: str, name: str
) -> None:
    xml = SLOTTED.format(bus=bus, function=function, argument=argument, slot=slot)
    assert [nic.guest_name for nic in parse_vm(xml, lambda _key: 0).nics] == [name]


def test_the_labs_nic_has_the_name_of_vmwares_first() -> None:
    xml = render_source(
        "lab", "u", 1 << 30, 2, "/a", "/b", "10.20.30.0/24", "00:50:56:aa:bb:cc", DomainType.QEMU
    )
    assert [nic.guest_name for nic in parse_vm(xml, lambda _key: 0).nics] == ["ens192"]


@pytest.mark.parametrize(
    ("os", "firmware"),
    [
        ("", Firmware.BIOS),
        ("<loader type='rom'>x</loader>", Firmware.BIOS),
        ("<loader readonly='yes' type='pflash'>x</loader>", Firmware.UEFI),
    ],
)
def test_firmware(os: str, firmware: Firmware) -> None:
    vm = parse_vm(domain(os=os), lambda _key: 0)
    assert (vm.firmware, vm.memory, vm.cpus) == (firmware, 1 << 30, 2)


@pytest.mark.parametrize(
    ("firmware", "secure"),
    [
        ("", False),
        ('<loader type="pflash">OVMF_CODE.fd</loader>', False),
        ('<loader type="pflash" secure="yes">OVMF_CODE.secboot.fd</loader>', True),
        ('<firmware><feature enabled="yes" name="enrolled-keys"/></firmware>', True),
        # Protected variables without keys check no signature.
        ('<loader secure="yes"/><firmware><feature enabled="no" name="enrolled-keys"/></firmware>', False),
    ],
)
def test_secure_boot_and_tpm_are_seen(firmware: str, secure: bool) -> None:
    xml = "<domain><name>vm</name><memory>1</memory><os>{}</os><devices>{}</devices></domain>"
    without = parse_vm(xml.format(firmware, ""), lambda _key: 0)
    assert (without.secure_boot, without.tpm) == (secure, False)
    assert parse_vm(xml.format(firmware, '<tpm model="tpm-crb"/>'), lambda _key: 0).tpm
