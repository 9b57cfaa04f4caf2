"""What is on a guest's disks, as the appliance's kernel shows it: in the words, and under the names, of
probe.py and stack.py.

The appliance assembles arrays and starts volume groups by itself. It calls disks and arrays as they come,
so nothing here is told by such a name: disks by the label that they were added with, arrays by what their
superblock says. Source of the calls: guestfs(3).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from refloat.errors import Refused
from refloat.guest.linux.storage.names import lv_name
from refloat.guest.probe import Found, is_esp_type, joined_btrfs, unescaped
from refloat.guest.stack import LUKS, Volumes, array_names, is_uuid
from refloat.model import GuestFilesystem

_EXTENDED = frozenset({"0x5", "0xf", "0x85"})  # partitions that only hold others
# Logical volumes that are no filesystem of the guest's: snapshots (with the UUID of their origin), thin
# pools and their parts.
_NOT_PLAIN = tuple("sStdOe")
_WRONG_KEY = "No key available"

# The key of a disk and the number of a partition on it, 0 for the whole disk.
Place = tuple[str, int]


def volumes(g: Any, disks: Mapping[str, str], keys: Mapping[str, str]) -> Volumes:
    """Everything on `disks` (the appliance's name of each -> its key), opened with `keys` (passphrases by
    the UUID of the LUKS container).

    Raises Refused for a passphrase that opens nothing; RuntimeError where the appliance fails.
    """
    containers = _Containers(g, {uuid.casefold(): key for uuid, key in keys.items()})
    while True:
        found = _Layers(g, disks, containers.opened).found()
        if not containers.open(found):
            return Volumes(joined_btrfs(found), tuple(containers.closed))
        g.lvm_scan(True)


@dataclass
class _Containers:
    """LUKS. `opened`: the node of what is inside -> the node of the container."""

    g: Any
    keys: Mapping[str, str]
    opened: dict[str, str] = field(default_factory=dict)
    closed: list[str] = field(default_factory=list)
    _tried: set[str] = field(default_factory=set)

    def open(self, found: Iterable[Found]) -> bool:
        """Opens those that were not tried before; whether any was opened. Others may lie inside."""
        fresh = [one for one in found if one.filesystem.kind == LUKS and one.node not in self._tried]
        self._tried.update(one.node for one in fresh)
        done = [self._open(one) for one in fresh]
        return any(done)

    def _open(self, one: Found) -> bool:
        uuid = one.filesystem.uuid.casefold()
        what = f"the LUKS container {uuid} on {one.describe()}"
        key = self.keys.get(uuid)
        if key is None or not is_uuid(uuid):
            self.closed.append(f"{what} stays closed: there is no passphrase for it")
            return False
        try:
            self.g.cryptsetup_open(one.node, key, f"luks-{uuid}")
        except RuntimeError as error:
            if _WRONG_KEY in str(error):
                raise Refused(
                    f"the passphrase for {what} opens none of its key slots",
                    code="luks_key_wrong",
                    hint="give the passphrase of one of its key slots, without a newline",
                ) from error
            self.closed.append(f"{what} cannot be opened: {error}")
            return False
        self.opened[f"/dev/mapper/luks-{uuid}"] = one.node
        return True


class _Layers:
    """What the appliance shows at one moment, and on what each piece stands."""

    def __init__(self, g: Any, disks: Mapping[str, str], containers: Mapping[str, str]) -> None:
        self._g = g
        self._disks = disks
        self._containers = containers
        self._order = list(disks.values())
        self._partitions = {
            node: (g.part_to_dev(node), g.part_to_partnum(node)) for node in g.list_partitions()
        }
        self._arrays = {
            node: [row["mdstat_device"] for row in g.md_stat(node)] for node in g.list_md_devices()
        }
        self._logical: list[str] = g.lvs()
        self._parts_of = _physical(g) if self._logical else {}

    def found(self) -> list[Found]:
        """What lies on the disks themselves first, in their order."""
        split = {parent for parent, _ in self._partitions.values()}
        placed = [
            (place, node)
            for node in (*self._disks, *self._arrays, *self._partitions)
            if node not in split and (place := self._below(node))
        ]
        placed.sort(key=lambda one: (self._array(one[1]) != "", *self._rank(one[0])))
        found = [one for place, node in placed for one in self._base(place, node)]
        for node in self._containers:
            if place := self._below(node):
                found.append(self._volume(place, node, node, ()))
        return [*found, *self._logical_volumes()]

    # ------------------------------------------------------------ kinds of nodes

    def _base(self, place: Place, node: str) -> Iterator[Found]:
        """A disk, an array, or a partition of either."""
        array = self._array(node)
        if array:
            yield self._volume(place, node, *self._array_names(array, node))
            return
        tags = self._tags(node)
        kind = tags.get("PART_ENTRY_TYPE", "")
        if kind not in _EXTENDED:
            filesystem = self._filesystem(place, node, tags, "", tuple(_partition_names(tags)))
            sub = tags.get("UUID_SUB", "")
            yield Found(replace(filesystem, esp=is_esp_type(kind)), node, sub=sub, part_type=kind)

    def _logical_volumes(self) -> Iterator[Found]:
        if not self._logical:
            return
        kinds = {_plain(row["lv_uuid"]): row["lv_attr"] for row in self._g.lvs_full()}
        groups = {row["vg_name"]: _plain(row["vg_uuid"]) for row in self._g.vgs_full()}
        for node in self._logical:
            uuid = _plain(self._g.lvuuid(node))
            group, name = node.split("/")[2:4]
            place = self._below(node)
            if place and not kinds.get(uuid, "").startswith(_NOT_PLAIN):
                by_id = f"/dev/disk/by-id/dm-uuid-LVM-{groups.get(group, '')}{uuid}"
                yield self._volume(place, node, node, (f"/dev/mapper/{lv_name(group, name)}", by_id))

    def _volume(self, place: Place, node: str, volume: str, names: tuple[str, ...]) -> Found:
        tags = self._tags(node)
        return Found(self._filesystem(place, node, tags, volume, names), node, sub=tags.get("UUID_SUB", ""))

    def _filesystem(
        self, place: Place, node: str, tags: Mapping[str, str], volume: str, names: tuple[str, ...]
    ) -> GuestFilesystem:
        # The tags show a label that is not ASCII in another notation.
        label = str(self._g.vfs_label(node)) if tags.get("LABEL") else ""
        kind, uuid = tags.get("TYPE", ""), tags.get("UUID", "")
        return GuestFilesystem(*place, kind, uuid, label, volume=volume, names=names)

    def _array_names(self, array: str, node: str) -> tuple[str, tuple[str, ...]]:
        detail = self._g.md_detail(array)
        volume, names = array_names(detail["uuid"], detail.get("name", ""))
        if node == array:
            return volume, names
        joint = "p" if volume[-1:].isdigit() else ""
        return f"{volume}{joint}{self._partitions[node][1]}", ()

    # ------------------------------------------------------------ on what they stand

    def _below(self, node: str) -> Place | None:
        """Where a node, or its first part, lies; None for what is on none of the guest's disks."""
        if node in self._disks:
            return self._disks[node], 0
        if node in self._partitions:
            parent, number = self._partitions[node]
            return (self._disks[parent], number) if parent in self._disks else self._below(parent)
        if node in self._containers:
            return self._below(self._containers[node])
        parts = self._arrays.get(node) or self._parts_of.get("/".join(node.split("/")[:3]), ())
        places = [place for place in map(self._below, parts) if place]
        return min(places, key=self._rank, default=None)

    def _rank(self, place: Place) -> tuple[int, int]:
        return self._order.index(place[0]), place[1]

    def _array(self, node: str) -> str:
        """The array that a node is, or is a partition of; empty for others."""
        parent = self._partitions[node][0] if node in self._partitions else node
        return parent if parent in self._arrays else ""

    def _tags(self, node: str) -> dict[str, str]:
        try:
            return {name: unescaped(value) for name, value in self._g.blkid(node).items()}
        except RuntimeError:  # nothing that is known
            return {}


def _physical(g: Any) -> dict[str, Sequence[str]]:
    """/dev/GROUP -> the nodes on which the volume group lies."""
    nodes = {_plain(row["pv_uuid"]): row["pv_name"] for row in g.pvs_full()}
    groups = {group: map(_plain, g.vgpvuuids(group)) for group in g.vgs()}
    return {f"/dev/{group}": [nodes[one] for one in own if one in nodes] for group, own in groups.items()}


def _partition_names(tags: Mapping[str, str]) -> Iterator[str]:
    if tags.get("PART_ENTRY_UUID"):
        yield f"PARTUUID={tags['PART_ENTRY_UUID'].lower()}"
    if tags.get("PART_ENTRY_NAME"):
        yield f"PARTLABEL={tags['PART_ENTRY_NAME']}"


def _plain(uuid: str) -> str:
    return uuid.replace("-", "")
