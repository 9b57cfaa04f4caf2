"""What is on a guest's disks: partitions and their content, by probing, without mounting anything."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from refloat.command import run
from refloat.errors import Refused
from refloat.model import GuestFilesystem

_TIMEOUT = 120
_SYS_BLOCK = Path("/sys/class/block")
_ESCAPED = re.compile(r"\\(.)")
# An EFI system partition's type: by GPT, and by MBR as sfdisk and as blkid write it.
_ESP_TYPES = frozenset({"c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "ef", "0xef"})


@dataclass(frozen=True)
class Found:
    """A filesystem (or swap area, or part of something larger) and where it is: a device node, or a part of
    one from `offset` on. `members` are the nodes of a btrfs' other devices; `sub` tells them apart.
    `part_type` is what the partition table says that it is for, as it is written there."""

    filesystem: GuestFilesystem
    node: str
    offset: int = 0
    size: int = 0
    members: tuple[str, ...] = ()
    sub: str = ""
    part_type: str = ""

    def describe(self) -> str:
        one = self.filesystem
        where = one.volume or f"{one.disk} partition {one.partition}"
        return f"{where}: {one.kind or 'nothing known'}"

    def is_node(self) -> bool:
        """Whether all of it is a block device of its own."""
        return not self.offset and is_block(self.node)


def is_block(node: str) -> bool:
    return stat.S_ISBLK(os.stat(node).st_mode)


@dataclass(frozen=True)
class _Part:
    disk: str
    number: int  # 0: the whole disk
    node: str
    offset: int = 0
    size: int = 0
    partuuid: str = ""
    label: str = ""
    type: str = ""


def find_filesystems(devices: Mapping[str, str]) -> tuple[Found, ...]:
    """What is on each disk (key -> device node or raw image).

    Partitions whose node the kernel did not make (a kernel without partition parsers, an image file)
    are reached by their offset.
    """
    parts = [part for disk, node in devices.items() for part in _parts(disk, node)]
    known = probe([part.node for part in parts if not part.offset])
    found = []
    for part in parts:
        tags = known.get(part.node, {}) if not part.offset else _probe_at(part)
        names = {
            "PARTUUID": tags.get("PART_ENTRY_UUID", part.partuuid).lower(),
            "PARTLABEL": tags.get("PART_ENTRY_NAME", part.label),
        }
        part_type = tags.get("PART_ENTRY_TYPE", part.type)
        filesystem = GuestFilesystem(
            part.disk,
            part.number,
            tags.get("TYPE", ""),
            tags.get("UUID", ""),
            tags.get("LABEL", ""),
            names=tuple(f"{tag}={value}" for tag, value in names.items() if value),
            esp=is_esp_type(part_type),
        )
        sub = tags.get("UUID_SUB", "")
        found.append(Found(filesystem, part.node, part.offset, part.size, sub=sub, part_type=part_type))
    return tuple(found)


def is_esp_type(written: str) -> bool:
    """Whether a partition's type, as a table or a program writes it, is that of an EFI system partition."""
    return written.casefold() in _ESP_TYPES


def joined_btrfs(found: Iterable[Found]) -> tuple[Found, ...]:
    """A btrfs on several devices as one filesystem: the first has the others as members.

    Two devices that call themselves the same device of it are copies of each other, and stay two.
    """
    every = tuple(found)
    groups: dict[str, list[Found]] = {}
    for one in every:
        if one.filesystem.kind == "btrfs" and one.sub:
            groups.setdefault(one.filesystem.uuid, []).append(one)
    result = []
    for one in every:
        group = groups.get(one.filesystem.uuid, [])
        several = len(group) > 1 and len({other.sub for other in group}) == len(group)
        if several and one is group[0]:
            one = replace(one, members=tuple(other.node for other in group[1:]))
        elif several and one in group:
            one = replace(one, filesystem=replace(one.filesystem, kind="btrfs_member", uuid="", label=""))
        result.append(one)
    return tuple(result)


def kernel_partitions(node: str) -> list[tuple[int, str]]:
    """Number and node of each partition of a block device for which the kernel made a node."""
    name = os.path.basename(os.path.realpath(node))
    found = []
    for entry in (_SYS_BLOCK / name).glob(f"{name}*/partition"):
        found.append((int(entry.read_text()), f"/dev/{entry.parent.name}"))
    return sorted(found)


def probe(nodes: Sequence[str]) -> dict[str, dict[str, str]]:
    """blkid's tags (TYPE, UUID, ...) of each node on which something is known."""
    # One process for all: under emulation each costs tens of milliseconds. The status only says that
    # one of them holds nothing that is known.
    if not nodes:
        return {}
    done = run(["blkid", "-p", "-o", "export", *nodes], timeout=_TIMEOUT, check=False)
    blocks = (_tags(block) for block in done.text.split("\n\n"))
    return {tags["DEVNAME"]: tags for tags in blocks if "DEVNAME" in tags}


def _parts(disk: str, node: str) -> list[_Part]:
    try:
        block = is_block(node)
    except OSError as error:
        raise Refused(f"there is no disk {disk} at {node}: {error.strerror}", code="disk_missing") from error
    if block:
        numbered = kernel_partitions(node)
        if numbered:
            return [_Part(disk, number, name) for number, name in numbered]
    return _table(disk, node) or [_Part(disk, 0, node)]


def _table(disk: str, node: str) -> list[_Part]:
    """The partitions that the disk's table lists, with their place in bytes."""
    done = run(["sfdisk", "--json", node], timeout=_TIMEOUT, check=False)
    if done.returncode != 0:
        return []
    table = json.loads(done.stdout)["partitiontable"]
    sector = int(table.get("sectorsize", 512))
    rows = []
    for row in table.get("partitions", ()):
        number = str(row["node"])[len(node) :].lstrip("p")
        if number.isdigit() and row.get("type") not in ("5", "f", "85"):
            uuid = row.get("uuid") or f"{int(table.get('id', '0'), 0):08x}-{int(number):02x}"
            start, size = int(row["start"]) * sector, int(row["size"]) * sector
            label, kind = str(row.get("name", "")), str(row.get("type", ""))
            rows.append(_Part(disk, int(number), node, start, size, uuid, label, kind))
    return rows


def _probe_at(part: _Part) -> dict[str, str]:
    argv = ["blkid", "-p", "-o", "export", "-O", str(part.offset), "-S", str(part.size), part.node]
    return _tags(run(argv, timeout=_TIMEOUT, check=False).text)


def _tags(block: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in block.splitlines())
    return {key: unescaped(value) for key, separator, value in pairs if separator}


def unescaped(value: str) -> str:
    """A value of blkid's export format, in which a backslash stands before what a shell would not take."""
    return _ESCAPED.sub(r"\1", value)
