"""What to order from CloudStack, decided by pure functions from what is there and what is wanted."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from refloat.model import DiskBus, Firmware

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_ROOT = 0
_RESERVED = 3  # device id: the CD drive's, refused by attachVolume

# The details by which CloudStack chooses a bus. Source: VmDetailConstants, DiskControllerMappings of 4.20.
ROOT_BUS, DATA_BUS = "rootDiskController", "dataDiskController"
_BUS_WORDS = {DiskBus.VIRTIO_BLK: "virtio", DiskBus.VIRTIO_SCSI: "scsi", DiskBus.SATA: "sata"}
UEFI = "UEFI"


def is_uuid(text: str) -> bool:
    return _UUID.fullmatch(text) is not None


def serial_of(volume: str) -> str:
    """What the guest sees of a volume with this id: KVMStorageProcessor.attachOrDetachDisk."""
    return volume.replace("-", "")[:20]


# ---------------------------------------------------------------- disks


def device_ids(
    wanted: Sequence[str], attached: Mapping[str, int], home: Mapping[str, int] | None
) -> dict[str, int]:
    """Where each wanted volume belongs; the first boots. `home`: where the controller's own were, if known.

    A data disk that is in its order stays where it is: what is not moved cannot go wrong.
    """
    if home is not None and list(wanted) == sorted(home, key=lambda volume: home[volume]):
        return dict(home)
    first, *data = wanted
    now = [attached.get(volume, _ROOT) for volume in data]
    if all(number > _ROOT for number in now) and now == sorted(now):
        return {first: _ROOT, **dict(zip(data, now, strict=True))}
    free = (number for number in range(1, len(data) + 3) if number != _RESERVED)
    return {first: _ROOT, **dict(zip(data, free, strict=False))}


@dataclass(frozen=True)
class Attach:
    volume: str
    device: int


@dataclass(frozen=True)
class Detach:
    volume: str


def next_disk(attached: Mapping[str, int], target: Mapping[str, int]) -> Attach | Detach | None:
    """One order towards `target`: data disks leave first, then the root; the new root comes first."""
    wrong = [volume for volume, device in attached.items() if target.get(volume) != device]
    if wrong:
        return Detach(min(wrong, key=lambda volume: (attached[volume] == _ROOT, attached[volume])))
    missing = [volume for volume in target if volume not in attached]
    return Attach(missing[0], target[missing[0]]) if missing else None


def can_be(disks: Sequence[DiskBus]) -> bool:
    """One bus for the root, one for all others."""
    return all(bus in _BUS_WORDS for bus in disks) and len(set(disks[1:])) <= 1


def buses_of(details: Mapping[str, str]) -> tuple[DiskBus, DiskBus]:
    """Of the root and of all other disks. Without details a paravirtual OS type, which Refloat sees to,
    gives virtio; data disks follow a root on SCSI. Source: LibvirtComputingResource.createVbd."""
    known = {"ide": DiskBus.SATA} | {text: bus for bus, text in _BUS_WORDS.items()}
    root = known.get(details.get(ROOT_BUS, "").lower(), DiskBus.VIRTIO_BLK)
    follows = root if root is DiskBus.VIRTIO_SCSI else DiskBus.VIRTIO_BLK
    return root, known.get(details.get(DATA_BUS, "").lower(), follows)


def with_buses(details: Mapping[str, str], disks: Sequence[DiskBus]) -> dict[str, str]:
    """The details with these buses. What is so without a detail gets none: they are an administrator's."""
    root, *data = disks
    kept = dict(details)
    if buses_of(kept)[0] is not root:
        kept.pop(ROOT_BUS, None)
        if root is not DiskBus.VIRTIO_BLK:
            kept[ROOT_BUS] = _BUS_WORDS[root]
    if data and buses_of(kept)[1] is not data[0]:
        kept.pop(DATA_BUS, None)
        if buses_of(kept)[1] is not data[0]:
            kept[DATA_BUS] = _BUS_WORDS[data[0]]
    return kept


def with_firmware(details: Mapping[str, str], firmware: Firmware) -> dict[str, str]:
    """UEFI without Secure Boot: a guest that is adapted need not be signed. One that is UEFI stays as it
    is."""
    kept = dict(details)
    if firmware is Firmware.BIOS:
        kept.pop(UEFI, None)
    else:
        kept.setdefault(UEFI, "LEGACY")
    return kept


# ---------------------------------------------------------------- adapters


@dataclass(frozen=True)
class Nic:
    """An adapter that the VM has. The default one is what DHCP and metadata belong to."""

    id: str
    network: str
    mac: str
    address: str
    default: bool
    device: int = 0


@dataclass(frozen=True)
class WantedNic:
    """`network` is CloudStack's id; an empty `mac` or `address`: any."""

    network: str
    mac: str
    address: str = ""

    def is_in(self, nic: Nic) -> bool:
        return nic.network == self.network and self.mac in ("", nic.mac) and self.address in ("", nic.address)


@dataclass(frozen=True)
class Add:
    nic: WantedNic


@dataclass(frozen=True)
class MakeDefault:
    nic: Nic


@dataclass(frozen=True)
class Remove:
    nic: Nic


Move = Add | MakeDefault | Remove


class NoWay(Exception):
    """These adapters cannot be made; the text says why."""


def next_nic(here: Sequence[Nic], wanted: Sequence[WantedNic], spare: Sequence[str]) -> Move | None:
    """One order towards `wanted`, of which the first is the default one; None when all is as wanted.

    The default adapter cannot be removed and a network takes one adapter of a VM: so the new one is added,
    made the default, and then the old one goes. Where both are in one network, another adapter (of the others
    wanted, or in one of the `spare` networks) is the default for the moment. Raises NoWay.
    """
    first, *rest = wanted
    head = next((nic for nic in here if first.is_in(nic)), None)
    if head is None:
        return _room_for(here, first, rest, spare)
    if not head.default:
        return MakeDefault(head)
    tail = [nic for nic in here if nic is not head]
    for index, nic in enumerate(tail):
        if index >= len(rest) or not rest[index].is_in(nic):
            return Remove(nic)
    return Add(rest[len(tail)]) if len(tail) < len(rest) else None


def _room_for(here: Sequence[Nic], first: WantedNic, rest: Sequence[WantedNic], spare: Sequence[str]) -> Move:
    blocking = next((nic for nic in here if nic.network == first.network), None)
    if blocking is None:
        return Add(first)
    if not blocking.default:
        return Remove(blocking)
    other = next((nic for nic in here if not nic.default), None)
    if other is not None:
        return MakeDefault(other)
    if rest:
        return Add(rest[0])
    for network in spare:
        if network != first.network:
            return Add(WantedNic(network, ""))
    raise NoWay("its default adapter can only be replaced by way of another network, and the site has none")


# ---------------------------------------------------------------- compute


@dataclass(frozen=True)
class Offering:
    """A compute offering; `cpus` and `memory` are 0 where it is custom. Memory in MiB. `most_*` of a
    constrained custom offering, 0: no bound."""

    id: str
    name: str
    cpus: int
    memory: int
    speed: int
    custom: bool
    volatile: bool
    least_cpus: int = 0
    most_cpus: int = 0
    least_memory: int = 0
    most_memory: int = 0
    local: bool = False


@dataclass(frozen=True)
class Compute:
    """What is ordered: `cpus` and `memory` (MiB) are what the VM will have, `details` go with a custom
    offering."""

    offering: str
    cpus: int
    memory: int
    details: dict[str, str]

    def shortfall(self, cpus: int, memory: int) -> str:
        if self.cpus >= cpus and self.memory >= memory:
            return ""
        has, wanted = f"{self.cpus} CPUs and {self.memory} MiB", f"{cpus} and {memory} MiB"
        return f"the best offering gives {has} instead of {wanted}"


def choose(offerings: Sequence[Offering], named: str, cpus: int, memory: int, speed: int) -> Compute | None:
    """The named custom offering, else the smallest fixed one that fits, else the one that comes nearest.
    Volatile ones never: a restart would destroy the root disk, which is the replica. None: there is nothing
    to choose."""
    usable = [one for one in offerings if not one.volatile]
    if named:
        return next((_made(one, cpus, memory, speed) for one in usable if named in (one.id, one.name)), None)
    made = [_made(one, cpus, memory, speed) for one in usable if not one.custom]
    fitting = [one for one in made if not one.shortfall(cpus, memory)]
    if fitting:
        return min(fitting, key=lambda one: (one.memory, one.cpus, one.offering))
    return max(made, key=lambda one: (min(one.memory, memory), min(one.cpus, cpus)), default=None)


def _made(one: Offering, cpus: int, memory: int, speed: int) -> Compute:
    if not one.custom:
        return Compute(one.id, one.cpus, one.memory, {})
    cpus = one.cpus or _within(cpus, one.least_cpus, one.most_cpus)
    memory = one.memory or _within(memory, one.least_memory, one.most_memory)
    return Compute(one.id, cpus, memory, details_of(one, cpus, memory, speed))


def details_of(one: Offering, cpus: int, memory: int, speed: int) -> dict[str, str]:
    """What a custom offering leaves open, and that only: CloudStack refuses what it fixes."""
    asked = (("cpuNumber", one.cpus, cpus), ("memory", one.memory, memory), ("cpuSpeed", one.speed, speed))
    return {name: str(value) for name, fixed, value in asked if one.custom and not fixed}


def _within(value: int, least: int, most: int) -> int:
    value = max(value, least)
    return min(value, most) if most else value


# ---------------------------------------------------------------- snapshots

_TAG = re.compile(r"[A-Za-z0-9_-]{1,64}")
_OURS = ".refloat"


def is_tag(tag: str) -> bool:
    return _TAG.fullmatch(tag) is not None


def snapshot_name(tag: str, serial: str) -> str:
    return f"{tag}.{serial}{_OURS}"


def tag_of(name: str) -> str | None:
    """Of a snapshot of ours; None of anybody else's."""
    parts = name.removesuffix(_OURS).split(".")
    return parts[0] if name.endswith(_OURS) and len(parts) == 2 else None
