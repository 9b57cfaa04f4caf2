"""How the API shows each entity: the fields of its response class that a client may rely on."""

from typing import Any

from tests.cloudstack.cloud import Cloud
from tests.cloudstack.model import DiskOffering, Network, Nic, Offering, Snapshot, Template, Vm, Volume


def vm_answer(cloud: Cloud, vm: Vm, root_admin: bool = True) -> dict[str, Any]:
    hidden = set() if root_admin else cloud.setting_list("user.vm.denied.details")
    answer: dict[str, Any] = {
        "id": vm.id,
        "name": vm.name,
        "displayname": vm.display_name,
        "account": vm.owner,
        "state": vm.state,
        "haenable": vm.ha,
        "zoneid": cloud.zone.id,
        "zonename": cloud.zone.name,
        "templateid": vm.template.id,
        "templatename": vm.template.name,
        "serviceofferingid": vm.offering.id,
        "serviceofferingname": vm.offering.name,
        "cpunumber": vm.cpus,
        "cpuspeed": vm.speed,
        "memory": vm.memory,
        "hypervisor": "KVM",
        "guestosid": vm.os_type,
        "ostypeid": vm.os_type,
        "osdisplayname": cloud.os_types[vm.os_type].name,
        "nic": [nic_answer(nic) for nic in sorted(vm.nics, key=lambda nic: nic.device)],
        "details": {k: v for k, v in vm.details.items() if k not in hidden},
        "tags": cloud.tags_of(vm.id),
        "deleteprotection": vm.delete_protection,
        "isdynamicallyscalable": False,
        "passwordenabled": False,
    }
    return answer | _vm_extras(cloud, vm, root_admin)


def _vm_extras(cloud: Cloud, vm: Vm, root_admin: bool) -> dict[str, Any]:
    """What is there only sometimes: the root, firmware, key pair, and for a root admin the host."""
    answer: dict[str, Any] = {}
    if cloud.root_of(vm.id) is not None:
        answer |= {"rootdeviceid": 0, "rootdevicetype": "ROOT"}
    if vm.key_pair:
        answer["keypair"] = vm.key_pair
    if vm.details.get("UEFI"):
        answer |= {"boottype": "UEFI", "bootmode": vm.details["UEFI"]}
    else:
        answer |= {"boottype": "BIOS", "bootmode": "LEGACY"}
    if root_admin:
        answer["instancename"] = vm.instance_name
        if vm.host is not None and vm.state == "Running":
            answer |= {"hostid": vm.host.id, "hostname": vm.host.name}
    return answer


def nic_answer(nic: Nic) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "id": nic.id,
        "networkid": nic.network.id,
        "networkname": nic.network.name,
        "macaddress": nic.mac,
        "isdefault": nic.default,
        "type": nic.network.type,
        "traffictype": "Guest",
        "deviceid": str(nic.device),
        "secondaryip": [],
    }
    if nic.ip:
        answer["ipaddress"] = nic.ip
    if nic.network.gateway and nic.network.type != "L2":
        answer["gateway"] = nic.network.gateway
    return answer


def volume_answer(cloud: Cloud, volume: Volume, root_admin: bool = True) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "id": volume.id,
        "name": volume.name,
        "type": volume.type,
        "size": volume.size,
        "state": volume.state,
        "account": volume.owner,
        "zoneid": cloud.zone.id,
        "zonename": cloud.zone.name,
        "hypervisor": "KVM",
        "storagetype": "shared",
        "quiescevm": False,
        "isextractable": True,
        "destroyed": volume.destroyed,
        "deleteprotection": volume.delete_protection,
        "tags": cloud.tags_of(volume.id),
    }
    if volume.vm is not None:
        vm = cloud.vms[volume.vm]
        answer |= {
            "virtualmachineid": vm.id,
            "vmname": vm.name,
            "vmdisplayname": vm.display_name,
            "vmstate": vm.state,
            "deviceid": volume.device,
        }
    if volume.offering_id in cloud.offerings:
        answer["serviceofferingid"] = volume.offering_id
    elif volume.offering_id is not None:
        offering = cloud.disk_offerings[volume.offering_id]
        answer |= {"diskofferingid": offering.id, "diskofferingname": offering.name}
    if volume.pool is not None and root_admin:
        answer |= {"storage": volume.pool.name, "storageid": volume.pool.id}
    return answer


def snapshot_answer(cloud: Cloud, snapshot: Snapshot) -> dict[str, Any]:
    return {
        "id": snapshot.id,
        "name": snapshot.name,
        "volumeid": snapshot.volume,
        "state": snapshot.state,
        "snapshottype": "MANUAL",
        "intervaltype": "MANUAL",
        "physicalsize": len(snapshot.content),
        "virtualsize": snapshot.size,
        "revertable": snapshot.revertable,
        "zoneid": cloud.zone.id,
        "account": "admin",
        "created": "2026-01-01T00:00:00+0000",
        "tags": cloud.tags_of(snapshot.id),
    }


def offering_answer(offering: Offering) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "id": offering.id,
        "name": offering.name,
        "iscustomized": offering.custom,
        "isvolatile": offering.volatile,
        "offerha": offering.ha,
        "storagetype": "shared",
        "state": "Active",
    }
    if not offering.custom:
        answer |= {"cpunumber": offering.cpus, "memory": offering.memory}
    if offering.speed is not None:
        answer["cpuspeed"] = offering.speed
    if offering.root_gib:
        answer["rootdisksize"] = offering.root_gib
    details: dict[str, str] = {}
    if offering.cpu_range:
        details |= {"mincpunumber": str(offering.cpu_range[0]), "maxcpunumber": str(offering.cpu_range[1])}
    if offering.memory_range:
        details |= {"minmemory": str(offering.memory_range[0]), "maxmemory": str(offering.memory_range[1])}
    if details:
        answer["serviceofferingdetails"] = details
    if offering.tag:
        answer["storagetags"] = offering.tag
    return answer


def disk_offering_answer(offering: DiskOffering) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "id": offering.id,
        "name": offering.name,
        "disksize": offering.gib,
        "iscustomized": offering.gib == 0,
        "storagetype": "shared",
        "provisioningtype": "thin",
        "state": "Active",
    }
    if offering.tag:
        answer["tags"] = offering.tag
    return answer


def network_answer(cloud: Cloud, network: Network) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "id": network.id,
        "name": network.name,
        "type": network.type,
        "state": "Implemented",
        "traffictype": "Guest",
        "zoneid": cloud.zone.id,
        "zonename": cloud.zone.name,
        "canusefordeploy": True,
        "acltype": "Domain" if network.type == "Shared" else "Account",
    }
    if network.cidr and network.type != "L2":
        answer |= {"cidr": network.cidr, "gateway": network.gateway}
    return answer


def template_answer(cloud: Cloud, template: Template) -> dict[str, Any]:
    template.ready = template.ready or 0 < template.available <= cloud.clock.now
    return {
        "id": template.id,
        "name": template.name,
        "displaytext": template.name,
        "isready": template.ready,
        "size": template.gib << 30,
        "ostypeid": template.os_type,
        "hypervisor": "KVM",
        "format": "QCOW2",
        "zoneid": cloud.zone.id,
        "status": "Download Complete" if template.ready else "Not Downloaded",
        "details": dict(template.details),
        "passwordenabled": False,
    }
