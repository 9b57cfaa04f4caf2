"""The root swap: which detach and attach CloudStack on KVM allows, and what it does silently."""

from tests.cloudstack.client import Client
from tests.cloudstack.server import CloudStack


def test_a_swapped_root_boots_and_the_old_one_is_a_data_disk(cloudstack: CloudStack) -> None:
    """facts, Root swap; VolumeApiServiceImpl.validateRootVolumeDetachAttach, VolumeDaoImpl.detachVolume"""
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
    client.ok("startVirtualMachine", id=vm)
    assert cloudstack.disks_in_guest(vm)[0].content == b"replica's system"
