"""VMs: sizes, details, firmware, names, NICs and addresses."""

from typing import Any

import pytest

from tests.cloudstack.client import Client
from tests.cloudstack.server import CloudStack
from tests.cloudstack.snapshots import add_vm_snapshot

SIZE = {"details[0].cpuNumber": 2, "details[0].memory": 2048, "details[0].cpuSpeed": 1500}


def test_states_of_a_vm(cloudstack: CloudStack) -> None:
    """VirtualMachine.State: Starting and Stopping are seen on the way; both are idempotent"""
    client = Client(cloudstack)
    vm = client.deploy()
    seen = []
    for command in ("stopVirtualMachine", "startVirtualMachine"):
        client.call(command, id=vm)
        seen.append(client.list("listVirtualMachines", id=vm)[0]["state"])
        cloudstack.jobs.finish()
        client.ok(command, id=vm)
        seen.append(client.list("listVirtualMachines", id=vm)[0]["state"])
    assert seen == ["Stopping", "Stopped", "Starting", "Running"]


def test_a_custom_offering_needs_its_details(cloudstack: CloudStack) -> None:
    """UserVmManagerImpl.validateCustomParameters: 431"""
    client = Client(cloudstack)
    vm, custom = client.stopped(), cloudstack.estate.custom.id
    reply = client.call("changeServiceForVirtualMachine", id=vm, serviceofferingid=custom)
    assert reply.status == 431
    changed = client.call("changeServiceForVirtualMachine", id=vm, serviceofferingid=custom, extra=SIZE)
    answer = changed.inner["virtualmachine"]
    assert (answer["cpunumber"], answer["memory"], answer["cpuspeed"]) == (2, 2048, 1500)
    assert answer["details"] == {"cpuNumber": "2", "memory": "2048", "cpuSpeed": "1500"}


def test_the_same_fixed_offering_is_refused_and_a_custom_one_is_not(cloudstack: CloudStack) -> None:
    """VirtualMachineManagerImpl.checkIfCanUpgrade"""
    client = Client(cloudstack)
    vm, estate = client.stopped(), cloudstack.estate
    same = {"id": vm, "serviceofferingid": estate.small.id}
    assert client.refused("changeServiceForVirtualMachine", **same).startswith("Not upgrading vm")
    for _ in range(2):
        custom = {"id": vm, "serviceofferingid": estate.custom.id, "extra": SIZE}
        assert client.call("changeServiceForVirtualMachine", **custom).status == 200


def test_a_change_of_offering_overwrites_ha_and_needs_stopped(cloudstack: CloudStack) -> None:
    """upgradeVmDb: setHaEnabled(offering.isOfferHA())"""
    client = Client(cloudstack)
    vm, estate = client.deploy(), cloudstack.estate
    order = {"id": vm, "serviceofferingid": estate.large.id}
    assert "make sure the virtual machine is stopped" in client.refused(
        "changeServiceForVirtualMachine", **order
    )
    client.ok("stopVirtualMachine", id=vm)
    assert client.call("changeServiceForVirtualMachine", **order).inner["virtualmachine"]["haenable"] is True


def test_an_offering_changed_without_a_root_is_recorded(cloudstack: CloudStack) -> None:
    """isRootVolumeOnLocalStorage: without a ROOT the scope is taken for the zone's"""
    client = Client(cloudstack)
    vm, estate = client.stopped(), cloudstack.estate
    client.ok("detachVolume", id=client.root(vm))
    client.call("changeServiceForVirtualMachine", id=vm, serviceofferingid=estate.large.id)
    assert cloudstack.cloud.faulty_scopes == [vm]


def test_an_offering_may_resize_the_root(cloudstack: CloudStack) -> None:
    """allow.diskoffering.change.during.scale.vm"""
    client = Client(cloudstack)
    vm, estate = client.stopped(), cloudstack.estate
    estate.large.root_gib = 9
    cloudstack.cloud.configuration["allow.diskoffering.change.during.scale.vm"] = "true"
    client.call("changeServiceForVirtualMachine", id=vm, serviceofferingid=estate.large.id)
    assert client.list("listVolumes", id=client.root(vm))[0]["size"] == 9 << 30


def _update(client: Client, vm: str, **details: str) -> Any:
    extra = {f"details[0].{name}": value for name, value in details.items()}
    return client.call("updateVirtualMachine", id=vm, extra=extra)


def test_details_replace_everything_and_only_the_first_map_counts(cloudstack: CloudStack) -> None:
    """UserVmManagerImpl.updateVirtualMachine; UpdateVMCmd.getDetails"""
    client = Client(cloudstack)
    vm = client.stopped()
    _update(client, vm, UEFI="LEGACY", nicAdapter="e1000")
    answer = _update(client, vm, nicAdapter="virtio").inner["virtualmachine"]
    assert (answer["details"], answer["boottype"]) == ({"nicAdapter": "virtio"}, "BIOS")
    two = {"details[0].UEFI": "SECURE", "details[1].nicAdapter": "virtio"}
    answer = client.call("updateVirtualMachine", id=vm, extra=two).inner["virtualmachine"]
    assert answer["details"] == {"UEFI": "SECURE"}
    assert (answer["boottype"], answer["bootmode"]) == ("UEFI", "SECURE")
    answer = client.call("updateVirtualMachine", id=vm, cleanupdetails="true").inner["virtualmachine"]
    assert answer["details"] == {}


def test_details_of_a_custom_offering_must_carry_its_size(cloudstack: CloudStack) -> None:
    """UserVmManagerImpl.verifyVmLimits"""
    client = Client(cloudstack)
    vm = client.stopped(serviceofferingid=cloudstack.estate.custom.id, extra=SIZE)
    assert _update(client, vm, UEFI="LEGACY").status == 431
    kept = {"cpuNumber": "2", "memory": "2048", "cpuSpeed": "1500"}
    assert _update(client, vm, UEFI="LEGACY", **kept).status == 200


def test_read_only_details_are_not_a_plain_users(cloudstack: CloudStack) -> None:
    """user.vm.readonly.details: naming one is refused, also unchanged; it survives an update without it"""
    admin, user = Client(cloudstack), Client(cloudstack, cloudstack.estate.operator)
    vm = admin.stopped()
    _update(admin, vm, rootDiskController="scsi")
    assert "read-only setting" in _update(user, vm, rootDiskController="scsi").text
    answer = _update(user, vm, UEFI="LEGACY").inner["virtualmachine"]
    assert answer["details"] == {"UEFI": "LEGACY", "rootDiskController": "scsi"}


def test_a_start_leaves_ratios_among_the_details(cloudstack: CloudStack) -> None:
    """VirtualMachineManagerImpl.orchestrateStart; user.vm.denied.details: hidden from a plain user, kept
    for him"""
    admin, user = Client(cloudstack), Client(cloudstack, cloudstack.estate.operator)
    cloudstack.cloud.overcommit = 2.0
    vm = admin.stopped()
    assert "cpuOvercommitRatio" in admin.list("listVirtualMachines", id=vm)[0]["details"]
    assert user.list("listVirtualMachines", id=vm, listall="true")[0]["details"] == {}
    assert "restricted setting" in _update(user, vm, cpuOvercommitRatio="2.0").text
    _update(user, vm, UEFI="LEGACY")
    assert set(cloudstack.cloud.vms[vm].details) == {"UEFI", "cpuOvercommitRatio", "memoryOvercommitRatio"}
    _update(admin, vm, UEFI="LEGACY")
    assert cloudstack.cloud.vms[vm].details == {"UEFI": "LEGACY"}


def test_ha_needs_an_offering_with_ha_and_the_details_are_saved_before(cloudstack: CloudStack) -> None:
    """UserVmManagerImpl.updateVirtualMachine: details first, then the refusal"""
    client = Client(cloudstack)
    vm = client.stopped()
    order = {"haenable": "true", "extra": {"details[0].UEFI": "LEGACY"}}
    assert "HA disabled" in client.refused("updateVirtualMachine", id=vm, **order)
    assert cloudstack.cloud.vms[vm].details == {"UEFI": "LEGACY"}


def test_uefi_needs_a_host_that_has_it(cloudstack: CloudStack) -> None:
    """DeploymentPlanningManagerImpl; 533"""
    client = Client(cloudstack)
    vm = client.stopped()
    for host in cloudstack.cloud.hosts.values():
        host.uefi = False
    assert [host["ueficapability"] for host in client.list("listHosts")] == [False, False]
    _update(client, vm, UEFI="SECURE")
    answer = client.job("startVirtualMachine", id=vm)
    assert (answer["jobstatus"], answer["jobresult"]["errorcode"]) == (2, 533)
    client.call("updateVirtualMachine", id=vm, cleanupdetails="true")
    client.ok("startVirtualMachine", id=vm)


def test_firmware_at_deployment(cloudstack: CloudStack) -> None:
    """DeployVMCmd.getBootMode"""
    client = Client(cloudstack)
    vm = client.deploy(boottype="UEFI", bootmode="Secure")
    assert cloudstack.cloud.vms[vm].details == {"UEFI": "SECURE"}


def test_host_names_are_unique_in_a_network(cloudstack: CloudStack) -> None:
    """checkIfHostNameUniqueInNtwkDomain; NetUtils.verifyDomainNameLabel"""
    client = Client(cloudstack)
    estate = cloudstack.estate
    first, second = client.stopped("web"), client.stopped("db", networkids=estate.isolated.id)
    assert client.call("updateVirtualMachine", id=second, name="WEB").status == 200  # another network
    third = client.stopped("app")
    assert "already exists in the network domain" in client.refused(
        "updateVirtualMachine", id=third, name="web"
    )
    assert "Invalid name" in client.refused("updateVirtualMachine", id=first, name="1web")
    add = {"virtualmachineid": second, "networkid": estate.management.id}
    client.call("updateVirtualMachine", id=second, name="web")
    assert "already has an Instance with host name" in client.refused("addNicToVirtualMachine", **add)


NIC_CASES = [
    ("production", {"ipaddress": "192.0.2.10"}, "not within", "shared: outside of the range"),
    ("production", {"ipaddress": "192.0.2.50"}, "already in use", "shared: taken"),
    ("isolated", {"ipaddress": "198.51.101.5"}, "not within", "isolated: outside of the CIDR"),
    ("isolated", {"ipaddress": "198.51.100.1"}, "not within", "isolated: the gateway"),
    ("production", {"macaddress": "52:54:00:aa:bb:01"}, "MAC address exists", "allocateNic: taken"),
    ("production", {"macaddress": "01:54:00:aa:bb:01"}, "not unicast", "AddNicToVMCmd.getMacAddress"),
    ("management", {}, "A NIC already exists", "addNicToVirtualMachine: one NIC a network"),
]


@pytest.mark.parametrize(("network", "given", "text", "source"), NIC_CASES)
def test_a_nic_that_is_refused(
    cloudstack: CloudStack, network: str, given: dict[str, str], text: str, source: str
) -> None:
    client = Client(cloudstack)
    taken = {
        "iptonetworklist[0].networkid": cloudstack.estate.production.id,
        "iptonetworklist[0].ip": "192.0.2.50",
        "iptonetworklist[0].mac": "52:54:00:aa:bb:01",
    }
    client.deploy("other", networkids="", extra=taken)
    vm = client.stopped()
    order = given | {"virtualmachineid": vm, "networkid": getattr(cloudstack.estate, network).id}
    assert text in client.refused("addNicToVirtualMachine", **order), source
    assert len(cloudstack.cloud.vms[vm].nics) == 1


def test_a_default_nic_moves_before_it_goes(cloudstack: CloudStack) -> None:
    """removeNicFromVirtualMachine, updateDefaultNicForVirtualMachine: device ids are swapped"""
    client = Client(cloudstack)
    vm, estate = client.stopped(), cloudstack.estate
    new = {"networkid": estate.production.id, "ipaddress": "192.0.2.60", "macaddress": "52:54:00:AA:BB:02"}
    nics = client.ok("addNicToVirtualMachine", virtualmachineid=vm, **new)["nic"]
    assert [(nic["deviceid"], nic["isdefault"]) for nic in nics] == [("0", True), ("1", False)]
    assert (nics[1]["ipaddress"], nics[1]["macaddress"]) == ("192.0.2.60", "52:54:00:aa:bb:02")
    old = {"virtualmachineid": vm, "nicid": nics[0]["id"]}
    assert "NIC is default" in client.refused("removeNicFromVirtualMachine", **old)
    client.ok("updateDefaultNicForVirtualMachine", virtualmachineid=vm, nicid=nics[1]["id"])
    (left,) = client.ok("removeNicFromVirtualMachine", **old)["nic"]
    assert (left["id"], left["deviceid"], left["isdefault"]) == (nics[1]["id"], "0", True)
    assert client.list("listNics", virtualmachineid=vm)[0]["macaddress"] == "52:54:00:aa:bb:02"


def test_an_l2_network_ignores_an_address(cloudstack: CloudStack) -> None:
    """facts, NICs"""
    client = Client(cloudstack)
    vm = client.stopped()
    order = {"virtualmachineid": vm, "networkid": cloudstack.estate.l2.id, "ipaddress": "10.9.9.9"}
    assert "ipaddress" not in client.ok("addNicToVirtualMachine", **order)["nic"][1]


def test_vm_snapshots_block_nics(cloudstack: CloudStack) -> None:
    """UserVmManagerImpl.addNicToVirtualMachine"""
    client = Client(cloudstack)
    vm = client.stopped()
    add_vm_snapshot(cloudstack.cloud, vm)
    assert len(client.list("listVMSnapshot", virtualmachineid=vm)) == 1
    order = {"virtualmachineid": vm, "networkid": cloudstack.estate.l2.id}
    assert "VM snapshots" in client.refused("addNicToVirtualMachine", **order)


def test_limits_and_what_is_left(cloudstack: CloudStack) -> None:
    """ResourceLimitManagerImpl: 535"""
    client = Client(cloudstack)
    vm = client.stopped()
    cloudstack.cloud.limits["cpu"] = 3
    reply = client.call("changeServiceForVirtualMachine", id=vm, serviceofferingid=cloudstack.estate.large.id)
    assert reply.status == 535
    (account,) = client.list("listAccounts")
    assert (account["cpulimit"], account["cpuavailable"], account["memorylimit"]) == ("3", "2", "Unlimited")
    (limit,) = client.list("listResourceLimits", resourcetype=8)
    assert limit["max"] == 3
    (count,) = client.list("updateResourceCount", domainid=cloudstack.cloud.domain, resourcetype=8)
    assert count["resourcecount"] == 1


def test_a_registered_template_is_ready_later(cloudstack: CloudStack) -> None:
    """RegisterTemplateCmd"""
    client = Client(cloudstack)
    image = {"name": "t", "format": "QCOW2", "hypervisor": "KVM", "url": "https://images.example/t.qcow2"}
    (made,) = client.list("registerTemplate", zoneid=cloudstack.cloud.zone.id, **image)
    assert made["isready"] is False
    order = {
        "templateid": made["id"],
        "zoneid": cloudstack.cloud.zone.id,
        "serviceofferingid": cloudstack.estate.small.id,
    }
    assert client.call("deployVirtualMachine", **order).status == 431
    cloudstack.advance(60)
    assert client.list("listTemplates", templatefilter="self", id=made["id"])[0]["isready"] is True
    client.deploy("fresh", templateid=made["id"])


def test_a_console_needs_a_running_vm(cloudstack: CloudStack) -> None:
    """ConsoleAccessManagerImpl.generateConsoleEndpoint"""
    client = Client(cloudstack)
    vm = client.deploy()
    endpoint = client.call("createConsoleEndpoint", virtualmachineid=vm).inner["consoleendpoint"]
    assert endpoint["success"] is True and endpoint["url"]
    client.ok("stopVirtualMachine", id=vm)
    endpoint = client.call("createConsoleEndpoint", virtualmachineid=vm).inner["consoleendpoint"]
    assert endpoint["success"] is False
