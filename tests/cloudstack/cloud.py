"""The whole state of the modelled cloud and the look-ups that its commands share."""

import ipaddress
from pathlib import Path
from typing import Any, TypeVar

from tests.cloudstack.errors import ApiError, broken, refuse
from tests.cloudstack.jobs import Clock, Jobs
from tests.cloudstack.model import (
    DiskOffering,
    Host,
    Key,
    Network,
    Nic,
    Offering,
    OsType,
    Pool,
    Snapshot,
    Tag,
    Template,
    Vm,
    VmSnapshot,
    Volume,
    Zone,
    new_id,
)
from tests.cloudstack.params import Params

Entity = TypeVar("Entity")


class Cloud:
    """`folder`: where each volume's content lies, one file a volume, named by its uuid."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = Clock()
        self.jobs = Jobs(self.clock)
        self.version = "4.20.1.0"
        self.zone = Zone("zone-1")
        self.domain = new_id()
        self.hosts: dict[str, Host] = {}
        self.pools: dict[str, Pool] = {}
        self.disk_offerings: dict[str, DiskOffering] = {}
        self.offerings: dict[str, Offering] = {}
        self.templates: dict[str, Template] = {}
        self.networks: dict[str, Network] = {}
        self.os_types: dict[str, OsType] = {}
        self.vms: dict[str, Vm] = {}
        self.volumes: dict[str, Volume] = {}
        self.snapshots: dict[str, Snapshot] = {}
        self.vm_snapshots: dict[str, VmSnapshot] = {}
        self.keys: dict[str, Key] = {}
        self.tags: list[Tag] = []
        self.configuration: dict[str, str] = {
            "kvm.snapshot.enabled": "true",
            "allow.diskoffering.change.during.scale.vm": "false",
            "user.vm.readonly.details": "dataDiskController, rootDiskController",
            "user.vm.denied.details": "rootdisksize, cpuOvercommitRatio, memoryOvercommitRatio, "
            "Message.ReservedCapacityFreed.Flag",
        }
        self.strict = False  # enforce.post.requests.and.timestamps, as far as it concerns the timestamps
        self.overcommit = 1.0  # above it, a start leaves its ratios in the VM's details
        self.limits: dict[str, int] = {}  # resource type name -> maximum, absent: unlimited
        self.moves: list[tuple[str, str, str]] = []  # volume, from pool, to pool: data moved silently
        self.orphans: list[tuple[str, str]] = []  # volume, VM: attached, and cleared by a straggling detach
        self.faulty_scopes: list[str] = []  # VMs whose offering was changed while they had no ROOT
        self.gone: set[str] = set()  # snapshots that were
        self.events: list[tuple[str, str]] = []  # what changed, in order: (verb, uuid)
        self.next_mac = 0

    def content(self, volume: str) -> Path:
        return self.folder / volume

    def setting_list(self, name: str) -> set[str]:
        return {part.strip() for part in self.configuration[name].split(",")}

    def note(self, verb: str, entity: str) -> None:
        self.events.append((verb, entity))

    def find(
        self, kind: dict[str, Entity], params: Params, name: str, required: bool = True
    ) -> Entity | None:
        """The entity that a uuid parameter names. 431 for one that never was (ParamProcessWorker)."""
        value = params.need(name) if required else params.get(name)
        if not value:
            return None
        entity = kind.get(value)
        if entity is None:
            raise params.invalid(name, value)
        return entity

    def need(self, kind: dict[str, Entity], params: Params, name: str) -> Entity:
        entity = self.find(kind, params, name)
        assert entity is not None
        return entity

    def vm(self, params: Params, name: str = "id") -> Vm:
        vm = self.need(self.vms, params, name)
        if vm.removed:
            raise refuse("Unable to find a virtual machine with specified id")
        return vm

    def volume(self, params: Params, name: str = "id") -> Volume:
        volume = self.need(self.volumes, params, name)
        if volume.destroyed:
            raise refuse("Unable to find a volume with the specified ID")
        return volume

    def volumes_of(self, vm: str) -> list[Volume]:
        found = [volume for volume in self.volumes.values() if volume.vm == vm and not volume.destroyed]
        return sorted(found, key=lambda volume: volume.device or 0)

    def root_of(self, vm: str) -> Volume | None:
        return next((volume for volume in self.volumes_of(vm) if volume.type == "ROOT"), None)

    def has_vm_snapshots(self, vm: str) -> bool:
        return any(
            snapshot.vm == vm and snapshot.state != "Expunging" for snapshot in self.vm_snapshots.values()
        )

    def pool_for(self, tag: str | None) -> Pool:
        """Where a new volume goes: the first pool that carries the offering's storage tag."""
        for pool in self.pools.values():
            if pool.tag == tag:
                return pool
        raise broken("Failed to find a suitable storage pool")

    def fresh_mac(self) -> str:
        self.next_mac += 1
        return "02:01:00:" + self.next_mac.to_bytes(3, "big").hex(":")

    def nics_on(self, network: str) -> list[tuple[Vm, Nic]]:
        live = [vm for vm in self.vms.values() if not vm.removed]
        return [(vm, nic) for vm in live for nic in vm.nics if nic.network.id == network]

    def free_address(self, network: Network) -> str:
        taken = {nic.ip for _, nic in self.nics_on(network.id)}
        for address in self.addresses(network):
            if address not in taken:
                return address
        raise ApiError(533, f"Insufficient address capacity in network {network.name}")

    def addresses(self, network: Network) -> list[str]:
        if network.range is not None:
            first, last = (int(ipaddress.ip_address(end)) for end in network.range)
            return [str(ipaddress.ip_address(number)) for number in range(first, last + 1)]
        assert network.cidr is not None
        return [
            str(host) for host in ipaddress.ip_network(network.cidr).hosts() if str(host) != network.gateway
        ]

    def tags_of(self, resource: str) -> list[dict[str, Any]]:
        return [
            {"key": tag.key, "value": tag.value, "resourcetype": tag.resource_type, "resourceid": resource}
            for tag in self.tags
            if tag.resource_id == resource
        ]

    def used(self, resource: str) -> int:
        """How much of a limited resource is in use, in the API's units (GiB for primary_storage, MiB for
        memory)."""
        vms = [vm for vm in self.vms.values() if not vm.removed]
        volumes = [volume for volume in self.volumes.values() if not volume.destroyed]
        sums = {
            "user_vm": len(vms),
            "volume": len(volumes),
            "snapshot": len(self.snapshots),
            "cpu": sum(vm.cpus for vm in vms),
            "memory": sum(vm.memory for vm in vms),
            "primary_storage": sum(volume.size for volume in volumes) >> 30,
        }
        return sums.get(resource, 0)

    def check_limit(self, resource: str, more: int) -> None:
        """ResourceAllocationException, 535, when an account's limit would be exceeded."""
        limit = self.limits.get(resource, -1)
        if limit >= 0 and self.used(resource) + more > limit:
            raise ApiError(
                535,
                f"Maximum amount of resources of Type = '{resource}' for Account Name = admin in Domain "
                "Id = 1 "
                f"has been exceeded. Account Resource Limit = {limit}, "
                f"Current Account Resource Amount = {self.used(resource)}, Requested Resource Amount = "
                f"{more}.",
            )
