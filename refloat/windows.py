"""What is decided about a Windows guest: why it is refused, what it needs, what its adaptation is told.
Pure."""

from __future__ import annotations

from collections.abc import Sequence

from refloat.errors import Refused
from refloat.guest.windows.versions import row_of
from refloat.model import (
    BitLocker,
    DiskBus,
    DriverChoice,
    Hibernation,
    NicModel,
    SourceVM,
    WindowsFacts,
    WindowsRequest,
)
from refloat.policy import DirtyNtfs, Hibernated, WindowsPolicy

# What a first boot writes before the operator decides, beyond the drivers: logs, the driver store, updates.
OVERLAY_RESERVE = 2 * 1024 * 1024 * 1024
# The guest's own deadline ends before the hub's: its last word has to be heard, and restarts take time.
GUEST_SHARE = 0.8

# By which of its services Windows finds its system disk, and which of them come with the driver set.
_BOOT_DRIVERS = {
    DiskBus.VIRTIO_BLK: ("viostor",),
    DiskBus.VIRTIO_SCSI: ("vioscsi",),
    DiskBus.SATA: ("storahci", "msahci"),
    DiskBus.NVME: ("stornvme",),
    DiskBus.PVSCSI: ("pvscsi",),
    DiskBus.LSI: ("lsi_sas", "lsi_scsi", "symmpi"),
}
_OF_THE_SET = frozenset({"viostor", "vioscsi"})
_OF_WINDOWS = frozenset({"storahci", "msahci"})


def needs(facts: WindowsFacts, disk_bus: DiskBus) -> list[str]:
    """Why this Windows has to be adapted for that bus, beside hardware that differs."""
    starting = {
        driver.service.lower()
        for driver in facts.storage_drivers
        if driver.start == 0 and not driver.overridden
    }
    wanted = _BOOT_DRIVERS[disk_bus]
    if starting & set(wanted):
        return []
    return [f"Windows does not start {' or '.join(wanted)} at boot, which {disk_bus} needs"]


def refusals(
    facts: WindowsFacts,
    policy: WindowsPolicy,
    disk_bus: DiskBus,
    nic_model: NicModel,
    drivers: DriverChoice | str,
    source_runs: bool,
) -> list[str]:
    """Why an adaptation is refused, each with what to do. `drivers` is the choice, or why there is none.

    While the source runs its NTFS is in use, which looks dirty: the adaptation looks again after it was
    shut down, before it changes anything.
    """
    found = []
    if facts.bitlocker is BitLocker.LOCKED:
        found.append(
            "BitLocker locks its system volume: suspend it at the source"
            " (`manage-bde -protectors -disable C:`)"
        )
    if facts.hibernation is not Hibernation.NONE and policy.hibernated is Hibernated.REFUSE:
        found.append(_hibernated(facts.hibernation))
    if facts.dirty and policy.ntfs_dirty is DirtyNtfs.REFUSE and not source_runs:
        found.append(
            "its NTFS was not unmounted cleanly: start it at the source, let it check its disk and shut it"
            " down, or set `windows.ntfs_dirty: repair` in the policy"
        )
    if isinstance(drivers, str):
        found.append(drivers)
    return [*found, *_without_a_driver(facts, disk_bus, nic_model)]


def _hibernated(how: Hibernation) -> str:
    what = "is hibernated" if how is Hibernation.HIBERNATED else "has a Fast Startup session"
    return (
        f"it {what}: start it at the source and shut it down for good (`shutdown /s /t 0`), or set"
        " `windows.hibernated: discard` in the policy: what was not saved is lost then"
    )


def _without_a_driver(facts: WindowsFacts, disk_bus: DiskBus, nic_model: NicModel) -> list[str]:
    """Devices for which the driver set has nothing: Windows must have the driver already."""
    known = {driver.service.lower() for driver in facts.storage_drivers} | {row_of(facts.version).nvme}
    wanted = _BOOT_DRIVERS[disk_bus]
    found = []
    if not set(wanted) & (known | _OF_THE_SET | _OF_WINDOWS):
        found.append(
            f"it has no driver for disks by {disk_bus} ({' or '.join(wanted)}): choose another `disk_bus`"
        )
    if nic_model is NicModel.VMXNET3 and not facts.vmware_tools:
        found.append(f"it has no driver for adapters {nic_model}: choose another `nic_model`")
    return found


def warnings(facts: WindowsFacts, policy: WindowsPolicy, source_runs: bool) -> list[str]:
    """What the operator should know although nothing is refused for it."""
    found = [f"this waits in Windows: {text}" for text in facts.pending]
    found += [f"a policy of this Windows may stand in the way: {text}" for text in facts.policies]
    if facts.bitlocker is BitLocker.SUSPENDED:
        found.append("BitLocker is suspended: it resumes by itself at the recovery site")
    if facts.hibernation is not Hibernation.NONE and policy.hibernated is Hibernated.DISCARD:
        found.append("its hibernated session is discarded by policy: what was not saved is lost")
    if facts.dirty and source_runs:
        found.append("its NTFS is in use now; it is looked at again once the source is shut down")
    elif facts.dirty and policy.ntfs_dirty is DirtyNtfs.REPAIR:
        found.append("its NTFS was not unmounted cleanly and is repaired by policy")
    return found


def request(source: SourceVM, policy: WindowsPolicy, drivers: DriverChoice, folder: str) -> WindowsRequest:
    """What the guest engine is told; `folder` is where the controller has the driver files."""
    return WindowsRequest(
        drivers=drivers,
        drivers_dir=folder,
        discard_hibernation=policy.hibernated is Hibernated.DISCARD,
        repair_dirty=policy.ntfs_dirty is DirtyNtfs.REPAIR,
        online_disks=online_disks(source, policy.online_shared),
        online_shared=policy.online_shared,
        san_policy_after=policy.san_policy.number,
    )


def online_disks(source: SourceVM, online_shared: Sequence[str]) -> tuple[str, ...]:
    """The disks that may come online in the guest: its own, and of the shared ones those that are named.
    Refused for a name that is no disk's."""
    keys = [disk.key for disk in source.disks]
    unknown = [key for key in online_shared if key not in keys]
    if unknown:
        raise Refused(
            f"`windows.online_shared` names {', '.join(unknown)}, which {source.name} does not have",
            code="unknown_disk",
            hint=f"its disks are {', '.join(keys)}",
        )
    return tuple(disk.key for disk in source.disks if not disk.shared or disk.key in online_shared)
