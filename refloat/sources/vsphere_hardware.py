"""A vSphere VM's properties as the hardware that Refloat protects. Pure: records of the API in, records out.

Facts: the vSphere Web Services API reference (VirtualMachineConfigInfo, VirtualDisk and its backings), and
systemd.net-naming-scheme(7) for the names by slot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyVmomi import vim

from refloat.errors import Refused
from refloat.model import DiskBus, Firmware, NicModel, SeenNic, SourceDisk, SourceNic, SourceVM

MIB = 1 << 20

_device = vim.vm.device
# In the order in which the firmware and the guest's kernel come upon them, by rank.
_CONTROLLERS = (
    (_device.VirtualIDEController, DiskBus.SATA, 0),  # libata drives both alike
    (_device.ParaVirtualSCSIController, DiskBus.PVSCSI, 1),
    (_device.VirtualSCSIController, DiskBus.LSI, 1),
    (_device.VirtualSATAController, DiskBus.SATA, 2),
    (_device.VirtualNVMEController, DiskBus.NVME, 3),
)
_NICS = (
    (_device.VirtualVmxnet3, NicModel.VMXNET3),
    (_device.VirtualE1000e, NicModel.E1000E),
    (_device.VirtualE1000, NicModel.E1000E),
)
_SLOT_BITS = 1024  # above it the number holds a function, too: how the guest counts that is not certain
_NO_SHARING = ("", "noSharing", "sharingNone")


@dataclass(frozen=True)
class VmDisk:
    """One disk. `path` is the datastore's name of its file; `change_id` is empty without change tracking."""

    key: int
    label: str
    capacity: int
    bus: DiskBus
    path: str
    uuid: str
    mode: str
    shared: bool
    change_id: str
    problem: str
    warning: str


def source_vm(
    facts: Mapping[str, Any],
    networks: Mapping[str, str],
    seen: Mapping[int, SeenNic],
    warnings: Sequence[str],
) -> SourceVM:
    """`facts` are the VM's properties by path ("name", "config", ...); `networks` names of distributed and
    opaque networks by their key; `seen` by the key of the adapter. Raises Refused for hardware that has no
    name here."""
    config = facts["config"]
    disks = vm_disks(config)
    options = config.bootOptions
    return SourceVM(
        name=facts["name"],
        uuid=config.instanceUuid or config.uuid,
        cpus=config.hardware.numCPU,
        memory=config.hardware.memoryMB * MIB,
        firmware=Firmware.UEFI if config.firmware == "efi" else Firmware.BIOS,
        disks=tuple(
            SourceDisk(str(one.key), one.capacity, one.bus, one.shared, one.mode, one.path, one.uuid)
            for one in disks
        ),
        nics=tuple(_nic(one, networks, seen) for one in adapters(config)),
        secure_boot=bool(options and options.efiSecureBootEnabled),
        tpm=any(_is(one, "VirtualTPM") for one in config.hardware.device),
        cores_per_socket=config.hardware.numCoresPerSocket or 0,
        problems=(*_problems(facts), *(one.problem for one in disks if one.problem)),
        warnings=(*_warnings(facts, disks), *warnings),
    )


def vm_disks(config: Any) -> tuple[VmDisk, ...]:
    """The virtual disks, in the order in which the guest's kernel numbers them."""
    devices = list(config.hardware.device or ())
    by_key = {one.key: one for one in devices}
    found = []
    for disk in devices:
        if isinstance(disk, _device.VirtualDisk):
            controller = by_key.get(disk.controllerKey)
            bus, rank = _controller(disk, controller)
            place = (rank, getattr(controller, "busNumber", 0) or 0, disk.unitNumber or 0)
            found.append((place, _disk(disk, controller, bus)))
    return tuple(disk for _, disk in sorted(found, key=lambda item: item[0]))


def adapters(config: Any) -> list[Any]:
    return [one for one in config.hardware.device or () if isinstance(one, _device.VirtualEthernetCard)]


def _controller(disk: Any, controller: Any) -> tuple[DiskBus, int]:
    for kind, bus, rank in _CONTROLLERS:
        if isinstance(controller, kind):
            return bus, rank
    raise Refused(
        f"disk {_label(disk)} is on a controller that Refloat does not know: {_kind(controller)}",
        code="unknown_hardware",
        hint="known: IDE, SCSI (LSI Logic, BusLogic, paravirtual), SATA, NVMe",
    )


def _disk(disk: Any, controller: Any, bus: DiskBus) -> VmDisk:
    backing = disk.backing
    mode, sharing = getattr(backing, "diskMode", None) or "", getattr(backing, "sharing", None) or ""
    bus_sharing = getattr(controller, "sharedBus", None) or ""
    shared = sharing not in _NO_SHARING or str(bus_sharing) not in ("", "noSharing")
    problem, warning = _doubts(disk, mode, shared)
    return VmDisk(
        key=disk.key,
        label=_label(disk),
        capacity=disk.capacityInBytes or (disk.capacityInKB or 0) * 1024,
        bus=bus,
        path=getattr(backing, "fileName", None) or "",
        uuid=getattr(backing, "uuid", None) or "",
        mode=mode,
        shared=shared,
        change_id=getattr(backing, "changeId", None) or "",
        problem=problem,
        warning=warning,
    )


def _doubts(disk: Any, mode: str, shared: bool) -> tuple[str, str]:
    """Why snapshots of the VM do not hold this disk, and what else is to be said of it; "" where nothing."""
    label, backing = _label(disk), disk.backing
    if getattr(backing, "compatibilityMode", None) == "physicalMode":
        return f"{label} is a raw device mapping in physical mode: no snapshot holds it; make it virtual", ""
    if mode.startswith("independent") or mode in ("nonpersistent", "undoable", "append"):
        return f"{label} is {mode}: no snapshot holds it; make it dependent (while the VM is off)", ""
    if shared:
        return f"{label} is shared with other VMs: such a disk has no snapshots; end its sharing", ""
    if getattr(backing, "compatibilityMode", None) == "virtualMode":
        return "", f"{label} is a raw device mapping in virtual mode: its replica is a plain volume"
    if getattr(backing, "keyId", None) is not None:
        return "", f"{label} is encrypted by vSphere: its replica is not"
    return "", ""


def _problems(facts: Mapping[str, Any]) -> list[str]:
    """What makes snapshots of the whole VM impossible."""
    config = facts["config"]
    found = []
    if config.template:
        found.append("it is a template: nothing runs there that could be protected")
    if facts.get("runtime.faultToleranceState") not in (None, "notConfigured"):
        found.append("vSphere Fault Tolerance is on: such a VM has no snapshots; turn it off")
    passed = [_label(one) for one in config.hardware.device if _is(one, "VirtualPCIPassthrough")]
    if passed:
        found.append(f"{', '.join(passed)}: a VM with a device of its host passed through has no snapshots")
    return found


def _warnings(facts: Mapping[str, Any], disks: Sequence[VmDisk]) -> list[str]:
    config = facts["config"]
    found = [one.warning for one in disks if one.warning]
    if not config.changeTrackingEnabled:
        found.append("changed block tracking is off: each sync compares whole disks")
    if facts.get("runtime.consolidationNeeded"):
        found.append(
            "its disks need consolidation: do that in vCenter before their snapshots fill the datastore"
        )
    if facts.get("guest.toolsRunningStatus") != "guestToolsRunning":
        found.append(
            "VMware Tools do not run: no orderly shutdown, snapshots are only crash-consistent, and what is "
            "known of the network comes from the guest's own files or an earlier capture"
        )
    if len({one.bus in (DiskBus.PVSCSI, DiskBus.LSI) for one in disks if one.bus is not DiskBus.NVME}) > 1:
        found.append("its disks are on SCSI and on SATA or IDE: which the guest calls sda is not certain")
    return found


def _nic(nic: Any, networks: Mapping[str, str], seen: Mapping[int, SeenNic]) -> SourceNic:
    model = next((model for kind, model in _NICS if isinstance(nic, kind)), None)
    if model is None:
        raise Refused(
            f"adapter {_label(nic)} is of a kind that Refloat does not know: {_kind(nic)}",
            code="unknown_hardware",
            hint="known: VMXNET3, E1000E, E1000",
        )
    return SourceNic(
        mac=(nic.macAddress or "").lower(),
        model=model,
        network=_network(nic, networks),
        guest_name=_guest_name(nic),
        address_type=nic.addressType or "",
        seen=seen.get(nic.key),
    )


def _network(nic: Any, networks: Mapping[str, str]) -> str:
    """Its network as vCenter shows it."""
    backing = nic.backing
    port = getattr(backing, "port", None)
    if port is not None:
        key = port.portgroupKey or ""
        return networks.get(key, key)
    key = getattr(backing, "opaqueNetworkId", None)
    if key:
        return networks.get(key, key)
    return getattr(backing, "deviceName", None) or ""


def _guest_name(nic: Any) -> str:
    number = getattr(nic.slotInfo, "pciSlotNumber", None)
    return f"ens{number}" if number and 0 < number < _SLOT_BITS else ""


def _label(device: Any) -> str:
    info = getattr(device, "deviceInfo", None)
    return (info and info.label) or f"device {device.key}"


def _is(device: Any, kind: str) -> bool:
    return isinstance(device, getattr(_device, kind))


def _kind(thing: Any) -> str:
    return type(thing).__name__.rpartition(".")[2]
