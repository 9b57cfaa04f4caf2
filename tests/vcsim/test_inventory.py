"""What VsphereSource reads of a VM, and what it refuses, against govmomi's simulator."""

from __future__ import annotations

from typing import Any

import pytest

from refloat.errors import NotFound, Refused
from refloat.model import AddressOrigin, DiskBus, Firmware, NicModel, SeenAddress, SeenRoute
from tests.vcsim.rig import MIB, VcSim

UUID = "50111111-2222-4333-8444-555555555555"


# ---------------------------------------------------------------- the VM


def test_everything_that_is_read(vcsim: VcSim) -> None:
    vm = vcsim.source().inventory(vcsim.vm)
    assert (vm.name, vm.cpus, vm.cores_per_socket, vm.memory) == (vcsim.vm, 4, 2, 4096 * MIB)
    assert (vm.firmware, vm.secure_boot, vm.tpm) == (Firmware.UEFI, True, False)
    first, second = vm.disks
    assert (first.key, first.capacity, first.bus) == ("2000", 4 * MIB + 65536, DiskBus.PVSCSI)
    assert (first.mode, first.backing) == ("persistent", "[LocalDS_0] web/web-2000.vmdk")
    assert (first.uuid, first.shared) == ("6000C292000", False)
    assert (second.key, second.capacity) == ("2001", 2 * MIB)
    (nic,) = vm.nics
    assert (nic.mac, nic.model, nic.network) == ("00:50:56:aa:bb:cc", NicModel.VMXNET3, "VM Network")
    assert (nic.guest_name, nic.address_type) == ("ens192", "assigned")
    assert nic.seen and nic.seen.at
    assert nic.seen.addresses == (SeenAddress("10.20.30.40/24", AddressOrigin.MANUAL),)
    assert nic.seen.dhcp is False
    assert nic.seen.routes == (SeenRoute("default", "10.20.30.1"),)
    assert (nic.seen.dns, nic.seen.search) == (("10.20.30.2",), ("example.org",))
    assert vm.problems == () and vm.warnings == ()


def test_other_hardware(vcsim: VcSim) -> None:
    vcsim.set(
        Firmware="bios",
        TPM=True,
        Disks=[
            vcsim.disk("2000", unit=3, Controller="lsi", Name="[ds] a.vmdk"),
            vcsim.disk("2001", unit=0, Controller="sata", Name="[ds] b.vmdk"),
            vcsim.disk("2001", unit=1, Controller="nvme", Name="[ds] c.vmdk"),
            vcsim.disk("2001", unit=2, Controller="lsi", Name="[ds] d.vmdk"),
            vcsim.disk("2001", unit=0, Controller="ide", Name="[ds] e.vmdk"),
        ],
        Nics=[
            {"Kind": "e1000e", "Mac": "00:50:56:00:00:01", "Port": _portgroup(vcsim), "Slot": 1184},
            {"Kind": "vmxnet3", "Mac": "00:50:56:00:00:02", "Network": "Storage", "Slot": 224},
        ],
    )
    vm = vcsim.source().inventory(vcsim.vm)
    assert [(one.backing[5:6], one.bus) for one in vm.disks] == [
        ("e", DiskBus.SATA), ("d", DiskBus.LSI), ("a", DiskBus.LSI), ("b", DiskBus.SATA), ("c", DiskBus.NVME),
    ]  # fmt: skip
    assert vm.firmware is Firmware.BIOS and vm.tpm
    assert [(one.model, one.network, one.guest_name) for one in vm.nics] == [
        (NicModel.E1000E, "DC0_DVPG0", ""),
        (NicModel.VMXNET3, "Storage", "ens224"),
    ]
    assert any("sda is not certain" in one for one in vm.warnings)


def _portgroup(vcsim: VcSim) -> str:
    """The key of the simulator's distributed port group."""
    source = vcsim.source()
    vm = source._find(vcsim.vm)
    networks = source._session.read("networks", vm, "network")["network"]
    return next(str(one._moId) for one in networks if one._moId.startswith("dvportgroup"))


@pytest.mark.parametrize(
    ("name", "found"), [("DC0/vm/DC0_H0_VM0", True), ("/DC0/vm/DC0_H0_VM0", True), ("DC0/vm/none", False)]
)
def test_a_vm_by_its_path(vcsim: VcSim, name: str, found: bool) -> None:
    if found:
        assert vcsim.source().inventory(name).name == vcsim.vm
        return
    with pytest.raises(NotFound):
        vcsim.source().inventory(name)


def test_a_vm_by_its_instance_uuid(vcsim: VcSim) -> None:
    uuid = vcsim.source().inventory(vcsim.vm).uuid
    assert vcsim.source().inventory(uuid).name == vcsim.vm
    with pytest.raises(NotFound):
        vcsim.source().inventory(UUID)


def test_a_name_that_two_vms_have_is_refused(vcsim: VcSim) -> None:
    other = vcsim.set(vcsim.other, Name=vcsim.vm)
    try:
        with pytest.raises(Refused) as caught:
            vcsim.source().power_state(vcsim.vm)
    finally:
        vcsim.set(other, Name=vcsim.other)
    assert caught.value.code == "ambiguous_vm"
    assert caught.value.hint.count("-") >= 8  # both instance UUIDs


DOUBTS: list[tuple[dict[str, Any], str]] = [
    ({"RDM": "physicalMode"}, "raw device mapping in physical mode"),
    ({"Mode": "independent_persistent"}, "independent_persistent"),
    ({"Mode": "independent_nonpersistent"}, "independent_nonpersistent"),
    ({"Mode": "nonpersistent"}, "nonpersistent"),
    ({"Sharing": "sharingMultiWriter"}, "shared with other VMs"),
]


@pytest.mark.parametrize(("disk", "why"), DOUBTS)
def test_disks_that_no_snapshot_holds_are_refused(vcsim: VcSim, disk: dict[str, Any], why: str) -> None:
    vcsim.set(Disks=[vcsim.disk("2000", unit=0), vcsim.disk("2001", unit=1, **disk)])
    source = vcsim.source()
    vm = source.inventory(vcsim.vm)
    assert len(vm.problems) == 1 and why in vm.problems[0] and "Hard disk 2" in vm.problems[0]
    assert vm.disks[1].shared is ("Sharing" in disk)
    vcsim.calls()
    with pytest.raises(Refused) as caught, source.read_changes(vcsim.vm, None, "refloat-1"):
        pass
    assert caught.value.code == "not_replicable" and why in caught.value.message
    assert "CreateSnapshot_Task" not in vcsim.calls()


@pytest.mark.parametrize(
    ("what", "why"),
    [({"FT": "running"}, "Fault Tolerance"), ({"Template": True}, "template"), ({"Passed": True}, "passed")],
)
def test_vms_without_snapshots_are_refused(vcsim: VcSim, what: dict[str, Any], why: str) -> None:
    vcsim.set(**what)
    try:
        assert any(why in one for one in vcsim.source().inventory(vcsim.vm).problems)
    finally:
        vcsim.set(FT="notConfigured", Template=False)


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ({"Tracking": False}, "changed block tracking is off"),
        ({"Consolidation": True}, "consolidation"),
        ({"Tools": "guestToolsNotRunning"}, "VMware Tools do not run"),
    ],
)
def test_what_is_only_said(vcsim: VcSim, what: dict[str, Any], why: str) -> None:
    vcsim.set(**what)
    try:
        vm = vcsim.source().inventory(vcsim.vm)
        assert vm.problems == () and any(why in one for one in vm.warnings)
    finally:
        vcsim.set(Consolidation=False)


def test_an_adapter_of_an_unknown_kind_is_refused(vcsim: VcSim) -> None:
    vcsim.set(Nics=[{"Kind": "pcnet32", "Mac": "00:50:56:00:00:01", "Network": "VM Network"}])
    with pytest.raises(Refused) as caught:
        vcsim.source().inventory(vcsim.vm)
    assert caught.value.code == "unknown_hardware" and "PCNet32" in caught.value.message


# ---------------------------------------------------------------- what VMware Tools tell


def test_without_tools_nothing_is_seen(vcsim: VcSim) -> None:
    vcsim.set(Tools="guestToolsNotRunning")
    assert vcsim.source().inventory(vcsim.vm).nics[0].seen is None


def test_a_guest_that_does_not_tell_origins(vcsim: VcSim) -> None:
    addresses = [{"Address": "10.20.30.40", "Prefix": 24}, {"Address": "fd00::5", "Prefix": 64}]
    vcsim.set(Guest=[{"Key": 4000, "Mac": "00:50:56:aa:bb:cc", "Addresses": addresses}])
    seen = vcsim.source().inventory(vcsim.vm).nics[0].seen
    assert seen and seen.dhcp is None
    assert seen.addresses == (SeenAddress("10.20.30.40/24"), SeenAddress("fd00::5/64"))


def test_a_vlan_with_the_same_mac_is_no_guess(vcsim: VcSim) -> None:
    vlan = vcsim.guest(Addresses=[{"Address": "10.9.0.1", "Prefix": 24, "Origin": "manual"}])
    vcsim.set(Guest=[vcsim.guest(), vlan])
    vm = vcsim.source().inventory(vcsim.vm)
    assert vm.nics[0].seen is None and any("2 interfaces" in one for one in vm.warnings)


def test_hostile_words_of_a_guest_are_left_out(vcsim: VcSim) -> None:
    words = ["10.0.0.300", "<script>", "::ffff", "169.254.1.1", "1.2.3.4%eth0"]
    addresses = [{"Address": word, "Prefix": 24, "Origin": "manual"} for word in words]
    vcsim.set(
        Guest=[vcsim.guest(Addresses=addresses * 50, DNS=["nowhere", "10.0.0.1"])],
        Routes=[{"Device": "0", "Network": "x", "Prefix": 99, "Gateway": "10.0.0.1"}],
    )
    seen = vcsim.source().inventory(vcsim.vm).nics[0].seen
    assert seen and {one.address for one in seen.addresses} == {"::ffff/24", "1.2.3.4/24"}
    assert len(seen.addresses) <= 64 and seen.dns == ("10.0.0.1",) and seen.routes == ()
