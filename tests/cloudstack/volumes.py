"""Volumes: create, attach, detach, resize, delete, as VolumeApiServiceImpl does it on KVM."""

from typing import Any

from tests.cloudstack.answers import volume_answer
from tests.cloudstack.cloud import Cloud
from tests.cloudstack.errors import PARAM, UNSUPPORTED, ApiError, broken, refuse
from tests.cloudstack.jobs import Cancelled, Started, Work
from tests.cloudstack.model import GIB, Pool, Vm, Volume
from tests.cloudstack.registry import Answer, Call, command

ATTACHABLE = ("Allocated", "Ready", "Uploaded")
TAKES = 3.0  # virtual seconds of an attach or detach


@command("createVolume")
def create_volume(call: Call) -> Started:
    """alloc is synchronous (volume Allocated, limits checked), the rest is the job."""
    cloud, p = call.cloud, call.p
    name = p.get("name") or "volume"
    offering = cloud.find(cloud.disk_offerings, p, "diskofferingid", required=False)
    if offering is None:
        raise refuse(
            "Missing parameter(s), either a positive volume size or a valid disk offering id must be "
            "specified."
        )
    cloud.need(_zones(cloud), p, "zoneid")
    size = p.whole("size")
    if offering.gib and size is not None:
        raise refuse("This disk offering does not allow custom size specification.")
    if not offering.gib and not size:
        raise refuse(
            f"Disk size must be larger than 0, or the disk offering {offering.name} must not be customized"
        )
    gib = offering.gib or size or 0
    cloud.check_limit("volume", 1)
    cloud.check_limit("primary_storage", gib)
    volume = Volume(name, "DATADISK", gib * GIB, None, offering.id, owner=call.key.account)
    cloud.volumes[volume.id] = volume
    cloud.content(volume.id).write_bytes(b"")
    cloud.note("createVolume", volume.id)

    def work() -> Work:
        yield 1.0
        return {"volume": volume_answer(cloud, volume, call.root_admin)}

    return Started(work(), None, "Volume", volume.id, {"id": volume.id})


def _zones(cloud: Cloud) -> dict[str, Any]:
    return {cloud.zone.id: cloud.zone}


def place(cloud: Cloud, volume: Volume) -> None:
    """An allocated volume gets its pool and becomes Ready when it is first attached or its VM starts."""
    if volume.state != "Allocated":
        return
    offering = cloud.disk_offerings.get(volume.offering_id or "")
    tag = offering.tag if offering is not None else cloud.offerings[volume.offering_id or ""].tag
    volume.pool = volume.pool or cloud.pool_for(tag)
    volume.state = "Ready"


@command("attachVolume")
def attach_volume(call: Call) -> Started:
    cloud, p = call.cloud, call.p
    vm, volume = cloud.vm(p, "virtualmachineid"), cloud.volume(p)
    device = p.whole("deviceid")

    def work() -> Work:
        _check_attach(cloud, vm, volume, device)
        chosen = _device(cloud, vm, device)
        before = volume.state
        if before == "Ready":
            volume.state = "Attaching"
        try:
            yield TAKES
        except (Cancelled, ApiError):
            volume.state = before
            raise
        volume.state = before
        if any(other.state != "Allocated" for other in cloud.volumes_of(vm.id)):
            place(cloud, volume)  # attached to a VM that never ran, it stays Allocated until the start
        _move_to_scope_of_root(cloud, vm, volume)
        volume.vm, volume.device = vm.id, chosen
        volume.type = "ROOT" if chosen == 0 else "DATADISK"
        volume.attached += 1
        cloud.note("attachVolume", volume.id)
        return {"volume": volume_answer(cloud, volume, call.root_admin)}

    return Started(work(), vm.id, "Volume", volume.id, check=lambda: _check_attach(cloud, vm, volume, device))


def _check_attach(cloud: Cloud, vm: Vm, volume: Volume, device: int | None) -> None:
    """The checks of VolumeApiServiceImpl.attachVolumeToVM, in its order."""
    if volume.vm is not None:
        raise refuse("Please specify a volume that is not attached to any VM.")
    if volume.state not in ATTACHABLE:
        raise refuse("Volume state must be in Allocated, Ready or in Uploaded state")
    if vm.state not in ("Running", "Stopped"):
        raise refuse("Please specify a VM that is either running or stopped.")
    if device == 0:
        check_root_swap(vm, volume)
        if cloud.root_of(vm.id) is not None or any(v.device == 0 for v in cloud.volumes_of(vm.id)):
            raise refuse("Vm already has root volume attached to it")
    if cloud.has_vm_snapshots(vm.id):
        raise refuse(
            f"Unable to attach volume to VM {vm.name}/{vm.id}, please specify a VM that does not have "
            "VM snapshots"
        )


def check_root_swap(vm: Vm, volume: Volume) -> None:
    """VolumeApiServiceImpl.validateRootVolumeDetachAttach: only Stopped, not on managed storage."""
    if vm.state != "Stopped":
        raise refuse("Root volume detach can happen only when vm is in states: Stopped or Destroyed")
    if volume.pool is not None and volume.pool.managed:
        raise refuse("Root volume detach is not supported for Managed DataStores")


def _device(cloud: Cloud, vm: Vm, device: int | None) -> int:
    """VolumeApiServiceImpl.getDeviceId: 3 is the CD-ROM's; a taken number is refused."""
    taken = {volume.device for volume in cloud.volumes_of(vm.id)}
    if device is None:
        return next(number for number in range(1, 64) if number not in taken | {3})
    if device < 0 or device >= 64 or device == 3:
        raise broken(f"deviceId should be 1,2,4-64: {device}")
    if device in taken:
        raise broken(f"deviceId {device} is used by vm {vm.id}")
    return device


def _move_to_scope_of_root(cloud: Cloud, vm: Vm, volume: Volume) -> None:
    """orchestrateAttachVolumeToVM: differing scopes of pools make attach migrate the volume, silently."""
    others = [other.pool for other in _root_first(cloud, vm) if other.pool is not None]
    if not others or volume.pool is None or not _must_move(vm, others[0], volume.pool):
        return
    cloud.moves.append((volume.id, volume.pool.name, others[0].name))
    volume.pool = others[0]


def _root_first(cloud: Cloud, vm: Vm) -> list[Volume]:
    return sorted(cloud.volumes_of(vm.id), key=lambda volume: volume.type != "ROOT")


def _must_move(vm: Vm, old: Pool, new: Pool) -> bool:
    """VolumeApiServiceImpl.needMoveVolume: a stopped VM with a volume of the zone has no cluster to
    compare."""
    if new.scope == "ZONE":
        return False
    if old.scope == new.scope:
        return old.where != new.where
    if new.scope == "CLUSTER" and old.scope == "ZONE":
        return vm.host is None or vm.host.cluster != new.where
    if new.scope == "HOST" and vm.host is not None and vm.host.name == new.where:
        return False
    raise refuse(f"Can't move volume between scope: {new.scope} and {old.scope}")


@command("detachVolume")
def detach_volume(call: Call) -> Started:
    """The checks are made when the job is taken, the effect when the VM's queue comes to it, without a
    second look.

    So a straggling second detach takes away what was attached since, perhaps to another VM (#14214).
    """
    cloud, volume = call.cloud, _named(call)
    expected = volume.vm, volume.attached

    def work() -> Work:
        yield TAKES
        if volume.vm is not None and expected != (volume.vm, volume.attached):
            cloud.orphans.append((volume.id, volume.vm))
        volume.vm, volume.device, volume.type = None, None, "DATADISK"
        cloud.note("detachVolume", volume.id)
        return {"volume": volume_answer(cloud, volume, call.root_admin)}

    return Started(work(), volume.vm, "Volume", volume.id, check=lambda: _check_detach(cloud, volume))


def _check_detach(cloud: Cloud, volume: Volume) -> None:
    """The checks of VolumeApiServiceImpl.detachVolumeFromVM, in its order."""
    if volume.vm is None:
        raise refuse("The specified volume is not attached to a VM.")
    vm = cloud.vms[volume.vm]
    if vm.state not in ("Running", "Stopped", "Destroyed"):
        raise refuse("Please specify a VM that is either running or stopped.")
    if volume.type == "ROOT":
        check_root_swap(vm, volume)
    if cloud.has_vm_snapshots(vm.id):
        raise refuse("Unable to detach volume, please specify a VM that does not have VM snapshots")


def _named(call: Call) -> Volume:
    """By id, or by VM and device id; not both (VolumeApiServiceImpl.detachVolumeFromVM)."""
    cloud, p = call.cloud, call.p
    if p.get("id"):
        if p.get("deviceid") or p.get("virtualmachineid"):
            raise refuse("Please provide either a volume id, or a tuple(device id, instance id)")
        return cloud.volume(p)
    device = p.whole("deviceid")
    vm = cloud.vm(p, "virtualmachineid")
    for volume in cloud.volumes_of(vm.id):
        if volume.device == device:
            return volume
    raise refuse("Could not find a volume with that device id attached to the VM.")


@command("deleteVolume")
def delete_volume(call: Call) -> Answer:
    """Synchronous: {"success": true}; only a detached volume, not one under delete protection."""
    volume = call.cloud.volume(call.p)
    _check_delete(call.cloud, volume)
    expunge(call.cloud, volume)
    return {"success": True}


@command("destroyVolume")
def destroy_volume(call: Call) -> Started:
    cloud, volume = call.cloud, call.cloud.volume(call.p)
    for_good = call.p.flag("expunge")

    def work() -> Work:
        _check_delete(cloud, volume)
        yield 1.0
        volume.state = "Destroy"
        if for_good:
            expunge(cloud, volume)
        return {"volume": volume_answer(cloud, volume, call.root_admin)}

    return Started(work(), None, "Volume", volume.id)


def _check_delete(cloud: Cloud, volume: Volume) -> None:
    if volume.delete_protection:
        raise refuse(
            f"Volume [id = {volume.id}, name = {volume.name}] has delete protection enabled and cannot "
            "be deleted."
        )
    if volume.vm is not None:
        raise refuse("Please specify a volume that is not attached to any VM.")
    if any(s.volume == volume.id and s.state == "BackingUp" for s in cloud.snapshots.values()):
        raise refuse("There are snapshot operations in progress on the volume, unable to delete it")


def expunge(cloud: Cloud, volume: Volume) -> None:
    volume.state, volume.destroyed, volume.vm, volume.device = "Expunged", True, None, None
    cloud.content(volume.id).unlink(missing_ok=True)
    cloud.tags = [tag for tag in cloud.tags if tag.resource_id != volume.id]
    cloud.note("deleteVolume", volume.id)


@command("updateVolume")
def update_volume(call: Call) -> Started:
    """A normal user may change the name and the delete protection only."""
    cloud, p, volume = call.cloud, call.p, call.cloud.volume(call.p)

    def work() -> Work:
        guarded = ("path", "state", "storageid", "displayvolume", "customid", "chaininfo")
        if not call.root_admin and any(p.get(name) is not None for name in guarded):
            raise refuse(
                "The domain admin and normal user are not allowed to update volume except volume name"
            )
        yield 1.0
        volume.name = p.get("name") or volume.name
        volume.delete_protection = p.flag("deleteprotection", volume.delete_protection)
        return {"volume": volume_answer(cloud, volume, call.root_admin)}

    return Started(work(), None, "Volume", volume.id)


@command("resizeVolume")
def resize_volume(call: Call) -> Started:
    """Refusals are 432 (ResizeVolumeCmd.execute), not 431."""
    cloud, p, volume = call.cloud, call.p, call.cloud.volume(call.p)
    gib = p.whole("size")

    def work() -> Work:
        try:
            _check_resize(call, volume, gib)
        except ApiError as error:
            raise ApiError(UNSUPPORTED if error.code == PARAM else error.code, error.text) from None
        yield 2.0
        volume.size = (gib or 0) * GIB
        cloud.note("resizeVolume", volume.id)
        return {"volume": volume_answer(cloud, volume, call.root_admin)}

    return Started(work(), volume.vm, "Volume", volume.id)


def _check_resize(call: Call, volume: Volume, gib: int | None) -> None:
    """VolumeApiServiceImpl.resizeVolume and validateVolumeResizeWithSize."""
    cloud = call.cloud
    if any(s.volume == volume.id and s.state in ("Allocated", "BackingUp") for s in cloud.snapshots.values()):
        raise broken(
            "There is/are unbacked up snapshot(s) on this volume, resize volume is not permitted, please try "
            "again later."
        )
    if volume.state not in ("Allocated", "Ready"):
        raise refuse(
            "Volume should be in ready or allocated state before attempting a resize. Volume "
            f"{volume.id} is in state {volume.state}."
        )
    if gib is None:
        raise refuse("A size is needed to resize a volume of a customized disk offering")
    if volume.vm is not None and cloud.has_vm_snapshots(volume.vm):
        raise refuse("A volume that is attached to a VM with any VM snapshots cannot be resized.")
    if gib * GIB < volume.size and volume.state != "Allocated":
        raise refuse("Unable to shrink volumes of type QCOW2")
    if gib * GIB < volume.size and not call.p.flag("shrinkok"):
        raise refuse("Need to sign off by supplying the shrinkok parameter with value of true.")
    cloud.check_limit("primary_storage", gib - (volume.size >> 30))
