"""What a guest's kernel makes of partitions: md arrays, opened LUKS containers, logical volumes.

Activated here over the guest's own nodes alone, named one by one to each tool, whatever else the machine
has. Arrays start without resync and stay unwritten until something mounted on them is written. All is
taken down again when the block ends, and what a killed run left behind when the next one starts.

Passphrases go to cryptsetup's standard input and nowhere else.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from refloat.command import Completed, run
from refloat.errors import Refused
from refloat.guest import leftovers
from refloat.guest.linux.storage.names import lv_name
from refloat.guest.linux.storage.raid import digits
from refloat.guest.probe import Found, find_filesystems, joined_btrfs, kernel_partitions, probe
from refloat.model import GuestFilesystem

RAID, LUKS, LVM = "linux_raid_member", "crypto_LUKS", "LVM2_member"

_SYS = Path("/sys")
_TIMEOUT = 300
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_LVM_NAME = re.compile(r"[A-Za-z0-9+_.][A-Za-z0-9+_.-]*")
# --devices names what LVM may see; the rest keeps it from remembering, waiting for and starting anything.
_LVM_CONFIG = (
    "devices { use_devicesfile=0 obtain_device_list_from_udev=0 external_device_info_source=none } "
    "devices { hints=none } "
    # The check of a thin pool is the guest's own at its boot.
    'global { thin_check_executable="" cache_check_executable="" } '
    "global { event_activation=0 use_lvmpolld=0 } activation { monitoring=0 } "
    "backup { backup=0 archive=0 }"
)


@dataclass(frozen=True)
class Volumes:
    """`closed` says in words what could not be activated, and why: no reason to stop unless it is needed."""

    found: tuple[Found, ...]
    closed: tuple[str, ...] = ()


@contextmanager
def opened(devices: Mapping[str, str], keys: Mapping[str, str] | None = None) -> Iterator[Volumes]:
    """Everything on these disks, with the volumes made of their parts; `keys` are passphrases by the UUID of
    the LUKS container.

    Raises Refused for a passphrase that opens nothing, and where something else uses the disks; Failed if
    the volumes cannot be taken down in the end.
    """
    leftovers.drop()
    layers = _Layers(
        list(find_filesystems(devices)), {key.casefold(): one for key, one in (keys or {}).items()}
    )
    try:
        layers.open()
        yield Volumes(joined_btrfs(layers.found), tuple(layers.closed))
    finally:
        layers.record.take_down()


@dataclass
class _Layers:
    found: list[Found]
    keys: Mapping[str, str]
    closed: list[str] = field(default_factory=list)
    record: leftovers.Record = field(default_factory=leftovers.Record)
    _tried: set[str] = field(default_factory=set)
    _nodes: dict[str, str] = field(default_factory=dict)

    def open(self) -> None:
        """Layer by layer: arrays and containers first, as a volume group may lie on several of them."""
        while fresh := self._arrays() or self._containers() or self._groups():
            self.found += fresh

    def _untried(self, kind: str) -> list[Found]:
        found = [one for one in self.found if one.filesystem.kind == kind and _place(one) not in self._tried]
        self._tried.update(_place(one) for one in found)
        return found

    # -------------------------------------------------------- md

    def _arrays(self) -> list[Found]:
        groups: dict[str, list[Found]] = {}
        for one in self._untried(RAID):
            groups.setdefault(one.filesystem.uuid, []).append(one)
        return [volume for uuid, members in groups.items() for volume in self._array(uuid, members)]

    def _array(self, uuid: str, members: list[Found]) -> list[Found]:
        what = f"the md array on {', '.join(one.describe() for one in members)}"
        if not self._possible(what, "mdadm", "md_mod", _SYS / "module/md_mod"):
            return []
        number = next(n for n in range(127, 0, -1) if not (_SYS / f"class/block/md{n}").exists())
        node = f"/dev/md{number}"
        nodes = [self._node(one) for one in members]
        argv = ["mdadm", "--assemble", "--readonly", "--config=none", node, *nodes]
        done = run(argv, timeout=_TIMEOUT, check=False)
        state = _SYS / f"class/block/md{number}/md"
        if done.returncode != 0 or not (state / "array_state").exists():
            run(["mdadm", "--stop", node], timeout=_TIMEOUT, check=False)
            self.closed.append(f"{what} does not start: {_said(done)}")
            return []
        # Frozen, no resync starts by itself; linear and striped arrays have none and do not take the word.
        with suppress(OSError):
            (state / "sync_action").write_text("frozen")
        (state / "array_state").write_text("read-auto")
        volume, names = array_names(uuid, members[0].filesystem.label)
        return self._volumes(node, volume, names, members)

    # -------------------------------------------------------- LUKS

    def _containers(self) -> list[Found]:
        return [volume for one in self._untried(LUKS) for volume in self._container(one)]

    def _container(self, one: Found) -> list[Found]:
        uuid = one.filesystem.uuid.casefold()
        what = f"the LUKS container {uuid} on {one.describe()}"
        key = self.keys.get(uuid)
        if key is None or not is_uuid(uuid):
            self.closed.append(f"{what} stays closed: there is no passphrase for it")
            return []
        if not self._possible(what, "cryptsetup", "dm_mod", _SYS / "class/misc/device-mapper"):
            return []
        name = f"refloat-{uuid}"
        argv = [
            "cryptsetup",
            "open",
            "--type",
            "luks",
            "--batch-mode",
            "--key-file",
            "-",
            self._node(one),
            name,
        ]
        done = run(argv, input=key.encode(), timeout=_TIMEOUT, check=False)
        if done.returncode == 2:
            raise Refused(
                f"the passphrase for {what} opens none of its key slots",
                code="luks_key_wrong",
                hint="give the passphrase of one of its key slots, without a newline",
            )
        node = _mapped(name)
        if done.returncode != 0 or not node:
            hint = (
                "; the controller needs as much memory as its key slot (1 GiB)"
                if done.returncode == 3
                else ""
            )
            self.closed.append(f"{what} cannot be opened: {_said(done)}{hint}")
            return []
        return self._volumes(node, f"/dev/mapper/luks-{uuid}", (), [one])

    # -------------------------------------------------------- LVM

    def _groups(self) -> list[Found]:
        parts = self._untried(LVM)
        what = f"LVM on {', '.join(one.describe() for one in parts)}"
        if not parts or not self._possible(what, "lvm", "dm_mod", _SYS / "class/misc/device-mapper"):
            return []
        # Groups may have parts on what was open before.
        every = [one for one in self.found if one.filesystem.kind == LVM]
        scope = ["--config", _LVM_CONFIG, "--devices", ",".join(self._node(one) for one in every)]
        groups = _report("vgs", "vg_name,vg_uuid,vg_missing_pv_count", scope)
        if not groups:
            self.closed.append(f"{what}: no volume group can be read")
        volumes = []
        for row in groups:
            name = row["vg_name"]
            if sum(other["vg_name"] == name for other in groups) > 1:
                self.closed.append(f"{what}: two volume groups are called {name}")
            elif not _LVM_NAME.fullmatch(name):
                self.closed.append(f"{what}: there is a volume group with an impossible name")
            else:
                volumes += self._group(row, scope, every)
        return volumes

    def _group(self, group: Mapping[str, str], scope: list[str], parts: Sequence[Found]) -> list[Found]:
        name = group["vg_name"]
        if group["vg_missing_pv_count"] not in ("", "0"):
            self.closed.append(
                f"volume group {name} lacks {group['vg_missing_pv_count']} of its physical volumes"
            )
        rows = _report("lvs", "lv_name,lv_uuid,lv_attr", [*scope, name])
        if any(row["lv_attr"][:1] in ("O", "S") for row in rows):
            self.closed.append(f"volume group {name}: a snapshot waits to be merged when it is activated")
            return []
        done = run(["lvm", "vgchange", *scope, "--activate", "y", name], timeout=_TIMEOUT, check=False)
        if done.returncode != 0:
            self.closed.append(f"volume group {name} does not start as a whole: {_said(done)}")
        volumes = []
        known = {one.filesystem.volume for one in self.found}
        for row in rows:
            if f"/dev/{name}/{row['lv_name']}" in known:
                continue
            node = _mapped(lv_name(name, row["lv_name"]))
            # A snapshot has the UUID of its origin, a pool no content of its own.
            if node and row["lv_attr"][:1] not in ("s", "t", "d"):
                uuids = f"{group['vg_uuid']}{row['lv_uuid']}".replace("-", "")
                names = (
                    f"/dev/mapper/{lv_name(name, row['lv_name'])}",
                    f"/dev/disk/by-id/dm-uuid-LVM-{uuids}",
                )
                volumes += self._volumes(node, f"/dev/{name}/{row['lv_name']}", names, parts)
        return volumes

    # -------------------------------------------------------- all of them

    def _possible(self, what: str, program: str, module: str, shown: Path) -> bool:
        """Whether this machine can activate such a thing at all; if not, that is noted."""
        if not shown.exists() and shutil.which("modprobe"):
            run(["modprobe", module], timeout=_TIMEOUT, check=False)
        lacks = "" if shown.exists() else f"this kernel has no {module}"
        if not shutil.which(program):
            lacks = f"{program} is not installed here"
        if lacks:
            self.closed.append(f"{what} stays closed: {lacks} (the controller has it)")
        return not lacks

    def _node(self, one: Found) -> str:
        """The block device to build on, recorded; a part of an image gets a loop device."""
        if _place(one) in self._nodes:
            return self._nodes[_place(one)]
        if one.is_node():
            held = leftovers.holders(one.node)
            if held:
                raise Refused(
                    f"{one.describe()} is in use on this machine: {', '.join(held)}",
                    code="guest_disk_busy",
                    hint="take down what stands on the guest's disks",
                )
            node, loop = one.node, False
        else:
            size = ["--sizelimit", str(one.size)] if one.size else []
            argv = ["losetup", "--find", "--show", "--offset", str(one.offset), *size, one.node]
            node, loop = run(argv, timeout=_TIMEOUT).text, True
        if not one.filesystem.volume:
            self.record.add(node, loop=loop)
        self._nodes[_place(one)] = node
        return node

    def _volumes(self, node: str, volume: str, names: Sequence[str], below: Sequence[Found]) -> list[Found]:
        """The new device, or its partitions if it has some. Its place is that of its first part."""
        first = self._first(node, below).filesystem
        joint = "p" if volume[-1:].isdigit() else ""
        parts = [(one, f"{volume}{joint}{number}") for number, one in kernel_partitions(node)]
        rows = parts or [(node, volume)]
        known = probe([one for one, _ in rows])
        result = []
        for one, called in rows:
            tags = known.get(one, {})
            filesystem = GuestFilesystem(
                first.disk,
                first.partition,
                tags.get("TYPE", ""),
                tags.get("UUID", ""),
                tags.get("LABEL", ""),
                volume=called,
                names=() if parts else tuple(names),
            )
            result.append(Found(filesystem, one, sub=tags.get("UUID_SUB", "")))
        return result

    def _first(self, node: str, below: Sequence[Found]) -> Found:
        bases = set(_bases(node.rpartition("/")[2]))
        return next((one for one in below if self._bases_of(one) & bases), below[0])

    def _bases_of(self, one: Found) -> set[str]:
        return set(_bases(self._nodes.get(_place(one), one.node).rpartition("/")[2]))


def _place(one: Found) -> str:
    return f"{one.node}@{one.offset}"


def is_uuid(text: str) -> bool:
    return bool(_UUID.fullmatch(text))


def array_names(uuid: str, label: str) -> tuple[str, tuple[str, ...]]:
    """The guest's name of an array, and others. Its superblock has "host:name"; that of 0.90 has none."""
    plain = digits(uuid)
    by_id = "md-uuid-" + ":".join(plain[at : at + 8] for at in range(0, 32, 8))
    name = label.rpartition(":")[2]
    if not name or "/" in name:
        return f"/dev/disk/by-id/{by_id}", ()
    also = (f"/dev/md{name}",) if name.isdigit() else ()
    return f"/dev/md/{name}", (*also, f"/dev/disk/by-id/{by_id}", f"/dev/disk/by-id/md-name-{label}")


def _report(command: str, fields: str, arguments: list[str]) -> list[dict[str, str]]:
    argv = ["lvm", command, "--reportformat", "json", "-o", fields, *arguments]
    done = run(argv, timeout=_TIMEOUT, check=False)
    try:
        rows = json.loads(done.stdout)["report"][0][command.removesuffix("s")]
    except (ValueError, LookupError):
        return []
    return [{key: str(value) for key, value in row.items()} for row in rows]


def _mapped(name: str) -> str:
    """The node of a device of the device mapper. Its symlink below /dev/mapper is udev's, and comes later."""
    for entry in sorted((_SYS / "class/block").glob("dm-*/dm/name")):
        with suppress(OSError):
            if entry.read_text().strip() == name:
                return f"/dev/{entry.parent.parent.name}"
    return ""


def _bases(name: str) -> Iterator[str]:
    """The kernel's names of a device and of all on which it stands."""
    yield name
    with suppress(OSError):
        for slave in sorted((_SYS / "class/block" / name / "slaves").iterdir()):
            yield from _bases(slave.name)


def _said(done: Completed) -> str:
    return " ".join(done.stderr.decode(errors="replace").split()) or f"status {done.returncode}"


def renamed(found: Found, volume: str, *names: str) -> Found:
    """The same under the name that the guest's own files give it."""
    before = found.filesystem
    others = tuple(dict.fromkeys((before.volume, *before.names, *names)))
    filesystem = replace(before, volume=volume, names=tuple(one for one in others if one != volume))
    return replace(found, filesystem=filesystem)
