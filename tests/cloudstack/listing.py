"""The list commands: what is shown to whom, filtered as asked."""

from collections.abc import Callable
from typing import Any

from tests.cloudstack.answers import (
    disk_offering_answer,
    network_answer,
    nic_answer,
    offering_answer,
    snapshot_answer,
    template_answer,
    vm_answer,
    volume_answer,
)
from tests.cloudstack.errors import refuse
from tests.cloudstack.model import Vm, Volume
from tests.cloudstack.registry import Answer, Call, command, listing


def _known(call: Call, kinds: dict[str, Any], *names: str) -> None:
    """A uuid that never was is refused, 431, also by a list command (ParamProcessWorker)."""
    for name in names:
        value = call.p.get(name)
        if value and value not in kinds:
            raise call.p.invalid(name, value)


def _same(call: Call, **fields: Any) -> bool:
    """Whether every given parameter of these names equals the entity's field; an absent one filters
    nothing."""
    for name, value in fields.items():
        wanted = call.p.get(name)
        if wanted is not None and wanted != str(value):
            return False
    return True


def _tagged(call: Call, resource: str) -> bool:
    held = {(tag["key"], tag["value"]) for tag in call.cloud.tags_of(resource)}
    return all((group.get("key"), group.get("value")) in held for group in call.p.groups("tags"))


def _wanted(call: Call, identity: str) -> bool:
    ids = call.p.words("ids")
    if ids and call.p.get("id"):
        raise call.p.invalid("ids", ",".join(ids))
    return not ids or identity in ids


@command("listVirtualMachines")
def list_vms(call: Call) -> Answer:
    _known(call, call.cloud.vms, "id")
    vms = [vm for vm in call.cloud.vms.values() if not vm.removed and _shown(call, vm)]
    rows = [vm_answer(call.cloud, vm, call.root_admin) for vm in vms]
    asked = call.p.words("details")
    if asked and not {"all", "nics"} & set(asked):
        rows = [{key: value for key, value in row.items() if key != "nic"} for row in rows]
    return listing("virtualmachine", rows, call)


def _shown(call: Call, vm: Vm) -> bool:
    keyword = (call.p.get("keyword") or "").lower()
    networks = {nic.network.id for nic in vm.nics}
    wanted = call.p.get("networkid")
    return (
        _same(call, id=vm.id, state=vm.state, serviceofferingid=vm.offering.id)
        and (call.p.get("name") or "").lower() in vm.name.lower()  # a part is enough (ListVMsCmd)
        and _wanted(call, vm.id)
        and _tagged(call, vm.id)
        and (keyword in vm.name.lower() or keyword in vm.display_name.lower())
        and (wanted is None or wanted in networks)
        and (call.p.flag("listall") or call.root_admin or vm.owner == call.key.account)
    )


@command("listVolumes")
def list_volumes(call: Call) -> Answer:
    cloud = call.cloud
    _known(call, cloud.volumes, "id")
    _known(call, cloud.vms, "virtualmachineid")
    volumes = [
        volume for volume in cloud.volumes.values() if not volume.destroyed and _volume_shown(call, volume)
    ]
    return listing("volume", [volume_answer(cloud, volume, call.root_admin) for volume in volumes], call)


def _volume_shown(call: Call, volume: Volume) -> bool:
    keyword = (call.p.get("keyword") or "").lower()
    return (
        _same(
            call,
            id=volume.id,
            name=volume.name,
            type=volume.type,
            virtualmachineid=volume.vm,
            state=volume.state,
        )
        and _same(call, storageid=volume.pool.id if volume.pool else None, diskofferingid=volume.offering_id)
        and _wanted(call, volume.id)
        and _tagged(call, volume.id)
        and keyword in volume.name.lower()
    )


@command("listSnapshots")
def list_snapshots(call: Call) -> Answer:
    cloud = call.cloud
    _known(call, cloud.snapshots, "id")
    _known(call, cloud.volumes, "volumeid")
    found = [
        snapshot
        for snapshot in cloud.snapshots.values()
        if _same(call, id=snapshot.id, volumeid=snapshot.volume, name=snapshot.name)
        and _wanted(call, snapshot.id)
        and _tagged(call, snapshot.id)
        and (call.p.get("keyword") or "").lower() in snapshot.name.lower()
    ]
    return listing("snapshot", [snapshot_answer(cloud, snapshot) for snapshot in found], call)


@command("listVMSnapshot")
def list_vm_snapshots(call: Call) -> Answer:
    _known(call, call.cloud.vms, "virtualmachineid")
    found = [s for s in call.cloud.vm_snapshots.values() if _same(call, virtualmachineid=s.vm, name=s.name)]
    rows = [
        {
            "id": s.id,
            "name": s.name,
            "displayname": s.name,
            "virtualmachineid": s.vm,
            "state": s.state,
            "type": "Disk",
        }
        for s in found
    ]
    return listing("vmSnapshot", rows, call)


@command("listNics")
def list_nics(call: Call) -> Answer:
    vm = call.cloud.vm(call.p, "virtualmachineid")
    rows = [nic_answer(nic) for nic in vm.nics if _same(call, nicid=nic.id, networkid=nic.network.id)]
    return listing("nic", rows, call)


READY_ONLY = (
    "featured",
    "selfexecutable",
    "sharedexecutable",
    "community",
)  # ListTemplatesCmd.listInReadyState


def _templates(call: Call) -> dict[str, Any]:
    wanted = call.p.need("templatefilter")
    if wanted not in (*READY_ONLY, "self", "executable", "all", "system"):
        raise refuse(f"Please specify a valid template filter: {wanted}")
    if wanted == "all" and not call.root_admin:
        raise refuse(f"Filter {wanted} can be specified by admin only")
    every = call.cloud.templates
    return {
        k: v
        for k, v in every.items()
        if wanted not in READY_ONLY or template_answer(call.cloud, v)["isready"]
    }


Rows = Callable[[Call], tuple[dict[str, Any], Callable[[Any], Answer]]]


def _plain(name: str, item: str, rows: Rows) -> None:
    """A list command that filters by id, name and keyword only."""

    def handler(call: Call) -> Answer:
        entities, answer = rows(call)
        _known(call, entities, "id")
        found = [
            answer(entity)
            for entity in entities.values()
            if _same(call, id=entity.id, name=entity.name)
            and (call.p.get("keyword") or "").lower() in entity.name.lower()
        ]
        return listing(item, found, call)

    command(name)(handler)


_plain("listServiceOfferings", "serviceoffering", lambda call: (call.cloud.offerings, offering_answer))
_plain("listDiskOfferings", "diskoffering", lambda call: (call.cloud.disk_offerings, disk_offering_answer))
_plain(
    "listTemplates",
    "template",
    lambda call: (_templates(call), lambda item: template_answer(call.cloud, item)),
)
_plain(
    "listNetworks",
    "network",
    lambda call: (call.cloud.networks, lambda item: network_answer(call.cloud, item)),
)
_plain(
    "listZones",
    "zone",
    lambda call: (
        {call.cloud.zone.id: call.cloud.zone},
        lambda zone: {
            "id": zone.id,
            "name": zone.name,
            "networktype": "Advanced",
            "localstorageenabled": False,
            "allocationstate": "Enabled",
            "securitygroupsenabled": False,
        },
    ),
)
_plain(
    "listOsTypes",
    "ostype",
    lambda call: (
        call.cloud.os_types,
        lambda item: {
            "id": item.id,
            "description": item.name,
            "name": item.name,
            "oscategoryname": item.category,
        },
    ),
)
_plain(
    "listHosts",
    "host",
    lambda call: (
        call.cloud.hosts,
        lambda host: {
            "id": host.id,
            "name": host.name,
            "type": "Routing",
            "state": "Up",
            "resourcestate": "Enabled",
            "hypervisor": "KVM",
            "ueficapability": host.uefi,
            "cpunumber": host.cpus,
            "memorytotal": host.memory << 20,
            "zoneid": call.cloud.zone.id,
        },
    ),
)
_plain(
    "listStoragePools",
    "storagepool",
    lambda call: (
        call.cloud.pools,
        lambda pool: {
            "id": pool.id,
            "name": pool.name,
            "scope": pool.scope,
            "type": pool.type,
            "state": "Up",
            "managed": pool.managed,
            "tags": pool.tag or "",
            "hypervisor": "KVM",
            "zoneid": call.cloud.zone.id,
            "disksizetotal": 10 << 40,
            "disksizeused": 1 << 40,
        },
    ),
)
