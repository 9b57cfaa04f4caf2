"""Volume snapshots with content, and their revert; VM snapshots, which block almost everything else."""

from tests.cloudstack.answers import snapshot_answer
from tests.cloudstack.cloud import Cloud
from tests.cloudstack.errors import ApiError, broken, refuse
from tests.cloudstack.jobs import Cancelled, Started, Work
from tests.cloudstack.model import Snapshot, VmSnapshot, Volume
from tests.cloudstack.registry import Call, command

TAKES = 20.0  # virtual seconds; the same for the revert
ACTIVE = ("Creating", "CreatedOnPrimary", "BackingUp")


@command("createSnapshot")
def create_snapshot(call: Call) -> Started:
    """The record exists at once (Allocated), the content is taken when the job's turn on the VM comes."""
    cloud, p = call.cloud, call.p
    volume = cloud.volume(p, "volumeid")
    if volume.state != "Ready":
        raise refuse(f"VolumeId: {volume.id} is not in Ready state but {volume.state}. Cannot take snapshot.")
    vm = cloud.vms[volume.vm] if volume.vm else None
    if vm is not None and vm.state == "Running" and cloud.configuration["kvm.snapshot.enabled"] != "true":
        raise refuse(
            "KVM Snapshot is not supported for Running VMs. It is disabled by default due to a possible "
            "volume corruption in certain cases. To enable it set global settings kvm.snapshot.enabled "
            "to True"
        )
    if vm is not None and vm.state not in ("Running", "Stopped"):
        raise refuse(f"Cannot take a snapshot of a volume of a VM in state {vm.state}")
    active = [s for s in cloud.snapshots.values() if s.vm == volume.vm and s.state in ACTIVE]
    if volume.vm and active:
        raise refuse(
            "There is other active snapshot tasks on the instance to which the volume is attached, "
            "please try "
            "again later"
        )
    cloud.check_limit("snapshot", 1)
    snapshot = Snapshot(p.get("name") or f"{volume.name}_snapshot", volume.id, b"", volume.vm, volume.size)
    cloud.snapshots[snapshot.id] = snapshot
    cloud.note("createSnapshot", snapshot.id)
    return Started(_take(cloud, volume, snapshot), volume.vm, "Snapshot", snapshot.id, {"id": snapshot.id})


def _take(cloud: Cloud, volume: Volume, snapshot: Snapshot) -> Work:
    """What goes wrong in the job comes masked: CreateSnapshotCmd.execute tells only that there was an
    error."""
    snapshot.state, volume.state = "BackingUp", "Snapshotting"
    snapshot.content = cloud.content(volume.id).read_bytes()
    try:
        yield TAKES
    except (ApiError, Cancelled) as error:
        snapshot.state, snapshot.content, volume.state = "Error", b"", "Ready"
        if isinstance(error, Cancelled):
            raise
        raise broken(
            f"Failed to create snapshot due to an internal error creating snapshot for volume {volume.id}"
        ) from None
    snapshot.state, volume.state = "BackedUp", "Ready"
    snapshot.revertable = volume.pool is not None and volume.pool.revertable
    return {"snapshot": snapshot_answer(cloud, snapshot)}


@command("revertSnapshot")
def revert_snapshot(call: Call) -> Started:
    cloud, snapshot = call.cloud, _snapshot(call)
    volume = cloud.volumes[snapshot.volume]

    def work() -> Work:
        _check_revert(cloud, volume, snapshot)
        volume.state = "RevertSnapshotting"
        before = cloud.content(volume.id).read_bytes()
        cloud.content(volume.id).write_bytes(
            snapshot.content[: len(snapshot.content) // 2] + b"half reverted"
        )
        try:
            yield TAKES
        except Cancelled:
            volume.state = "Ready"
            raise
        except Exception:
            volume.state = "Ready"
            cloud.content(volume.id).write_bytes(before)
            raise
        cloud.content(volume.id).write_bytes(snapshot.content)
        volume.state, volume.size = "Ready", snapshot.size
        cloud.note("revertSnapshot", snapshot.id)
        return {"snapshot": snapshot_answer(cloud, snapshot)}

    return Started(
        work(), volume.vm, "Snapshot", snapshot.id, check=lambda: _check_revert(cloud, volume, snapshot)
    )


def _check_revert(cloud: Cloud, volume: Volume, snapshot: Snapshot) -> None:
    """SnapshotManagerImpl.revertSnapshot, in its order."""
    if volume.destroyed or volume.state != "Ready":
        raise refuse("The volume is not in Ready state.")
    if volume.vm and cloud.vms[volume.vm].state != "Stopped":
        raise refuse("The VM the specified disk is attached to is not in the shutdown state.")
    if volume.vm and cloud.has_vm_snapshots(volume.vm):
        raise refuse(
            "Unable to revert snapshot for VM, please remove VM snapshots before reverting VM from snapshot"
        )
    if snapshot.state != "BackedUp":
        raise broken(f"snapshot {snapshot.name} [{snapshot.id}] does not exists in data store")
    if not snapshot.revertable:
        raise broken(f"Revert snapshot command failed for snapshot {snapshot.id}: no strategy reverts it")


@command("deleteSnapshot")
def delete_snapshot(call: Call) -> Started:
    cloud, snapshot = call.cloud, _snapshot(call)

    def work() -> Work:
        if snapshot.state not in ("BackedUp", "Error"):
            raise refuse(f"Can't delete snapshotshot {snapshot.id} due to it is not in BackedUp Status")
        yield 2.0
        cloud.snapshots.pop(snapshot.id, None)
        cloud.gone.add(snapshot.id)
        cloud.note("deleteSnapshot", snapshot.id)
        return {"success": True}

    return Started(work(), snapshot.vm, "Snapshot", snapshot.id)


def _snapshot(call: Call) -> Snapshot:
    if call.p.get("id") in call.cloud.gone:
        raise refuse(f"unable to find a snapshot with id {call.p.get('id')}")
    return call.cloud.need(call.cloud.snapshots, call.p, "id")


@command("createVMSnapshot")
def create_vm_snapshot(call: Call) -> Started:
    cloud, vm = call.cloud, call.cloud.vm(call.p, "virtualmachineid")
    snapshot = add_vm_snapshot(cloud, vm.id)

    def work() -> Work:
        yield TAKES
        return {"vmsnapshot": {"id": snapshot.id, "virtualmachineid": vm.id, "state": snapshot.state}}

    return Started(work(), vm.id, "VmSnapshot", snapshot.id, {"id": snapshot.id})


def add_vm_snapshot(cloud: Cloud, vm: str) -> VmSnapshot:
    snapshot = VmSnapshot(f"vmsnap-{len(cloud.vm_snapshots)}", vm)
    cloud.vm_snapshots[snapshot.id] = snapshot
    return snapshot
