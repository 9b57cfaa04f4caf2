"""updateVirtualMachine and changeServiceForVirtualMachine: both synchronous, both refuse with an HTTP
error."""

from tests.cloudstack.answers import vm_answer
from tests.cloudstack.cloud import Cloud
from tests.cloudstack.errors import refuse
from tests.cloudstack.model import GIB, Offering, Vm
from tests.cloudstack.nics import check_host_name
from tests.cloudstack.registry import Answer, Call, command
from tests.cloudstack.vms import size_of

SIZES = ("cpuNumber", "memory", "cpuSpeed")


@command("updateVirtualMachine")
def update(call: Call) -> Answer:
    """Allowed in every state but Error and Expunging: CloudStack does not check that the VM is stopped.

    The details are saved before the rest is checked (UserVmManagerImpl.updateVirtualMachine): a call that
    is refused
    for its name has changed them all the same.
    """
    cloud, p = call.cloud, call.p
    vm = cloud.vm(p)
    os_type = cloud.find(cloud.os_types, p, "ostypeid", required=False)
    _details(call, vm)
    if vm.state in ("Error", "Expunging"):
        raise refuse(f"Vm with id {vm.id} is not in the right state")
    ha = p.flag("haenable", vm.ha)
    if ha and not vm.offering.ha:
        raise refuse(
            "Can't enable ha for the vm as it's created from the Service offering having HA disabled"
        )
    name = p.get("name")
    if name is not None and name != vm.name:
        check_host_name(cloud, name, [nic.network for nic in vm.nics], vm.id)
    vm.name = name or vm.name
    vm.display_name = p.get("displayname") or vm.display_name
    vm.os_type = os_type.id if os_type is not None else vm.os_type
    vm.ha = ha
    vm.delete_protection = p.flag("deleteprotection", vm.delete_protection)
    cloud.note("updateVirtualMachine", vm.id)
    return {"virtualmachine": vm_answer(cloud, vm, call.root_admin)}


def _details(call: Call, vm: Vm) -> None:
    """cleanupdetails empties them, else `details` replaces them all; read-only ones survive a plain user's
    call.

    Only the map's first index counts (UpdateVMCmd.getDetails): details[1].x beside details[0].y is lost.
    """
    groups = call.p.groups("details")
    read_only = call.cloud.setting_list("user.vm.readonly.details")
    denied = call.cloud.setting_list("user.vm.denied.details")
    kept = {} if call.root_admin else {k: v for k, v in vm.details.items() if k in read_only | denied}
    if call.p.flag("cleanupdetails"):
        vm.details = kept
        return
    if not groups:
        return
    new = groups[0]
    if not call.root_admin:
        for name in new:
            if name in denied:
                raise refuse(f"You're not allowed to add or edit the restricted setting: {name}")
            if name in read_only:
                raise refuse(f"You're not allowed to add or edit the read-only setting: {name}")
    if vm.offering.custom:  # verifyVmLimits: the sizes of a custom offering are details and must be there
        vm.cpus, vm.memory, vm.speed = size_of(vm.offering, new)
    vm.details = new | kept


@command("changeServiceForVirtualMachine")
def change_service(call: Call) -> Answer:
    cloud, p = call.cloud, call.p
    vm = cloud.vm(p)
    offering = cloud.need(cloud.offerings, p, "serviceofferingid")
    size = size_of(offering, p.merged("details"))
    if vm.state != "Stopped":
        raise refuse(
            f"Unable to upgrade virtual machine {vm.id} in state {vm.state}; make sure the virtual "
            "machine is "
            "stopped"
        )
    if offering is vm.offering and not offering.custom:
        raise refuse(
            f"Not upgrading vm {vm.instance_name} since it already has the requested service offering "
            f"({offering.name})"
        )
    cloud.check_limit("cpu", size[0] - vm.cpus)
    cloud.check_limit("memory", size[1] - vm.memory)
    _root_follows(cloud, vm, offering.root_gib)
    vm.details = _kept(vm) | _sizes(offering, size)
    vm.offering, (vm.cpus, vm.memory, vm.speed), vm.ha = offering, size, offering.ha
    cloud.note("changeServiceForVirtualMachine", vm.id)
    return {"virtualmachine": vm_answer(cloud, vm, call.root_admin)}


def _kept(vm: Vm) -> dict[str, str]:
    return {key: value for key, value in vm.details.items() if key not in SIZES}


def _sizes(offering: Offering, size: tuple[int, int, int]) -> dict[str, str]:
    """What of the size becomes details: of a custom offering, what it does not fix
    (saveCustomOfferingDetails)."""
    if not offering.custom:
        return {}
    chosen = dict(zip(SIZES, map(str, size), strict=True))
    if offering.speed is not None:
        del chosen["cpuSpeed"]
    return chosen


def _root_follows(cloud: Cloud, vm: Vm, gib: int) -> None:
    """allow.diskoffering.change.during.scale.vm resizes the ROOT; without one the scope defaults go wrong."""
    root = cloud.root_of(vm.id)
    if root is None:
        cloud.faulty_scopes.append(vm.id)
    elif cloud.configuration["allow.diskoffering.change.during.scale.vm"] == "true" and gib:
        root.size = gib * GIB
        cloud.note("resizeVolume", root.id)
