"""VMs: deploy, start, stop, reboot, destroy, as UserVmManagerImpl and VirtualMachineManagerImpl do it on
KVM."""

from tests.cloudstack.answers import vm_answer
from tests.cloudstack.cloud import Cloud
from tests.cloudstack.errors import CAPACITY, ApiError, broken, refuse
from tests.cloudstack.jobs import Cancelled, Started, Work
from tests.cloudstack.model import GIB, Host, Offering, Vm, Volume, new_id
from tests.cloudstack.nics import first_nics
from tests.cloudstack.registry import Call, command
from tests.cloudstack.volumes import expunge, place

STARTS = 5.0  # virtual seconds


@command("deployVirtualMachine")
def deploy(call: Call) -> Started:
    """create() is synchronous and may refuse at once; the start is the job. The VM's id comes with the job
    id."""
    cloud, p = call.cloud, call.p
    offering = cloud.need(cloud.offerings, p, "serviceofferingid")
    template = cloud.need(cloud.templates, p, "templateid")
    cloud.need({cloud.zone.id: cloud.zone}, p, "zoneid")
    if not template.ready and not 0 < template.available <= cloud.clock.now:
        raise refuse(f"Template {template.name} is not ready")
    details = p.merged("details")
    cpus, memory, speed = size_of(offering, details)
    for resource, more in (("user_vm", 1), ("volume", 1), ("cpu", cpus), ("memory", memory)):
        cloud.check_limit(resource, more)
    name = p.get("name") or f"VM-{new_id()}"
    vm = Vm(name, p.get("displayname") or name, offering, template, template.os_type, call.key.account)
    vm.cpus, vm.memory, vm.speed, vm.ha = cpus, memory, speed, offering.ha
    vm.details = _deploy_details(call, details)
    vm.key_pair, vm.user_data = p.get("keypair"), p.get("userdata")
    vm.nics = first_nics(call, name)
    cloud.vms[vm.id] = vm
    root = _root(cloud, vm, p.whole("rootdisksize"))
    cloud.note("deployVirtualMachine", vm.id)

    def work() -> Work:
        if p.flag("startvm", True):
            yield from start_work(cloud, vm)
        else:
            yield 1.0
        place(cloud, root)
        return {"virtualmachine": vm_answer(cloud, vm, call.root_admin)}

    return Started(work(), vm.id, "VirtualMachine", vm.id, {"id": vm.id})


def _deploy_details(call: Call, details: dict[str, str]) -> dict[str, str]:
    """boottype and bootmode become the detail UEFI (DeployVMCmd.getDetails); the sizes of a custom offering
    stay."""
    kept = dict(details)
    boot, mode = call.p.get("boottype"), call.p.get("bootmode")
    if boot is not None and boot.upper() == "UEFI":
        if mode is None or mode.upper() not in ("LEGACY", "SECURE"):
            raise refuse(f"Invalid or missing bootmode {mode} for boottype UEFI")
        kept["UEFI"] = mode.upper()
    elif boot is not None and mode is not None and mode.upper() != "LEGACY":
        raise refuse("Invalid bootmode: only LEGACY with boottype BIOS")
    return kept


def _root(cloud: Cloud, vm: Vm, gib: int | None) -> Volume:
    size = max(gib or vm.offering.root_gib or vm.template.gib, vm.template.gib)
    root = Volume(
        f"ROOT-{len(cloud.vms)}", "ROOT", size * GIB, None, vm.offering.id, vm.id, 0, owner=vm.owner
    )
    root.template = vm.template.id
    cloud.volumes[root.id] = root
    cloud.content(root.id).write_bytes(vm.template.content)
    return root


def size_of(offering: Offering, details: dict[str, str]) -> tuple[int, int, int]:
    """CPUs, MiB and MHz; 431 for a custom offering without its details (validateCustomParameters)."""
    given = {key.lower(): value for key, value in details.items()}
    if not offering.custom:
        assert offering.cpus is not None and offering.memory is not None
        if any(name in given for name in ("cpunumber", "memory", "cpuspeed")):
            raise refuse("cpuNumber, cpuSpeed and memory must not be given for a static service offering")
        return offering.cpus, offering.memory, offering.speed or 0
    cpus = _bounded(given, "cpunumber", "CPU cores", offering.cpu_range)
    memory = _bounded(given, "memory", "memory", offering.memory_range)
    if offering.speed is not None:
        return cpus, memory, offering.speed
    return cpus, memory, _bounded(given, "cpuspeed", "CPU speed", None)


def _bounded(given: dict[str, str], name: str, words: str, limits: tuple[int, int] | None) -> int:
    text = given.get(name, "")
    low, high = limits or (1, 1 << 30)
    if not text.isdigit() or not low <= int(text) <= high:
        raise refuse(f"Invalid {words} value, specify a value between {low} and {high} in details ({name})")
    return int(text)


def host_for(cloud: Cloud, vm: Vm) -> Host:
    """The first host with room; a UEFI VM needs one with UEFI (DeploymentPlanningManagerImpl)."""
    running = [other for other in cloud.vms.values() if other.state == "Running" and not other.removed]
    for host in cloud.hosts.values():
        here = [other for other in running if other.host is host]
        room = sum(other.memory for other in here) + vm.memory <= host.memory and vm.cpus <= host.cpus
        if room and (host.uefi or not vm.details.get("UEFI")):
            return host
    raise ApiError(CAPACITY, f"Unable to start a VM [{vm.id}] due to insufficient capacity: no suitable host")


def start_work(cloud: Cloud, vm: Vm) -> Work:
    if vm.state == "Running":
        yield 0.5
        return {}
    if vm.state != "Stopped":
        raise broken(f"Unable to start {vm.name}: it is in state {vm.state}")
    if cloud.root_of(vm.id) is None:  # 6492, 8634
        raise broken(f"ROOT volume is missing, unable to prepare volumes for the VM [{vm.instance_name}].")
    host = host_for(cloud, vm)
    vm.state = "Starting"
    try:
        yield STARTS
    except (Cancelled, ApiError):
        vm.state = "Stopped"
        raise
    for volume in cloud.volumes_of(vm.id):
        place(cloud, volume)
    vm.state, vm.host, vm.starts = "Running", host, vm.starts + 1
    if cloud.overcommit > 1:
        ratio = str(cloud.overcommit)
        vm.details |= {"cpuOvercommitRatio": ratio, "memoryOvercommitRatio": ratio}
    cloud.note("startVirtualMachine", vm.id)
    return {}


@command("startVirtualMachine")
def start(call: Call) -> Started:
    cloud, vm = call.cloud, call.cloud.vm(call.p)

    def work() -> Work:
        yield from start_work(cloud, vm)
        return {"virtualmachine": vm_answer(cloud, vm, call.root_admin)}

    return Started(work(), vm.id, "VirtualMachine", vm.id)


@command("stopVirtualMachine")
def stop(call: Call) -> Started:
    cloud, vm = call.cloud, call.cloud.vm(call.p)
    forced = call.p.flag("forced")

    def work() -> Work:
        yield from stop_work(cloud, vm, forced)
        return {"virtualmachine": vm_answer(cloud, vm, call.root_admin)}

    return Started(work(), vm.id, "VirtualMachine", vm.id)


def stop_work(cloud: Cloud, vm: Vm, forced: bool) -> Work:
    if vm.state == "Stopped":
        yield 0.5
        return {}
    if vm.state not in ("Running", "Stopping"):
        raise broken(f"Unable to stop {vm.name}: it is in state {vm.state}")
    vm.state = "Stopping"
    try:
        yield 1.0 if forced else STARTS
    except (Cancelled, ApiError):
        vm.state = "Running"
        raise
    vm.state, vm.host = "Stopped", None
    cloud.note("stopVirtualMachine", vm.id)
    return {}


@command("rebootVirtualMachine")
def reboot(call: Call) -> Started:
    """A volatile offering: the ROOT is destroyed and made anew from the template
    (UserVmManagerImpl.restoreVM)."""
    cloud, vm = call.cloud, call.cloud.vm(call.p)

    def work() -> Work:
        if vm.state != "Running":
            raise broken(f"Unable to reboot {vm.name}: it is in state {vm.state}")
        root = cloud.root_of(vm.id)
        yield STARTS
        if vm.offering.volatile and root is not None:
            expunge(cloud, root)
            place(cloud, _root(cloud, vm, None))
        vm.starts += 1
        return {"virtualmachine": vm_answer(cloud, vm, call.root_admin)}

    return Started(work(), vm.id, "VirtualMachine", vm.id)


@command("destroyVirtualMachine")
def destroy(call: Call) -> Started:
    cloud, vm = call.cloud, call.cloud.vm(call.p)
    for_good = call.p.flag("expunge")
    with_volumes = call.p.words("volumeids")

    def work() -> Work:
        if vm.delete_protection:
            raise refuse(f"Instance [id = {vm.id}, name = {vm.name}] has delete protection enabled")
        if vm.state == "Running":
            yield from stop_work(cloud, vm, True)
        else:
            yield 1.0
        vm.state = "Destroyed"
        for volume in cloud.volumes_of(vm.id):
            if volume.id in with_volumes:
                expunge(cloud, volume)
        if for_good:
            expunge_vm(cloud, vm)
        return {"virtualmachine": vm_answer(cloud, vm, call.root_admin)}

    return Started(work(), vm.id, "VirtualMachine", vm.id)


@command("expungeVirtualMachine")
def expunge_command(call: Call) -> Started:
    cloud, vm = call.cloud, call.cloud.vm(call.p)

    def work() -> Work:
        if vm.state not in ("Destroyed", "Expunging", "Error"):
            raise refuse("Please destroy vm with specified id before expunge")
        yield 1.0
        expunge_vm(cloud, vm)
        return {"success": True}

    return Started(work(), vm.id, "VirtualMachine", vm.id)


def expunge_vm(cloud: Cloud, vm: Vm) -> None:
    """The ROOT goes with its VM, whatever it is; data disks are only detached."""
    for volume in cloud.volumes_of(vm.id):
        if volume.type == "ROOT":
            expunge(cloud, volume)
        else:
            volume.vm, volume.device = None, None
    vm.state, vm.removed, vm.nics = "Expunging", True, []
    cloud.tags = [tag for tag in cloud.tags if tag.resource_id != vm.id]
    cloud.note("expungeVirtualMachine", vm.id)
