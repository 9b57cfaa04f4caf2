"""Root swap, and what becomes of volumes. Facts: VolumeApiServiceImpl, and apache/cloudstack #6492, #8634,
#14214.

A root volume is detached and another attached as device 0 while the VM is Stopped. The order: the replica's
root leaves, the old root leaves, the replica's root comes back as device 0; each only when the order before
has ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from refloat.destinations.cloudstack_look import TAG, Look, Vm, Volume
from refloat.destinations.cloudstack_orders import Orders
from refloat.destinations.cloudstack_plan import Attach, Detach, can_be, device_ids, is_uuid, next_disk
from refloat.errors import Failed, Refused
from refloat.model import AttachedDisk


def set_disks(orders: Orders, look: Look, vm: Vm, disks: Sequence[AttachedDisk], note: str) -> None:
    """Exactly these in this order. Where the controller's own were is noted before the first order."""
    wanted = chosen_volumes(look, vm, disks)
    there = look.volumes(vm.id)
    attached = {volume.id: volume.device for volume in there}
    home: dict[str, int] | None = orders.journal.notes.get(note)
    target = device_ids([volume.id for volume in wanted], attached, home)
    if attached != target:
        if home is None:
            orders.journal.note(note, attached)
        for volume in {one.id: one for one in [*there, *wanted]}.values():
            mark(orders, look, vm, volume)
    _swap(orders, look, vm, target)
    _verify(look, vm, target)
    if target == home:
        orders.journal.note(note, None)


def chosen_volumes(look: Look, vm: Vm, disks: Sequence[AttachedDisk]) -> list[Volume]:
    """The volumes that are meant. Raises Refused, before anything is changed, where one cannot be
    attached."""
    if not disks:
        raise Refused(f"VM {vm.name} cannot be without a root disk", code="no_disks")
    if not can_be([disk.bus for disk in disks]):
        raise Refused(
            f"CloudStack cannot give {', '.join(disk.bus for disk in disks)}: it has one bus for "
            f"the root disk and "
            "one for all others",
            code="no_such_device",
            hint="choose one of virtio-blk, virtio-scsi and sata in the policy",
        )
    if len({disk.volume for disk in disks}) < len(disks):
        raise Refused("a disk is named twice", code="disk_twice")
    return [_chosen(look, vm, disk) for disk in disks]


def _chosen(look: Look, vm: Vm, disk: AttachedDisk) -> Volume:
    volume = look.volume(disk.volume)
    if volume is None:
        raise Refused(f"CloudStack has no volume {disk.volume}", code="no_such_volume")
    if volume.serial != disk.serial:
        raise Refused(
            f"volume {volume.id} shows the serial {volume.serial}, never {disk.serial}",
            code="bad_serial",
            hint="a disk's serial is the first 20 digits of its volume's id: see the target in the "
            "estate file",
        )
    if volume.vm not in ("", vm.id):
        raise Refused(f"volume {volume.name} is attached to another VM", code="volume_in_use")
    return volume


def mark(orders: Orders, look: Look, vm: Vm, volume: Volume) -> None:
    """Ours, and protected from deletion where this version can do that, before it is ever detached."""

    def now() -> Volume:
        found = look.volume(volume.id)
        if found is None:
            raise Failed(f"volume {volume.name} of VM {vm.name} is gone", code="volume_gone")
        return found

    orders.give(
        "createTags",
        lambda: now().tag == vm.id,
        f"volume {volume.name}",
        resourceids=volume.id,
        resourcetype="Volume",
        tags=[{"key": TAG, "value": vm.id}],
    )
    if volume.protected is not None:
        orders.give(
            "updateVolume",
            lambda: now().protected is True,
            f"volume {volume.name}",
            id=volume.id,
            deleteprotection=True,
        )


def _swap(orders: Orders, look: Look, vm: Vm, target: dict[str, int]) -> None:
    def attached() -> dict[str, int]:
        return {volume.id: volume.device for volume in look.volumes(vm.id)}

    for _ in range(4 * len(target) + 16):
        match next_disk(attached(), target):
            case None:
                return
            case Detach(volume):
                # By its id only: by device number it could be another one that goes.
                done = _is_detached(attached, volume)
                orders.give("detachVolume", done, f"volume {volume}", id=volume)
            case Attach(volume, device):
                done = _is_attached(attached, volume, device)
                where = {"virtualmachineid": vm.id, "deviceid": device}
                orders.give("attachVolume", done, f"volume {volume}", id=volume, **where)
    raise _other(vm, "they do not come to rest")


def _is_detached(attached: Callable[[], dict[str, int]], volume: str) -> Callable[[], bool]:
    return lambda: volume not in attached()


def _is_attached(attached: Callable[[], dict[str, int]], volume: str, device: int) -> Callable[[], bool]:
    return lambda: attached().get(volume) == device


def _verify(look: Look, vm: Vm, target: dict[str, int]) -> None:
    """Facts: without a ROOT at device 0 the start fails; a volume that is not Ready is being moved."""
    for volume in look.volumes(vm.id):
        if volume.root is not (target.get(volume.id) == 0) or volume.state != "Ready":
            kind = "ROOT" if volume.root else "DATADISK"
            raise _other(vm, f"volume {volume.name} is {kind} at {volume.device}, {volume.state}")


def _other(vm: Vm, what: str) -> Failed:
    return Failed(
        f"the disks of VM {vm.name} are not as ordered: {what}",
        code="not_as_ordered",
        hint="look at this VM in CloudStack: somebody or something else changes it",
    )


def delete_volume(orders: Orders, look: Look, vm: Vm, name: str) -> None:
    """Only one that is attached to nothing and carries our tag for this VM. One that is gone is done with."""
    if not is_uuid(name):
        raise Refused(f"{name!r} is no volume of CloudStack", code="no_such_volume")
    volume = look.volume(name)
    if volume is None or volume.state in ("Destroy", "Expunging", "Expunged"):
        return
    if volume.vm:
        raise Refused(
            f"volume {volume.name} is attached to a VM", code="volume_in_use", hint="detach it there first"
        )
    if volume.tag != vm.id:
        raise Refused(
            f"volume {volume.name} is not tagged as one of VM {vm.name}",
            code="volume_not_ours",
            hint=f"Refloat deletes only what it parked itself (tag {TAG}); delete it by hand if it is to go",
        )
    if volume.protected:
        orders.give(
            "updateVolume",
            lambda: (now := look.volume(name)) is None or not now.protected,
            f"volume {volume.name}",
            id=volume.id,
            deleteprotection=False,
        )
    orders.give("deleteVolume", lambda: _is_gone(look, name), f"volume {volume.name}", id=volume.id)


def _is_gone(look: Look, name: str) -> bool:
    volume = look.volume(name)
    return volume is None or volume.state in ("Destroy", "Expunging", "Expunged")
