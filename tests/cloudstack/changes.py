"""updateVirtualMachine and changeServiceForVirtualMachine: both synchronous, both refuse with an HTTP
error."""

from tests.cloudstack.answers import vm_answer
from tests.cloudstack.cloud import READ_ONLY_DETAILS, Cloud
from tests.cloudstack.errors import refuse
from tests.cloudstack.model import GIB, Vm
from tests.cloudstack.nics import check_host_name
from tests.cloudstack.registry import Answer, Call, command
from tests.cloudstack.vms import size_of

SIZES = ("cpuNumber", "memory", "cpuSpeed")


@command("updateVirtualMachine")
def update(call: Call) -> Answer:
    """`details` replaces them all; cleanupdetails empties them; a name changes only while Stopped."""
    cloud, p = call.cloud, call.p
    vm = cloud.vm(p)
    name = p.get("name")
    if name is not None and name != vm.name:
        if vm.state != "Stopped":
            raise refuse("Unable to update the name: the instance is not in stopped state")
        check_host_name(cloud, name, [nic.network for nic in vm.nics], vm.id)
    os_type = cloud.find(cloud.os_types, p, "ostypeid", required=False)
    details = p.merged("details")
    if p.flag("cleanupdetails"):
        new: dict[str, str] | None = _kept(call, vm, {})
    else:
        new = _checked(call, vm, details) if details else None
    vm.name = name or vm.name
    vm.display_name = p.get("displayname") or vm.display_name
    vm.os_type = os_type.id if os_type is not None else vm.os_type
    vm.ha = p.flag("haenable", vm.ha)
    vm.delete_protection = p.flag("deleteprotection", vm.delete_protection)
    if new is not None:
        vm.details = new
    cloud.note("updateVirtualMachine", vm.id)
    return {"virtualmachine": vm_answer(cloud, vm, call.root_admin)}


def _checked(call: Call, vm: Vm, details: dict[str, str]) -> dict[str, str]:
    """The new details; 431 where a VM that is not Stopped, or one who is not root admin, may not change
    them."""
    if vm.state != "Stopped" and {k: v for k, v in details.items() if vm.details.get(k) != v}:
        raise refuse("Details of a VM can be changed only while it is in stopped state")
    if not call.root_admin:
        for key, value in details.items():
            if key.lower() in _read_only(call.cloud) and vm.details.get(key) != value:
                raise refuse(f"You're not allowed to add or edit the read-only setting: {key}")
    if vm.offering.custom:
        for key in SIZES:
            if key in details and key in vm.details and details[key] != vm.details[key]:
                raise refuse(f"{key} of a custom offering is changed by a change of the service offering")
    return _kept(call, vm, details)


def _kept(call: Call, vm: Vm, details: dict[str, str]) -> dict[str, str]:
    """Read-only details of a VM survive the update of one who is not root admin."""
    if call.root_admin:
        return dict(details)
    held = {key: value for key, value in vm.details.items() if key.lower() in _read_only(call.cloud)}
    return held | details


def _read_only(cloud: Cloud) -> set[str]:
    setting = cloud.configuration.get("user.vm.readonly.details")
    return READ_ONLY_DETAILS if setting is None else {part.strip().lower() for part in setting.split(",")}


@command("changeServiceForVirtualMachine")
def change_service(call: Call) -> Answer:
    cloud, p = call.cloud, call.p
    vm = cloud.vm(p)
    offering = cloud.need(cloud.offerings, p, "serviceofferingid")
    details = p.merged("details")
    size = size_of(offering, details)
    if vm.state != "Stopped":
        raise refuse(
            f"Unable to upgrade virtual machine {vm.id} in state {vm.state}; make sure the virtual "
            "machine is stopped"
        )
    if offering is vm.offering and not offering.custom:
        raise refuse(
            f"Not upgrading vm {vm.instance_name} since it already has the requested service offering "
            f"({offering.name})"
        )
    if offering.volatile != vm.offering.volatile:
        raise refuse("The service offering can't be changed between volatile and not volatile")
    cloud.check_limit("cpu", size[0] - vm.cpus)
    cloud.check_limit("memory", size[1] - vm.memory)
    _root_follows(cloud, vm, offering.root_gib)
    vm.offering, (vm.cpus, vm.memory, vm.speed), vm.ha = offering, size, offering.ha
    kept = {key: value for key, value in vm.details.items() if key not in SIZES}
    chosen = dict(zip(SIZES, map(str, size), strict=True))
    vm.details = kept | ({key: chosen[key] for key in SIZES if key in details} if offering.custom else {})
    cloud.note("changeServiceForVirtualMachine", vm.id)
    return {"virtualmachine": vm_answer(cloud, vm, call.root_admin)}


def _root_follows(cloud: Cloud, vm: Vm, gib: int) -> None:
    """allow.diskoffering.change.during.scale.vm resizes the ROOT; without a ROOT the scope defaults go
    wrong."""
    root = cloud.root_of(vm.id)
    if root is None:
        cloud.faulty_scopes.append(vm.id)
    elif cloud.configuration["allow.diskoffering.change.during.scale.vm"] == "true" and gib:
        root.size = gib * GIB
        cloud.note("resizeVolume", root.id)
