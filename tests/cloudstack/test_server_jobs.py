"""Async jobs, and volume snapshots with their content."""

import pytest

from tests.cloudstack.client import Client
from tests.cloudstack.faults import Fault
from tests.cloudstack.jobs import FAILED, PENDING, SUCCEEDED
from tests.cloudstack.server import CloudStack
from tests.cloudstack.snapshots import add_vm_snapshot


def test_a_job_is_pending_then_done_and_names_its_entity(cloudstack: CloudStack) -> None:
    """facts, Async API; AsyncJobResponse"""
    client = Client(cloudstack)
    vm = client.stopped()
    job = client.call("startVirtualMachine", id=vm).inner["jobid"]
    answer = client.call("queryAsyncJobResult", jobid=job).inner
    assert (answer["jobstatus"], answer["jobinstanceid"]) == (PENDING, vm)
    assert "jobresult" not in answer
    (listed,) = client.list("listAsyncJobs")
    assert (listed["jobid"], listed["jobinstancetype"]) == (job, "VirtualMachine")
    cloudstack.jobs.finish()
    answer = client.call("queryAsyncJobResult", jobid=job).inner
    assert answer["jobstatus"] == SUCCEEDED
    assert answer["jobresult"]["virtualmachine"]["state"] == "Running"
    assert client.list("listAsyncJobs") == []


def test_polling_alone_moves_a_job(cloudstack: CloudStack) -> None:
    """Each request takes a virtual second."""
    client = Client(cloudstack)
    vm = client.stopped()
    job = client.call("startVirtualMachine", id=vm).inner["jobid"]
    polls = [client.call("queryAsyncJobResult", jobid=job).inner["jobstatus"] for _ in range(6)]
    assert polls == [PENDING] * 4 + [SUCCEEDED] * 2


def test_the_real_error_is_in_the_result(cloudstack: CloudStack) -> None:
    """ApiAsyncJobDispatcher.runJob: the call is 200, the job failed"""
    client = Client(cloudstack)
    vm = client.deploy()
    reply = client.call("detachVolume", id=client.root(vm))
    assert reply.status == 200
    answer = client.call("queryAsyncJobResult", jobid=reply.inner["jobid"]).inner
    assert (answer["jobstatus"], answer["jobresultcode"], answer["jobresult"]["errorcode"]) == (
        FAILED,
        431,
        431,
    )


def test_jobs_of_one_vm_wait_for_each_other_and_others_do_not(cloudstack: CloudStack) -> None:
    """VmWorkJob: one queue a VM"""
    client = Client(cloudstack)
    first, second = client.stopped("vm1"), client.stopped("vm2")
    volume = client.volume()
    cloudstack.jobs.hold("startVirtualMachine")
    start = client.call("startVirtualMachine", id=first).inner["jobid"]
    stop = client.call("stopVirtualMachine", id=first).inner["jobid"]
    client.call("attachVolume", id=volume, virtualmachineid=second)
    cloudstack.jobs.finish()
    assert client.list("listVolumes", id=volume)[0]["virtualmachineid"] == second
    statuses = [client.call("queryAsyncJobResult", jobid=job).inner["jobstatus"] for job in (start, stop)]
    assert statuses == [PENDING, PENDING]
    cloudstack.jobs.release("startVirtualMachine")
    cloudstack.jobs.finish()
    assert cloudstack.cloud.vms[first].state == "Stopped"
    assert cloudstack.cloud.vms[first].starts == 2


def test_a_job_is_cancelled_after_an_hour(cloudstack: CloudStack) -> None:
    """job.cancel.threshold.minutes; a full-copy revert may take that long, and what it left is half of it"""
    client = Client(cloudstack)
    vm, snapshot = _with_snapshot(client)
    cloudstack.jobs.hold("revertSnapshot")
    job = client.call("revertSnapshot", id=snapshot).inner["jobid"]
    cloudstack.advance(3500)
    assert client.call("queryAsyncJobResult", jobid=job).inner["jobstatus"] == PENDING
    cloudstack.advance(200)
    assert client.call("queryAsyncJobResult", jobid=job).inner["jobstatus"] == FAILED
    root = client.root(vm)
    assert cloudstack.content(root) not in (b"before", b"after!")
    cloudstack.jobs.release("revertSnapshot")
    client.ok("revertSnapshot", id=snapshot)
    assert cloudstack.content(root) == b"before"


def test_a_job_that_is_made_to_fail_leaves_no_effect(cloudstack: CloudStack) -> None:
    client = Client(cloudstack)
    vm = client.stopped()
    cloudstack.jobs.fail_next("startVirtualMachine", 534, "Resource unavailable")
    answer = client.job("startVirtualMachine", id=vm)
    assert (answer["jobresult"]["errorcode"], cloudstack.cloud.vms[vm].state) == (534, "Stopped")
    client.ok("startVirtualMachine", id=vm)


def test_a_lost_answer_is_found_among_the_jobs(cloudstack: CloudStack) -> None:
    """facts: after a crash first wait out the jobs on the VM and its volumes"""
    client = Client(cloudstack)
    vm = client.stopped()
    cloudstack.faults.add(Fault("startVirtualMachine", "close_after"))
    with pytest.raises(OSError):
        client.call("startVirtualMachine", id=vm)
    assert [job["jobinstanceid"] for job in client.list("listAsyncJobs")] == [vm]


def _with_snapshot(client: Client) -> tuple[str, str]:
    """A stopped VM whose root held b"before" when it was snapshotted and holds b"after!" now."""
    server = client.server
    vm = client.deploy()
    serial = client.root(vm).replace("-", "")[:20]
    server.cloud.content(client.root(vm)).write_bytes(b"before")
    snapshot = str(client.ok("createSnapshot", volumeid=client.root(vm), name="rollback")["id"])
    server.write_in_guest(vm, serial, b"after!")
    client.ok("stopVirtualMachine", id=vm)
    return vm, snapshot


def test_a_revert_brings_back_every_byte(cloudstack: CloudStack) -> None:
    """SnapshotManagerImpl.revertSnapshot; again is safe while stopped (facts)"""
    client = Client(cloudstack)
    vm, snapshot = _with_snapshot(client)
    root = client.root(vm)
    assert cloudstack.content(root) == b"after!"
    for _ in range(2):
        client.ok("revertSnapshot", id=snapshot)
        assert cloudstack.content(root) == b"before"
    client.ok("deleteSnapshot", id=snapshot)
    assert client.list("listSnapshots") == []


def test_a_snapshot_goes_from_backing_up_to_backed_up(cloudstack: CloudStack) -> None:
    """Snapshot.State; the record is there before the job ends"""
    client = Client(cloudstack)
    vm = client.stopped()
    made = client.call("createSnapshot", volumeid=client.root(vm), name="r1").inner
    (row,) = client.list("listSnapshots", volumeid=client.root(vm), name="r1")
    assert (row["id"], row["state"], row["revertable"]) == (made["id"], "BackingUp", False)
    cloudstack.jobs.finish()
    (row,) = client.list("listSnapshots", id=made["id"])
    assert (row["state"], row["revertable"]) == ("BackedUp", True)


def test_the_mechanism_decides_whether_a_snapshot_is_revertable(cloudstack: CloudStack) -> None:
    """SnapshotResponse.revertable; the strategy says no at the revert"""
    client = Client(cloudstack)
    vm = client.stopped()
    cloudstack.cloud.volumes[client.root(vm)].pool = cloudstack.estate.frozen
    snapshot = client.ok("createSnapshot", volumeid=client.root(vm))
    assert (snapshot["state"], snapshot["revertable"]) == ("BackedUp", False)
    assert "no strategy" in client.refused("revertSnapshot", id=snapshot["id"])


def test_one_snapshot_at_a_time_a_vm(cloudstack: CloudStack) -> None:
    """SnapshotManagerImpl.supportedByHypervisor in allocSnapshot: at once, 431"""
    client = Client(cloudstack)
    vm, data = client.stopped(), client.volume()
    client.ok("attachVolume", id=data, virtualmachineid=vm)
    client.call("createSnapshot", volumeid=client.root(vm))
    reply = client.call("createSnapshot", volumeid=data)
    assert reply.status == 431 and "other active snapshot tasks" in reply.text
    cloudstack.jobs.finish()
    client.ok("createSnapshot", volumeid=data)


def test_what_goes_wrong_in_a_snapshot_is_masked(cloudstack: CloudStack) -> None:
    """CreateSnapshotCmd.execute: 530 and one text for every reason; the record stays, in Error"""
    client = Client(cloudstack)
    vm = client.stopped()
    cloudstack.jobs.fail_next("createSnapshot", 534, "secondary storage is full")
    answer = client.job("createSnapshot", volumeid=client.root(vm))["jobresult"]
    assert answer["errorcode"] == 530 and "internal error creating snapshot" in answer["errortext"]
    assert [row["state"] for row in client.list("listSnapshots")] == ["Error"]


def test_a_running_vm_needs_the_setting(cloudstack: CloudStack) -> None:
    """kvm.snapshot.enabled"""
    client = Client(cloudstack)
    vm = client.deploy()
    cloudstack.cloud.configuration["kvm.snapshot.enabled"] = "false"
    (row,) = client.list("listConfigurations", name="kvm.snapshot.enabled")
    assert row["value"] == "false"
    assert "kvm.snapshot.enabled" in client.refused("createSnapshot", volumeid=client.root(vm))
    client.ok("stopVirtualMachine", id=vm)
    client.ok("createSnapshot", volumeid=client.root(vm))


def test_an_allocated_volume_has_nothing_to_snapshot(cloudstack: CloudStack) -> None:
    """VolumeApiServiceImpl.allocSnapshot: Ready"""
    client = Client(cloudstack)
    assert "not in Ready state" in client.refused("createSnapshot", volumeid=client.volume())


def test_a_revert_needs_stopped_and_no_vm_snapshot(cloudstack: CloudStack) -> None:
    """SnapshotManagerImpl.revertSnapshot"""
    client = Client(cloudstack)
    vm, snapshot = _with_snapshot(client)
    client.ok("startVirtualMachine", id=vm)
    assert "not in the shutdown state" in client.refused("revertSnapshot", id=snapshot)
    client.ok("stopVirtualMachine", id=vm)
    add_vm_snapshot(cloudstack.cloud, vm)
    assert "VM snapshots" in client.refused("revertSnapshot", id=snapshot)
    assert cloudstack.content(client.root(vm)) == b"after!"
