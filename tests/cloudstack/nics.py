"""NICs and addresses: UserVmManagerImpl.addNicToVirtualMachine and its sisters, IpAddressManagerImpl."""

import ipaddress
import re

from tests.cloudstack.answers import vm_answer
from tests.cloudstack.cloud import Cloud
from tests.cloudstack.errors import broken, refuse
from tests.cloudstack.jobs import Started, Work
from tests.cloudstack.model import Network, Nic, Vm
from tests.cloudstack.registry import Call, command

MAC = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}")
HOST_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9-]{0,61}[a-zA-Z0-9]|[a-zA-Z]")


def check_host_name(cloud: Cloud, name: str, networks: list[Network], besides: str | None = None) -> None:
    """NetUtils.verifyDomainNameLabel, and unique among the VMs of a network
    (checkIfHostNameUniqueInNtwkDomain)."""
    if not HOST_NAME.fullmatch(name):
        raise refuse(
            "Invalid name. Vm name can contain ASCII letters 'a' through 'z', the digits '0' through "
            "'9', and the "
            "hyphen ('-'), must be between 1 and 63 characters long, and can't start or end with \"-\" "
            "and can't "
            "start with digit"
        )
    for network in networks:
        for vm, _ in cloud.nics_on(network.id):
            if vm.id != besides and vm.name.lower() == name.lower():
                raise refuse(
                    f"The vm with hostName {name} already exists in the network domain: cs1cloud.internal; "
                    f"network={network.name}"
                )


def first_nics(call: Call, host: str) -> list[Nic]:
    """NICs of a deployment: `iptonetworklist[0].networkid|ip|mac`, or networkids with ipaddress and
    macaddress."""
    cloud, p = call.cloud, call.p
    wanted: list[tuple[Network, str | None, str | None]] = []
    for group in p.groups("iptonetworklist"):
        wanted.append((_network(call, group.get("networkid", "")), group.get("ip"), group.get("mac")))
    ids = p.words("networkids")
    if wanted and ids:
        raise refuse("ipToNetworkMap can't be specified along with networkIds or ipAddress")
    for number, identity in enumerate(ids):
        first = number == 0
        wanted.append(
            (
                _network(call, identity),
                p.get("ipaddress") if first else None,
                p.get("macaddress") if first else None,
            )
        )
    if not wanted:
        isolated = [network for network in cloud.networks.values() if network.type == "Isolated"]
        wanted = [(isolated[0], None, None)]
    check_host_name(cloud, host, [network for network, _, _ in wanted])
    nics: list[Nic] = []
    for network, ip, mac in wanted:
        if any(nic.network is network for nic in nics):
            raise refuse(f"Network {network.name} is given twice")
        nics.append(make_nic(cloud, network, ip, mac, len(nics), default=not nics))
    return nics


def _network(call: Call, identity: str) -> Network:
    network = call.cloud.networks.get(identity)
    if network is None:
        raise refuse(f"Unable to find network by ID: {identity}")
    return network


def make_nic(
    cloud: Cloud, network: Network, ip: str | None, mac: str | None, device: int, default: bool
) -> Nic:
    chosen = mac.lower() if mac else cloud.fresh_mac()
    if not MAC.fullmatch(chosen) or int(chosen[1], 16) & 1:
        raise refuse(f"Mac address is not unicast or not valid: {mac}")
    if any(nic.mac == chosen for _, nic in cloud.nics_on(network.id)):
        raise broken(f"A NIC with this MAC address exists for network: {network.id}")
    return Nic(network, chosen, _address(cloud, network, ip), default, device)


def _address(cloud: Cloud, network: Network, ip: str | None) -> str | None:
    """L2 knows no addresses; Isolated takes one of its CIDR, Shared one of its range; neither twice."""
    if network.type == "L2":
        return None
    if ip is None:
        return cloud.free_address(network)
    try:
        wanted = str(ipaddress.IPv4Address(ip))
    except ValueError:
        raise refuse(f"Invalid format for IP address parameter: {ip}") from None
    if wanted not in cloud.addresses(network):
        raise broken(f"Requested IP address {ip} is not within the CIDR or range of network {network.name}")
    if any(nic.ip == wanted for _, nic in cloud.nics_on(network.id)):
        raise broken(f"IP address {ip} is already in use in network {network.name}")
    return wanted


def _no_vm_snapshots(cloud: Cloud, vm: Vm) -> None:
    if cloud.has_vm_snapshots(vm.id):
        raise refuse("NIC cannot be added, removed or changed for a VM with VM snapshots")


@command("addNicToVirtualMachine")
def add_nic(call: Call) -> Started:
    cloud, p = call.cloud, call.p
    vm, network = cloud.vm(p, "virtualmachineid"), cloud.need(cloud.networks, p, "networkid")
    ip, mac = p.get("ipaddress"), p.get("macaddress")

    def work() -> Work:
        _no_vm_snapshots(cloud, vm)
        if any(nic.network is network for nic in vm.nics):
            raise broken(f"A NIC already exists for VM:{vm.instance_name} in network: {network.id}")
        if any(other.name == vm.name for other, _ in cloud.nics_on(network.id)):
            raise broken(f"Network {network.name} already has an Instance with host name: {vm.name}")
        taken = {nic.device for nic in vm.nics}
        device = next(number for number in range(64) if number not in taken)
        nic = make_nic(cloud, network, ip, mac, device, default=not vm.nics)
        yield 2.0
        vm.nics.append(nic)
        cloud.note("addNicToVirtualMachine", vm.id)
        return {"virtualmachine": vm_answer(cloud, vm, call.root_admin)}

    return Started(work(), vm.id, "VirtualMachine", vm.id)


def _nic(call: Call, vm: Vm) -> Nic:
    identity = call.p.need("nicid")
    every = [nic for other in call.cloud.vms.values() for nic in other.nics]
    if not any(nic.id == identity for nic in every):
        raise call.p.invalid("nicid", identity)
    found = next((nic for nic in vm.nics if nic.id == identity), None)
    if found is None:
        raise refuse(f"NIC {identity} is not on VM {vm.id}")
    return found


@command("removeNicFromVirtualMachine")
def remove_nic(call: Call) -> Started:
    cloud = call.cloud
    vm = cloud.vm(call.p, "virtualmachineid")
    nic = _nic(call, vm)

    def work() -> Work:
        _no_vm_snapshots(cloud, vm)
        if nic.default:
            raise refuse(f"Unable to remove NIC from {vm.id} in network {nic.network.id}, NIC is default.")
        yield 2.0
        vm.nics.remove(nic)
        cloud.note("removeNicFromVirtualMachine", vm.id)
        return {"virtualmachine": vm_answer(cloud, vm, call.root_admin)}

    return Started(work(), vm.id, "VirtualMachine", vm.id)


@command("updateDefaultNicForVirtualMachine")
def update_default(call: Call) -> Started:
    """The two NICs swap their device ids; only Running or Stopped."""
    cloud = call.cloud
    vm = cloud.vm(call.p, "virtualmachineid")
    nic = _nic(call, vm)

    def work() -> Work:
        _no_vm_snapshots(cloud, vm)
        if vm.state not in ("Running", "Stopped"):
            raise broken(f"refusing to set default {vm.name} is not Running or Stopped")
        if nic.default:
            raise broken("refusing to set default nic because chosen nic is already the default")
        old = next(other for other in vm.nics if other.default)
        yield 1.0
        old.default, nic.default = False, True
        old.device, nic.device = nic.device, old.device
        cloud.note("updateDefaultNicForVirtualMachine", vm.id)
        return {"virtualmachine": vm_answer(cloud, vm, call.root_admin)}

    return Started(work(), vm.id, "VirtualMachine", vm.id)
