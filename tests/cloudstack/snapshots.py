"""Volume snapshots with content, and their revert; VM snapshots, which block almost everything else."""

from tests.cloudstack.answers import snapshot_answer
from tests.cloudstack.cloud import Cloud
from tests.cloudstack.errors import broken, refuse
from tests.cloudstack.jobs import Cancelled, Started, Work
from tests.cloudstack.model import Snapshot, VmSnapshot
from tests.cloudstack.registry import Call, command

TAKES = 20.0  # virtual seconds; the same for the revert


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
    cloud.check_limit("snapshot", 1)
    snapshot = Snapshot(p.get("name") or f"{volume.name}_snapshot", volume.id, b"", volume.vm, volume.size)
    cloud.snapshots[snapshot.id] = snapshot
    cloud.note("createSnapshot", snapshot.id)

    def work() -> Work:
        snapshot.state = "BackingUp"
        snapshot.content = cloud.content(volume.id).read_bytes()
        try:
            yield TAKES
        except Exception:
            snapshot.state, snapshot.content = "Error", b""
            raise
        snapshot.state = "BackedUp"
        snapshot.revertable = volume.pool is not None and volume.pool.revertable
        return {"snapshot": snapshot_answer(cloud, snapshot)}

    def one_at_a_time() -> None:
        """takeSnapshot's refusals come masked: CreateSnapshotCmd.execute tells only that there was an
        error."""
        others = [
            s for s in cloud.snapshots.values() if s.vm == volume.vm and s is not snapshot and volume.vm
        ]
        if any(s.state in ("Allocated", "BackingUp", "CreatedOnPrimary") for s in others):
            snapshot.state = "Error"
            raise broken(
                "Failed to create snapshot due to an internal error creating snapshot for volume " + volume.id
            )

    return Started(work(), volume.vm, "Snapshot", snapshot.id, {"id": snapshot.id}, one_at_a_time)


@command("revertSnapshot")
def revert_snapshot(call: Call) -> Started:
    cloud, snapshot = call.cloud, _snapshot(call)
    volume = cloud.volumes[snapshot.volume]

    def check() -> None:
        if volume.destroyed:
            raise refuse("Failed to revert snapshot: its volume is gone")
        if volume.vm and cloud.vms[volume.vm].state != "Stopped":
            raise refuse("The VM the specified disk attached to is not in the shutdown state.")
        if volume.vm and cloud.has_vm_snapshots(volume.vm):
            raise refuse(f"Cannot revert snapshot: VM {volume.vm} has VM snapshots")
        if volume.state != "Ready":
            raise refuse(f"Volume is not in Ready state but {volume.state}: can't revert")
        if snapshot.state != "BackedUp":
            raise refuse(f"Unable to revert to snapshot {snapshot.id} in state {snapshot.state}")
        if not snapshot.revertable:
            raise broken(f"can not find strategy for snapshot: {snapshot.id} to revert it")

    def work() -> Work:
        check()
        volume.state = "Reverting"
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

    return Started(work(), volume.vm, "Snapshot", snapshot.id, check=check)


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
