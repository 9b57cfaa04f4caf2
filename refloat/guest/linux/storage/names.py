"""What a guest's names of storage devices mean, and which name to write instead of one that follows the bus.

/dev/sda1 is the first partition of the first disk on VMware; on virtio-blk there is no such device.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from refloat.model import GuestFilesystem

# The kernel numbers the disks of each naming scheme. A guest has one scheme for all its disks.
_LETTERED = re.compile(r"/dev/(?:sd|vd|xvd|hd)([a-z]{1,2})(\d*)")
_NVME = re.compile(r"/dev/nvme(\d+)n(\d+)(?:p(\d+))?")

# These follow the bus or a serial number that the virtual hardware made up; nothing on the disk tells what
# they mean. With the number of the partition that they end with.
_BOUND = (
    re.compile(r"(/dev/disk/by-(?:path|id|diskseq)/[^/]+?)(?:-part(\d+))?"),
    re.compile(r"(/dev/mapper/(?:mpath[a-z]+|[1238][0-9a-f]{16,32}))(?:-?p(?:art)?)?(\d+)?"),
)
# Made from what is on the disk: the same wherever the disk goes.
_OWN_IDS = ("dm-name-", "dm-uuid-LVM-", "dm-uuid-CRYPT-", "lvm-pv-uuid-", "md-name-", "md-uuid-")
_MULTIPATH = re.compile(r"/dev/disk/by-id/dm-name-(?:mpath|[1238][0-9a-f]{16})")

_TAGS = ("UUID", "LABEL", "PARTUUID", "PARTLABEL")
_BY_TAG = {f"/dev/disk/by-{tag.lower()}/": tag for tag in _TAGS}
_ESCAPE = re.compile(r"\\x([0-9a-fA-F]{2})")

# Parts of something larger: their UUID names the whole or is none that UUID= would find.
MEMBERS = frozenset(
    {"linux_raid_member", "LVM2_member", "btrfs_member", "isw_raid_member", "ddf_raid_member"}
)


@dataclass(frozen=True)
class Bound:
    """A name that depends on the virtual hardware: that of the disk, and the partition's number (0: none)."""

    disk: str
    partition: int


def bound(name: str) -> Bound | None:
    """The parts of a name that depends on the virtual hardware and says nothing of what is on the disk."""
    own = name.startswith(tuple(f"/dev/disk/by-id/{prefix}" for prefix in _OWN_IDS))
    if own and not _MULTIPATH.match(name):
        return None
    for pattern in _BOUND:
        match = pattern.fullmatch(name)
        if match:
            return Bound(match[1], int(match[2] or 0))
    return None


def is_kernel_name(name: str) -> bool:
    """Whether this is a name like /dev/sda1, which the kernel gives in the order of the disks."""
    return bool(_LETTERED.fullmatch(name) or _NVME.fullmatch(name))


def lv_name(vg: str, lv: str) -> str:
    """The device-mapper's name of a logical volume: hyphens are doubled, one joins the two."""
    return f"{vg.replace('-', '--')}-{lv.replace('-', '--')}"


class DeviceNames:
    """What a guest's device names mean: `order` holds the disks' keys as the guest's kernel numbers them."""

    def __init__(
        self,
        order: Sequence[str],
        filesystems: Iterable[GuestFilesystem],
        partuuids: Mapping[str, GuestFilesystem] | None = None,
    ) -> None:
        self._order = tuple(order)
        self._filesystems = tuple(filesystems)
        self._names = {f"PARTUUID={key.lower()}": one for key, one in (partuuids or {}).items()}
        shared = set()
        for one in self._filesystems:
            for name in filter(None, (one.volume, *one.names)):
                if _place(self._names.setdefault(name, one)) != _place(one):
                    shared.add(name)
        for name in shared:  # two answer to it: it means neither
            del self._names[name]
        proven = (
            (bound(name), one.disk) for one in self._filesystems if not one.volume for name in one.names
        )
        self._disks = {found.disk: disk for found, disk in proven if found}

    def find(self, name: str) -> GuestFilesystem | None:
        """The filesystem that a name as in fstab stands for, or None if it is not known."""
        name = _plain(name)
        tag, separator, value = name.partition("=")
        if separator and tag in ("UUID", "LABEL"):
            return self._by(tag.lower(), value)
        if name in self._names:
            return self._names[name]
        return self._placed(name)

    def stable(self, name: str) -> str | None:
        """The name to write instead of one that follows the bus; None where the old one can stay.

        Raises LookupError, with the reason, for a name that cannot be mapped.
        """
        depends = bound(name)
        if not depends and not is_kernel_name(name):
            return None
        found = self.find(name)
        if found is None and depends:
            raise LookupError(f"{name} depends on the virtual hardware and says nothing about the disk")
        if found is None:
            raise LookupError(f"{name} is on none of the disks {', '.join(self._order)}")
        if not found.uuid or found.kind in MEMBERS:
            return self.partition(name)
        if sum(one.uuid == found.uuid for one in self._filesystems) > 1:
            raise LookupError(f"{name} has the UUID {found.uuid}, which another filesystem has, too")
        return f"UUID={found.uuid}"

    def partition(self, name: str) -> str:
        """The PARTUUID of what `name` stands for, for content that has no UUID or will not keep it.

        Raises LookupError where the partition has none, or shares it with another.
        """
        found = self.find(name)
        for other in found.names if found else ():
            if other.startswith("PARTUUID=") and other in self._names:
                return other
        kind = found.kind if found else ""
        raise LookupError(f"{name} has no UUID and no PARTUUID ({kind or 'nothing known on it'})")

    def kinds(self) -> frozenset[str]:
        """What is on the guest's disks: "ext4", "LVM2_member", ..."""
        return frozenset(one.kind for one in self._filesystems)

    def _by(self, attribute: str, value: str) -> GuestFilesystem | None:
        # A FAT's UUID is written in capitals by some and not by others.
        wanted = value.casefold() if attribute == "uuid" else value
        matches = []
        for one in self._filesystems:
            has = one.uuid.casefold() if attribute == "uuid" else one.label
            if wanted and has == wanted and one.kind not in MEMBERS:
                matches.append(one)
        return matches[0] if len(matches) == 1 else None

    def _placed(self, name: str) -> GuestFilesystem | None:
        """By the disk and the partition's number."""
        place = bound(name)
        if place:
            disk = self._disks.get(place.disk)
            return self._part(disk, place.partition) if disk else None
        match = _LETTERED.fullmatch(name)
        if match:
            return self._numbered(_number(match[1]), int(match[2] or 0))
        match = _NVME.fullmatch(name)
        if match:
            index = self._nvme(int(match[1]), int(match[2]))
            return None if index is None else self._numbered(index, int(match[3] or 0))
        return None

    def _nvme(self, controller: int, namespace: int) -> int | None:
        """VMware gives one controller many namespaces, others give each disk a controller of its own. Where
        the two would differ, the name means nothing certain."""
        if controller == 0:
            return namespace - 1
        return 1 if (controller, namespace, len(self._order)) == (1, 1, 2) else None

    def _numbered(self, index: int, partition: int) -> GuestFilesystem | None:
        return self._part(self._order[index], partition) if 0 <= index < len(self._order) else None

    def _part(self, disk: str, partition: int) -> GuestFilesystem | None:
        wanted = (disk, partition, "")
        return next(
            (one for one in self._filesystems if (one.disk, one.partition, one.volume) == wanted), None
        )


def _place(one: GuestFilesystem) -> tuple[str, int, str]:
    return one.disk, one.partition, one.volume


def _number(letters: str) -> int:
    """a is 0, z is 25, aa is 26."""
    number = 0
    for letter in letters:
        number = number * 26 + ord(letter) - ord("a") + 1
    return number - 1


def _plain(name: str) -> str:
    """One spelling for each name: tags instead of /dev/disk/by-uuid and the like, without quotes."""
    tag, separator, value = name.partition("=")
    if separator and tag in _TAGS:
        value = value.strip('"')
        return f"{tag}={value.lower() if tag == 'PARTUUID' else value}"
    for prefix, by in _BY_TAG.items():
        if name.startswith(prefix):
            value = _ESCAPE.sub(lambda match: chr(int(match[1], 16)), name.removeprefix(prefix))
            return _plain(f"{by}={value}")
    if name.startswith("/dev/disk/by-id/dm-name-"):
        return f"/dev/mapper/{name.removeprefix('/dev/disk/by-id/dm-name-')}"
    return name
