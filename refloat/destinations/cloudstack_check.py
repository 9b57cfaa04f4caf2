"""Preflight on CloudStack: why a failover of this VM would fail later, in words, before anything is changed.

Some of it only an administrator's key can see (pools, hosts, settings): without that right it is a warning.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

from refloat.destinations.base import Feasible
from refloat.destinations.cloudstack_api import Item
from refloat.destinations.cloudstack_compute import wanted_compute
from refloat.destinations.cloudstack_look import Look, Vm, Volume, offering_of
from refloat.destinations.cloudstack_nics import cidr_of, network_of, wanted_nics
from refloat.destinations.cloudstack_plan import buses_of, with_buses
from refloat.destinations.cloudstack_snapshots import RATE
from refloat.errors import RefloatError, Refused, Unreachable
from refloat.model import Firmware, Hardware
from refloat.text import span

OLDEST = (4, 19)
JOBS_END = 3600.0  # seconds after which CloudStack cancels a job, a revert too
_HOST_NAME = re.compile(r"[A-Za-z](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")

# Every call that a failover, its rollback or its commit makes: the least that the hub's role must allow.
CALLS = {
    "listApis": "preflight asks what the key may do",
    "listCapabilities": "preflight asks for the version",
    "listAccounts": "preflight asks for limits",
    "listVirtualMachines": "every step",
    "listVolumes": "every step",
    "listSnapshots": "snapshot-disks and every step after it",
    "listVMSnapshot": "preflight: VM snapshots block root swap",
    "listNetworks": "preflight and apply-networks",
    "listServiceOfferings": "preflight and apply-compute",
    "listOsTypes": "apply-firmware",
    "listAsyncJobs": "after a lost answer or a killed hub",
    "queryAsyncJobResult": "every step that changes anything",
    "createTags": "reorder-disks marks our volumes",
    "updateVolume": "reorder-disks protects our volumes from deletion",
    "createSnapshot": "snapshot-disks",
    "revertSnapshot": "rollback",
    "deleteSnapshot": "rollback and commit",
    "stopVirtualMachine": "stop-controller and rollback",
    "startVirtualMachine": "start-vm and rollback",
    "changeServiceForVirtualMachine": "apply-compute",
    "detachVolume": "reorder-disks",
    "attachVolume": "reorder-disks",
    "addNicToVirtualMachine": "apply-networks",
    "updateDefaultNicForVirtualMachine": "apply-networks",
    "removeNicFromVirtualMachine": "apply-networks",
    "updateVirtualMachine": "apply-networks (host name) and apply-firmware",
    "deleteVolume": "commit",
}
# What only an administrator may ask. With it preflight sees more.
ADMIN_CALLS = {
    "listStoragePools": "managed storage and the scope of pools",
    "listHosts": "hosts that can start UEFI guests",
    "listConfigurations": "settings that block snapshots or resize a root disk",
}


@dataclass
class _Found:
    reasons: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def no(self, *texts: str) -> None:
        self.reasons.extend(text for text in texts if text)

    def warn(self, *texts: str) -> None:
        self.warnings.extend(text for text in texts if text)


@dataclass(frozen=True)
class _Case:
    vm: Vm
    volumes: list[Volume]
    wanted: Hardware
    name: str
    notes: Mapping[str, Any]
    may: frozenset[str]


class Check:
    def __init__(self, look: Look) -> None:
        self._look = look
        self._api = look.api

    def all(self, vm: Vm, wanted: Hardware, name: str, notes: Mapping[str, Any]) -> Feasible:
        """Raises Unreachable where CloudStack is silent; everything else is in the answer."""
        found = _Found()
        may = frozenset(str(item.get("name")) for item in self._api.ask("listApis").get("api") or [])
        missing = sorted(set(CALLS) - may)
        if missing:
            found.no(f"the hub's key may not call {', '.join(missing)}: allow them in its role")
            return Feasible(tuple(found.reasons))
        case = _Case(vm, self._look.volumes(vm.id), wanted, name, notes, may)
        checks: tuple[Callable[[_Case, _Found], None], ...] = (
            self._version,
            self._platform,
            self._compute,
            self._storage,
            self._snapshots,
            self._limits,
            self._networks,
            self._host_name,
            self._firmware,
            self._settings,
        )
        for check in checks:
            try:
                check(case, found)
            except Unreachable:
                raise
            except RefloatError as error:
                found.no(str(error))
        return Feasible(tuple(found.reasons), tuple(found.warnings))

    def require_swappable(self, vm: Vm) -> None:
        """Raises Refused where the controller's own disk could not leave and come back."""
        snapshots = self._api.items("listVMSnapshot", "vmSnapshot", virtualmachineid=vm.id)
        if snapshots:
            names = ", ".join(str(one.get("displayname") or one.get("name")) for one in snapshots)
            raise Refused(
                f"VM {vm.name} has VM snapshots ({names}): CloudStack refuses to swap its root disk "
                f"with them",
                code="vm_snapshots",
                hint="delete them in CloudStack; volume snapshots do no harm",
            )

    def account(self) -> Item:
        """The limits and what is left of them."""
        project = self._api.settings.project
        if project:
            found = self._api.items("listProjects", "project", id=project)
        else:
            found = self._api.items("listAccounts", "account", listall=False)
        return found[0] if found else {}

    # ------------------------------------------------------------ one concern each

    def _version(self, case: _Case, found: _Found) -> None:
        said = self._api.ask("listCapabilities").get("capability") or {}
        version = str(said.get("cloudstackversion", ""))
        numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
        if numbers < OLDEST:
            found.no(
                f"CloudStack {version or '?'} is too old: 4.19 is needed, whose jobs cannot delete a volume"
            )

    def _platform(self, case: _Case, found: _Found) -> None:
        hypervisor = str(case.vm.item.get("hypervisor", ""))
        if hypervisor.upper() != "KVM":
            found.no(f"VM {case.vm.name} runs on {hypervisor or 'an unknown hypervisor'}: Refloat needs KVM")
        if case.vm.item.get("keypair") or case.vm.item.get("keypairs") or case.vm.item.get("userdataid"):
            found.no(
                "the controller has a key pair or user data, which the recovered guest would apply to itself"
            )
        self.require_swappable(case.vm)

    def _compute(self, case: _Case, found: _Found) -> None:
        own = self._look.offering(case.vm.offering)
        if own is not None and own.volatile:
            found.no(
                f"the offering {own.name} of {case.vm.name} is volatile: a restart would destroy the replica"
            )
        named = self._api.settings.offering
        if named:
            items = self._api.items("listServiceOfferings", "serviceoffering", name=named)
            if any(one.volatile for one in map(offering_of, items) if one.name == named):
                found.no(f"the offering {named} is volatile: a restart would destroy the replica")
        cpus, memory = case.wanted.cpus, -(-case.wanted.memory // (1 << 20))
        found.warn(wanted_compute(self._look, case.vm, cpus, memory).shortfall(cpus, memory))

    def _storage(self, case: _Case, found: _Found) -> None:
        bad = [f"{one.name} is {one.state}" for one in case.volumes if one.state != "Ready"]
        found.no(*(f"volume {text}, not Ready" for text in bad))
        kinds = {str(one.item.get("storagetype", "")) for one in case.volumes}
        if len(kinds) > 1:
            found.no(
                "its volumes are on local and on shared storage: an attach would move one without a word"
            )
        if "listStoragePools" not in case.may:
            found.warn(
                "the scope of its storage pools, and whether one is managed, is not known: no right to ask"
            )
            return
        pools = {str(pool.get("id")): pool for pool in self._api.items("listStoragePools", "storagepool")}
        used = [pools[key] for one in case.volumes if (key := str(one.item.get("storageid", ""))) in pools]
        found.no(
            *sorted(
                {
                    f"storage pool {pool.get('name')} is managed "
                    f"({pool.get('provider') or pool.get('type')}): "
                    "CloudStack does not detach a root disk there"
                    for pool in used
                    if str(pool.get("managed", "")).lower() == "true"
                }
            )
        )
        scopes = {str(pool.get("scope", "")) for pool in used}
        if len(scopes) > 1:
            found.no(
                f"its volumes are on pools of different scope ({', '.join(sorted(scopes))}): an "
                f"attach moves one"
            )

    def _snapshots(self, case: _Case, found: _Found) -> None:
        """How long a rollback takes is known from earlier ones only; CloudStack does not name its
        mechanism."""
        rate, longest = case.notes.get(RATE), self._api.settings.longest_revert
        replicas = {disk.volume for disk in case.wanted.disks}
        sizes = [one.size for one in case.volumes if one.id in replicas]
        if not rate:
            found.warn("how long a rollback takes here is not known yet: the first test failover measures it")
            return
        slowest, whole = max(sizes, default=0) / int(rate), sum(sizes) / int(rate)
        if slowest > JOBS_END:
            found.no(
                f"a rollback of one disk would take {span(slowest)}: CloudStack cancels it after an hour"
            )
        elif longest and whole > longest:
            found.no(f"a rollback would take {span(whole)}, more than `longest_revert` ({span(longest)})")

    def _limits(self, case: _Case, found: _Found) -> None:
        left, needed = self.account().get("snapshotavailable"), len(case.wanted.disks)
        if _number(left) is not None and (_number(left) or 0) < needed:
            found.no(f"the account may have {left} more snapshots, and the failover needs {needed}")

    def _networks(self, case: _Case, found: _Found) -> None:
        known = self._api.settings.networks
        wanted = wanted_nics(self._api, case.wanted.nics, known)
        for asked, nic in zip(case.wanted.nics, wanted, strict=True):
            item = network_of(self._api, nic.network)
            found.no(_no_address(item, asked.network, nic.address))
            if item.get("type") == "L2" and asked.address:
                found.warn(f"network {asked.network} is an L2 one: its addresses are the guest's own affair")
            for other in self._neighbours(case, nic.network):
                for theirs in other.nics:
                    if theirs.network != nic.network:
                        continue
                    if theirs.mac == nic.mac:
                        found.no(f"MAC {nic.mac} is used by VM {other.name} in network {asked.network}")
                    if nic.address and theirs.address == nic.address:
                        found.no(
                            f"address {nic.address} is used by VM {other.name} in network {asked.network}"
                        )

    def _neighbours(self, case: _Case, network: str) -> Iterable[Vm]:
        return self._look.in_network(network, case.vm.id)

    def _host_name(self, case: _Case, found: _Found) -> None:
        if not case.name:
            return
        if not _HOST_NAME.fullmatch(case.name):
            found.warn(
                f"CloudStack cannot call the VM {case.name!r}: its host name there stays the controller's"
            )
            return
        for nic in wanted_nics(self._api, case.wanted.nics, self._api.settings.networks):
            for other in self._neighbours(case, nic.network):
                if str(other.item.get("name", "")).lower() == case.name.lower():
                    found.no(
                        f"host name {case.name} is used by another VM in one of its networks ({other.id})"
                    )
                    return

    def _firmware(self, case: _Case, found: _Found) -> None:
        root, data = buses_of(case.vm.details)
        disks = [disk.bus for disk in case.wanted.disks]
        if dict(with_buses(case.vm.details, disks)) != dict(case.vm.details):
            found.warn(
                f"the buses of its disks change from {root} and {data}: only an administrator's key "
                f"may order that, "
                "unless user.vm.readonly.details says otherwise"
            )
        if case.wanted.firmware is not Firmware.UEFI:
            return
        if "listHosts" not in case.may:
            found.warn("whether a host can start UEFI guests is not known: no right to ask")
            return
        hosts = self._api.items("listHosts", "host", type="Routing", state="Up")
        if not any(str(host.get("ueficapability", "")).lower() == "true" for host in hosts):
            found.no("no host that is up can start UEFI guests (uefi.properties): the VM would not start")

    def _settings(self, case: _Case, found: _Found) -> None:
        if "listConfigurations" not in case.may:
            return
        for name, bad, text in (
            ("kvm.snapshot.enabled", "false", "disks of a running controller cannot be given snapshots"),
            ("allow.diskoffering.change.during.scale.vm", "true", "a new offering may resize the root disk"),
        ):
            items = self._api.items("listConfigurations", "configuration", name=name)
            if any(str(one.get("value")) == bad for one in items if one.get("name") == name):
                found.no(f"{name} is {bad}: {text}")


def _no_address(network: Item, name: str, address: str) -> str:
    """Why this network cannot give that address; "" where it can or none is asked for."""
    cidr = cidr_of(network)
    if not address or not cidr:
        return ""
    if ip_address(address) not in ip_network(cidr, strict=False):
        return f"network {name} ({cidr}) cannot give the address {address}: readdress it in `mappings`"
    return ""


def _number(text: object) -> float | None:
    try:
        number = float(str(text))
    except ValueError:
        return None  # "Unlimited"
    return None if number < 0 else number
