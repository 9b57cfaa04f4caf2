"""What CloudStack says of a VM, its volumes and its snapshots, as records. Questions only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from refloat.destinations.cloudstack_api import Api, Item
from refloat.destinations.cloudstack_plan import UEFI, Nic, Offering, is_uuid, serial_of, tag_of
from refloat.errors import Failed, NotFound, Refused
from refloat.model import Firmware, PowerState

TAG = "refloat.vm"  # resource tag of the volumes that are ours: the id of their VM
MIB = 1 << 20


@dataclass(frozen=True)
class Vm:
    """`memory` in MiB; `item` is all that CloudStack said."""

    id: str
    name: str
    state: str
    cpus: int
    memory: int
    offering: str
    os_type: str
    os_name: str
    details: Mapping[str, str]
    nics: tuple[Nic, ...]
    item: Mapping[str, Any]

    @property
    def power(self) -> PowerState:
        """Raises Failed where the state says neither on nor off: a guess could let two of it run."""
        if self.state == "Stopped":
            return PowerState.OFF
        if self.state in ("Running", "Starting", "Stopping", "Migrating", "Restoring"):
            return PowerState.RUNNING
        raise Failed(
            f"VM {self.name} is in the state {self.state or '?'}",
            code="vm_state",
            hint="look at it in CloudStack: it must be Running or Stopped",
        )

    @property
    def firmware(self) -> Firmware:
        uefi = UEFI in self.details or str(self.item.get("boottype", "")).upper() == "UEFI"
        return Firmware.UEFI if uefi else Firmware.BIOS

    @property
    def clock_utc(self) -> bool:
        """LibvirtComputingResource.createClockDef: local time for OS types whose name begins with Windows."""
        return not self.os_name.startswith("Windows")


@dataclass(frozen=True)
class Volume:
    """`vm` is "" and `device` -1 where it is attached to nothing. `protected` is None where this version of
    CloudStack has no such protection. `size` in bytes."""

    id: str
    name: str
    root: bool
    device: int
    vm: str
    state: str
    size: int
    protected: bool | None
    tag: str
    item: Mapping[str, Any]

    @property
    def serial(self) -> str:
        return serial_of(self.id)


@dataclass(frozen=True)
class Snapshot:
    """A snapshot of one volume that carries a name of ours."""

    id: str
    name: str
    tag: str
    volume: str
    state: str
    revertable: bool
    created: str
    size: str

    @property
    def usable(self) -> bool:
        return self.state == "BackedUp" and self.revertable

    @property
    def stamp(self) -> str:
        """Which rollback point this is. It says nothing of the volume: CloudStack sees no writes."""
        return f"{self.id} {self.created} {self.size}"


class Look:
    def __init__(self, api: Api) -> None:
        self.api = api
        self._scope = {"projectid": api.settings.project} if api.settings.project else {}

    def vm(self, name: str, known: str = "") -> Vm:
        """By its id, its display name or its host name; `known` is the id that it had before. Raises
        NotFound, Refused where several are meant."""
        for identity in (known, name):
            if is_uuid(identity):
                found = self._vms(id=identity)
                if found:
                    return _vm(found[0])
        both = [
            item for item in self._vms(keyword=name) if name in (item.get("displayname"), item.get("name"))
        ]
        if not both:
            raise NotFound(
                f"CloudStack has no VM {name}",
                code="unknown_vm",
                hint="name it as CloudStack does, or by its id",
            )
        if len(both) > 1:
            ids = ", ".join(str(item["id"]) for item in both)
            raise Refused(f"CloudStack has several VMs {name}: {ids}", code="vm_ambiguous", hint="use its id")
        return _vm(both[0])

    def in_network(self, network: str, but: str) -> list[Vm]:
        """The other VMs in this network, as far as the key sees them."""
        return [_vm(item) for item in self._vms(networkid=network) if str(item["id"]) != but]

    def _vms(self, **by: str) -> list[Item]:
        return self._known("listVirtualMachines", "virtualmachine", **by, **self._scope)

    def _known(self, command: str, key: str, **params: Any) -> list[Item]:
        """Of an id that is gone CloudStack says 431: that is nothing, no mistake of ours."""
        try:
            return self.api.items(command, key, **params)
        except Refused as error:
            if error.code == "cloudstack_rule":
                return []
            raise

    def volumes(self, vm: str) -> list[Volume]:
        """The attached ones of the VM with this id, in the order of their device numbers."""
        items = self.api.items("listVolumes", "volume", virtualmachineid=vm, **self._scope)
        return sorted((volume_of(item) for item in items), key=lambda volume: volume.device)

    def volume(self, volume: str) -> Volume | None:
        if not is_uuid(volume):
            return None
        items = self._known("listVolumes", "volume", id=volume, **self._scope)
        return volume_of(items[0]) if items else None

    def snapshots(self, volume: str) -> list[Snapshot]:
        """Ours, of this volume, the oldest first; failed ones are none."""
        items = self._known("listSnapshots", "snapshot", volumeid=volume, **self._scope)
        made = [found for item in items if (found := _snapshot(item)) is not None]
        return sorted(made, key=lambda one: (one.created, one.id))

    def os_type(self, name: str) -> str:
        """Its id. Raises Refused for an unknown name."""
        for item in self.api.items("listOsTypes", "ostype", description=name):
            if item.get("description") == name:
                return str(item["id"])
        raise Refused(
            f"CloudStack has no OS type {name!r}",
            code="no_such_os_type",
            hint="name one of listOsTypes in the site's `linux_os` or `windows_os`",
        )

    def offerings(self, vm: str) -> list[Offering]:
        """Those to which this VM can change."""
        items = self.api.items("listServiceOfferings", "serviceoffering", virtualmachineid=vm)
        return [offering_of(item) for item in items if item.get("state", "Active") == "Active"]

    def offering(self, offering: str) -> Offering | None:
        items = self._known("listServiceOfferings", "serviceoffering", id=offering)
        return offering_of(items[0]) if items else None


# ---------------------------------------------------------------- from what CloudStack says


def _vm(item: Item) -> Vm:
    nics = [_nic(nic) for nic in item.get("nic") or []]
    return Vm(
        id=str(item["id"]),
        name=str(item.get("displayname") or item.get("name") or item["id"]),
        state=str(item.get("state", "")),
        cpus=int(item.get("cpunumber") or 0),
        memory=int(item.get("memory") or 0),
        offering=str(item.get("serviceofferingid", "")),
        os_type=str(item.get("ostypeid") or item.get("guestosid") or ""),
        os_name=str(item.get("osdisplayname") or ""),
        details={str(name): str(value) for name, value in (item.get("details") or {}).items()},
        nics=tuple(sorted(nics, key=lambda nic: (not nic.default, nic.device))),
        item=item,
    )


def _nic(item: Item) -> Nic:
    return Nic(
        str(item["id"]),
        str(item.get("networkid", "")),
        str(item.get("macaddress", "")).lower(),
        str(item.get("ipaddress") or ""),
        _true(item.get("isdefault")),
        int(item.get("deviceid") or 0),
    )


def volume_of(item: Item) -> Volume:
    device = item.get("deviceid")
    vm = str(item.get("virtualmachineid") or "")
    tags = {str(tag.get("key")): str(tag.get("value")) for tag in item.get("tags") or []}
    return Volume(
        id=str(item["id"]),
        name=str(item.get("name", "")),
        root=str(item.get("type", "")).upper() == "ROOT",
        device=int(device) if vm and device is not None else -1,
        vm=vm,
        state=str(item.get("state", "")),
        size=int(item.get("size") or 0),
        protected=_true(item["deleteprotection"]) if "deleteprotection" in item else None,
        tag=tags.get(TAG, ""),
        item=item,
    )


def _snapshot(item: Item) -> Snapshot | None:
    name, state = str(item.get("name", "")), str(item.get("state", ""))
    tag = tag_of(name)
    if tag is None or state in ("Error", "Destroyed", "Destroying"):
        return None
    return Snapshot(
        str(item["id"]),
        name,
        tag,
        str(item.get("volumeid", "")),
        state,
        _true(item.get("revertable")),
        str(item.get("created", "")),
        str(item.get("physicalsize", "")),
    )


def offering_of(item: Item) -> Offering:
    details = item.get("serviceofferingdetails") or {}

    def bound(name: str) -> int:
        return int(details.get(name) or item.get(name) or 0)

    custom = _true(item.get("iscustomized"))
    return Offering(
        id=str(item["id"]),
        name=str(item.get("name", "")),
        cpus=int(item.get("cpunumber") or 0),
        memory=int(item.get("memory") or 0),
        speed=int(item.get("cpuspeed") or 0),
        custom=custom,
        volatile=_true(item.get("isvolatile")),
        least_cpus=bound("mincpunumber"),
        most_cpus=bound("maxcpunumber"),
        least_memory=bound("minmemory"),
        most_memory=bound("maxmemory"),
        local=str(item.get("storagetype", "shared")) == "local",
    )


def _true(value: object) -> bool:
    return value is True or str(value).lower() == "true"
