"""Volumes: which attach, detach, resize and delete CloudStack on KVM allows, and what it does silently."""

from collections.abc import Callable

import pytest

from tests.cloudstack.client import Client
from tests.cloudstack.server import CloudStack
from tests.cloudstack.snapshots import add_vm_snapshot


def test_a_swapped_root_boots_and_the_old_one_is_a_data_disk(cloudstack: CloudStack) -> None:
    """facts, Root swap; VolumeDaoImpl.detachVolume, VolumeApiServiceImpl.checkDeviceId"""
    client = Client(cloudstack)
    vm, replica = client.stopped(), client.volume()
    client.ok("attachVolume", id=replica, virtualmachineid=vm)
    cloudstack.write(replica, b"replica's system")
    own = client.root(vm)
    client.ok("detachVolume", id=replica)
    client.ok("detachVolume", id=own)
    assert client.list("listVolumes", id=own)[0]["type"] == "DATADISK"
    client.ok("attachVolume", id=replica, virtualmachineid=vm, deviceid=0)
    assert client.list("listVolumes", id=replica)[0]["type"] == "ROOT"
    client.ok("attachVolume", id=own, virtualmachineid=vm, deviceid=5)
    client.ok("startVirtualMachine", id=vm)
    disks = cloudstack.disks_in_guest(vm)
    assert disks[0].content == b"replica's system"
    assert [disk.device for disk in disks] == [0, 5]
    assert disks[0].serial == replica.replace("-", "")[:20]


def test_without_device_0_a_vm_does_not_start(cloudstack: CloudStack) -> None:
    """#6492, #8634"""
    client = Client(cloudstack)
    vm = client.stopped()
    root = client.root(vm)
    client.ok("detachVolume", id=root)
    client.ok("attachVolume", id=root, virtualmachineid=vm)
    assert client.list("listVolumes", id=root)[0]["deviceid"] == 1
    assert "ROOT volume is missing" in client.refused("startVirtualMachine", id=vm)
    assert cloudstack.cloud.vms[vm].state == "Stopped"


def _running(client: Client) -> dict[str, object]:
    return {"command": "detachVolume", "id": client.root(client.deploy())}


def _managed(client: Client) -> dict[str, object]:
    vm = client.stopped()
    root = client.root(vm)
    client.server.cloud.volumes[root].pool = client.server.estate.managed
    return {"command": "detachVolume", "id": root}


def _second_root(client: Client) -> dict[str, object]:
    return {
        "command": "attachVolume",
        "id": client.volume(),
        "virtualmachineid": client.stopped(),
        "deviceid": 0,
    }


def _cd_rom(client: Client) -> dict[str, object]:
    return {
        "command": "attachVolume",
        "id": client.volume(),
        "virtualmachineid": client.stopped(),
        "deviceid": 3,
    }


def _taken(client: Client) -> dict[str, object]:
    vm = client.stopped()
    client.ok("attachVolume", id=client.volume(), virtualmachineid=vm, deviceid=1)
    return {"command": "attachVolume", "id": client.volume(), "virtualmachineid": vm, "deviceid": 1}


def _attached(client: Client) -> dict[str, object]:
    vm, volume = client.stopped(), client.volume()
    client.ok("attachVolume", id=volume, virtualmachineid=vm)
    return {"command": "attachVolume", "id": volume, "virtualmachineid": vm}


def _vm_snapshot_attach(client: Client) -> dict[str, object]:
    vm = client.stopped()
    add_vm_snapshot(client.server.cloud, vm)
    return {"command": "attachVolume", "id": client.volume(), "virtualmachineid": vm}


def _vm_snapshot_detach(client: Client) -> dict[str, object]:
    vm = client.stopped()
    add_vm_snapshot(client.server.cloud, vm)
    return {"command": "detachVolume", "id": client.root(vm)}


def _detached(client: Client) -> dict[str, object]:
    return {"command": "detachVolume", "id": client.volume()}


def _delete_attached(client: Client) -> dict[str, object]:
    return {"command": "deleteVolume", "id": client.root(client.stopped())}


def _delete_protected(client: Client) -> dict[str, object]:
    volume = client.volume()
    client.ok("updateVolume", id=volume, deleteprotection="true")
    return {"command": "deleteVolume", "id": volume}


def _shrink(client: Client) -> dict[str, object]:
    vm, volume = client.stopped(), client.volume(gib=2)
    client.ok("attachVolume", id=volume, virtualmachineid=vm)
    return {"command": "resizeVolume", "id": volume, "size": 1, "shrinkok": "true"}


def _fixed_size(client: Client) -> dict[str, object]:
    where = {"zoneid": client.server.cloud.zone.id, "diskofferingid": client.server.estate.disk_fixed.id}
    return {"command": "createVolume", "name": "x", "size": 3} | where


def _limit(client: Client) -> dict[str, object]:
    client.server.cloud.limits["volume"] = 0
    where = {"zoneid": client.server.cloud.zone.id, "diskofferingid": client.server.estate.disk.id}
    return {"command": "createVolume", "name": "x", "size": 3} | where


@pytest.mark.parametrize(
    ("case", "text", "source"),
    [
        (_running, "only when vm is in states: Stopped", "validateRootVolumeDetachAttach"),
        (_managed, "not supported for Managed DataStores", "validateRootVolumeDetachAttach"),
        (_second_root, "already has root volume", "checkDeviceId"),
        (_cd_rom, "deviceId should be 1,2,4-64", "VolumeApiServiceImpl.getDeviceId"),
        (_taken, "is used by vm", "VolumeApiServiceImpl.getDeviceId"),
        (_attached, "not attached to any VM", "getAndCheckVolumeInfo"),
        (_vm_snapshot_attach, "does not have VM snapshots", "checkForDevicesInCopies"),
        (_vm_snapshot_detach, "does not have VM snapshots", "detachVolumeFromVM"),
        (_detached, "not attached to a VM", "detachVolumeFromVM"),
        (_delete_attached, "not attached to any VM", "VolumeApiServiceImpl.destroyVolume"),
        (_delete_protected, "delete protection", "VolumeApiServiceImpl.destroyVolume, 4.20"),
        (_shrink, "Unable to shrink volumes of type QCOW2", "validateVolumeResizeWithSize"),
        (_fixed_size, "does not allow custom size", "VolumeApiServiceImpl.allocVolume"),
        (_limit, "Maximum amount of resources", "ResourceLimitManagerImpl.checkResourceLimit"),
    ],
)
def test_what_is_refused(
    cloudstack: CloudStack, case: Callable[[Client], dict[str, object]], text: str, source: str
) -> None:
    client = Client(cloudstack)
    order = case(client)
    before = {name: vars(volume).copy() for name, volume in cloudstack.cloud.volumes.items()}
    assert text in client.refused(str(order.pop("command")), **order), source
    assert {name: vars(volume) for name, volume in cloudstack.cloud.volumes.items()} == before


def test_differing_scopes_move_the_data_silently(cloudstack: CloudStack) -> None:
    """VolumeApiServiceImpl.needMoveVolume: not where the VM runs in the pool's cluster, not to a pool of
    the zone"""
    client = Client(cloudstack)
    stopped, running = client.stopped("vm1"), client.deploy("vm2")
    place = cloudstack.estate.disk_cluster.id
    first, second, other = client.volume(offering=place), client.volume(offering=place), client.volume()
    client.ok("attachVolume", id=second, virtualmachineid=running)
    assert cloudstack.cloud.moves == []
    client.ok("attachVolume", id=first, virtualmachineid=stopped)
    assert cloudstack.cloud.moves == [(first, "cluster", "nfs")]
    client.ok("attachVolume", id=other, virtualmachineid=stopped)
    cloudstack.cloud.volumes[client.root(stopped)].pool = cloudstack.estate.cluster
    client.ok("detachVolume", id=other)
    client.ok("attachVolume", id=other, virtualmachineid=stopped)
    assert len(cloudstack.cloud.moves) == 1  # from the zone's pool to a VM on a cluster's: stays


def test_a_volume_of_a_host_is_not_moved_but_refused(cloudstack: CloudStack) -> None:
    """VolumeApiServiceImpl.needMoveVolume"""
    client = Client(cloudstack)
    vm, volume = client.stopped(), client.volume()
    cloudstack.estate.frozen.scope, cloudstack.estate.frozen.where = "HOST", "kvm-2"
    cloudstack.cloud.volumes[volume].pool = cloudstack.estate.frozen
    cloudstack.cloud.volumes[volume].state = "Ready"
    text = client.refused("attachVolume", id=volume, virtualmachineid=vm)
    assert text == "Can't move volume between scope: HOST and ZONE"
    assert client.list("listVolumes", id=volume)[0]["state"] == "Ready"


def test_a_straggling_detach_takes_away_a_newer_attachment(cloudstack: CloudStack) -> None:
    """#14214: jobs are serialised per VM, not per volume, and detach looks only when it is taken"""
    client = Client(cloudstack)
    first, second, volume = client.stopped("vm1"), client.stopped("vm2"), client.volume()
    client.ok("attachVolume", id=volume, virtualmachineid=first)
    one = client.call("detachVolume", id=volume).inner["jobid"]
    cloudstack.jobs.hold("detachVolume")
    client.call("detachVolume", id=volume)
    while client.call("queryAsyncJobResult", jobid=one).inner["jobstatus"] == 0:
        pass
    client.ok("attachVolume", id=volume, virtualmachineid=second)
    cloudstack.jobs.release("detachVolume")
    cloudstack.jobs.finish()
    assert "virtualmachineid" not in client.list("listVolumes", id=volume)[0]
    assert cloudstack.cloud.orphans == [(volume, second)]


def test_a_deleted_volume_is_gone_with_its_content(cloudstack: CloudStack) -> None:
    client = Client(cloudstack)
    volume = client.volume()
    assert client.call("deleteVolume", id=volume).inner == {"success": True}
    assert client.list("listVolumes", id=volume) == []
    assert not cloudstack.cloud.content(volume).exists()


def test_an_expunged_vm_takes_its_root_and_leaves_data_disks(cloudstack: CloudStack) -> None:
    """UserVmManagerImpl.expunge: whatever is its ROOT by then, a replica too"""
    client = Client(cloudstack)
    vm, data = client.deploy(), client.volume()
    client.ok("attachVolume", id=data, virtualmachineid=vm)
    client.ok("destroyVirtualMachine", id=vm, expunge="true")
    assert [volume["id"] for volume in client.list("listVolumes")] == [data]


def test_a_volatile_offering_loses_its_root_at_a_reboot(cloudstack: CloudStack) -> None:
    """facts, Root swap: isvolatile"""
    client = Client(cloudstack)
    vm = client.deploy(serviceofferingid=cloudstack.estate.volatile.id)
    root = client.root(vm)
    cloudstack.write_in_guest(vm, root.replace("-", "")[:20], b"work of a week")
    client.ok("rebootVirtualMachine", id=vm)
    assert client.root(vm) != root
    assert cloudstack.disks_in_guest(vm)[0].content == cloudstack.estate.template.content


def test_tags_mark_resources(cloudstack: CloudStack) -> None:
    """TaggedResourceManagerImpl.createTags: a key once on a resource"""
    client = Client(cloudstack)
    volume = client.volume()
    tag = {
        "resourceids": volume,
        "resourcetype": "Volume",
        "extra": {"tags[0].key": "owner", "tags[0].value": "refloat"},
    }
    client.ok("createTags", **tag)
    assert "already on" in client.refused("createTags", **tag)
    found = client.list("listVolumes", extra={"tags[0].key": "owner", "tags[0].value": "refloat"})
    assert [item["id"] for item in found] == [volume]
    assert client.list("listTags", resourceid=volume)[0]["value"] == "refloat"
    client.ok("deleteTags", **tag)
    assert client.list("listTags") == []
