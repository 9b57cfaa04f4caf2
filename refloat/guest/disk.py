"""A guest's disks: which filesystems are on them, and mounting those of the root system.

Nothing else of the guest is ever mounted. Mounting even read-only writes to a journalled filesystem, so
whoever only wants to look passes devices that are copy-on-write views (cow.py).
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from refloat.command import CommandFailed, run
from refloat.errors import Failed, Refused
from refloat.guest.tree import Tree
from refloat.model import GuestFilesystem

ROOT_KINDS = frozenset({"ext2", "ext3", "ext4"})
# What may be mounted below the root. The kind comes from the guest's disk: no other driver gets to see it.
_MOUNT_KINDS = ROOT_KINDS | {"vfat"}

# Mount points of the root system, in the order in which they are mounted. /var is not among them:
# nothing is read or written there, and what is not mounted cannot be damaged.
SYSTEM_MOUNTS = ("/boot", "/usr", "/boot/efi")

_BLKFLSBUF = 0x1261
_TIMEOUT = 120


@dataclass(frozen=True)
class Found:
    """A filesystem (or swap area) and where it is: a device node, or a part of one from `offset` on."""

    filesystem: GuestFilesystem
    node: str
    offset: int = 0
    size: int = 0
    partuuid: str = ""

    def describe(self) -> str:
        one = self.filesystem
        return f"{one.disk} partition {one.partition}: {one.kind or 'nothing known'}"


# ---------------------------------------------------------------- finding filesystems


@dataclass(frozen=True)
class _Part:
    disk: str
    number: int  # 0: the whole disk
    node: str
    offset: int = 0
    size: int = 0
    partuuid: str = ""


def find_filesystems(devices: Mapping[str, str]) -> tuple[Found, ...]:
    """What is on each disk (key -> device node or raw image), by probing, without mounting anything.

    Partitions whose node the kernel did not make (a kernel without partition parsers, an image file)
    are reached by their offset.
    """
    parts = [part for disk, node in devices.items() for part in _parts(disk, node)]
    known = _probe([part.node for part in parts if not part.offset])
    found = []
    for part in parts:
        tags = known.get(part.node, {}) if not part.offset else _probe_at(part)
        kind = tags.get("TYPE", "")
        filesystem = GuestFilesystem(
            part.disk, part.number, kind, tags.get("UUID", ""), tags.get("LABEL", "")
        )
        found.append(
            Found(filesystem, part.node, part.offset, part.size, tags.get("PART_ENTRY_UUID", part.partuuid))
        )
    return tuple(found)


def _parts(disk: str, node: str) -> list[_Part]:
    try:
        is_block = stat.S_ISBLK(os.stat(node).st_mode)
    except OSError as error:
        raise Refused(f"there is no disk {disk} at {node}: {error.strerror}", code="disk_missing") from error
    if is_block:
        numbered = _kernel_partitions(node)
        if numbered:
            return [_Part(disk, number, name) for number, name in numbered]
    return [_Part(disk, *row) for row in _table(node)] or [_Part(disk, 0, node)]


def _kernel_partitions(node: str) -> list[tuple[int, str]]:
    name = os.path.basename(os.path.realpath(node))
    base = Path("/sys/class/block") / name
    found = []
    for entry in base.glob(f"{name}*/partition"):
        found.append((int(entry.read_text()), f"/dev/{entry.parent.name}"))
    return sorted(found)


def _table(node: str) -> list[tuple[int, str, int, int, str]]:
    """Number, `node`, offset and size in bytes, and PARTUUID of each partition that its table lists."""
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
            rows.append((int(number), node, start, size, uuid.lower()))
    return rows


def _probe(nodes: Sequence[str]) -> dict[str, dict[str, str]]:
    # One process for all: under emulation each costs tens of milliseconds. The status only says that
    # one of them holds nothing that is known.
    if not nodes:
        return {}
    done = run(["blkid", "-p", "-o", "export", *nodes], timeout=_TIMEOUT, check=False)
    blocks = (_tags(block) for block in done.text.split("\n\n"))
    return {tags["DEVNAME"]: tags for tags in blocks if "DEVNAME" in tags}


def _probe_at(part: _Part) -> dict[str, str]:
    argv = ["blkid", "-p", "-o", "export", "-O", str(part.offset), "-S", str(part.size), part.node]
    return _tags(run(argv, timeout=_TIMEOUT, check=False).text)


def _tags(block: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in block.splitlines())
    return {key: _unescaped(value) for key, separator, value in pairs if separator}


def _unescaped(value: str) -> str:
    return value.replace("\\ ", " ").replace("\\\\", "\\")


# ---------------------------------------------------------------- mounting


@contextmanager
def mounted(found: Found, mountpoint: Path, *, writable: bool = False) -> Iterator[Path]:
    """Mounts one filesystem; it is unmounted however the block ends.

    A mount left at `mountpoint` by a killed run is removed first. Raises Failed if the filesystem
    cannot be mounted or unmounted.
    """
    _clear(mountpoint)
    mountpoint.mkdir(parents=True, exist_ok=True)
    _mount(found, mountpoint, writable)
    try:
        yield mountpoint
    finally:
        _unmount(mountpoint)


@contextmanager
def mounted_system(
    filesystems: Sequence[Found], mountpoint: Path, *, writable: bool = False
) -> Iterator[Tree]:
    """The root system's filesystems as one tree: the root first, then those that belong to it.

    `filesystems` are those of the guest with the mount points of its fstab; the others are ignored.
    """
    by_mountpoint = {found.filesystem.mountpoint: found for found in filesystems}
    if "/" not in by_mountpoint:
        raise Refused("no filesystem is known to be the guest's root", code="guest_root_missing")
    _clear(mountpoint)
    mountpoint.mkdir(parents=True, exist_ok=True)
    try:
        _mount(by_mountpoint["/"], mountpoint, writable)
        for inner in SYSTEM_MOUNTS:
            if inner in by_mountpoint:
                _mount(by_mountpoint[inner], _inside(mountpoint, inner), writable)
        with Tree(mountpoint) as tree:
            yield tree
    finally:
        _clear(mountpoint)


def flush(devices: Mapping[str, str]) -> None:
    """Everything written is on the disks, and the kernel's buffers hold nothing of them any more."""
    for node in devices.values():
        fd = os.open(node, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
            if stat.S_ISBLK(os.fstat(fd).st_mode):
                fcntl.ioctl(fd, _BLKFLSBUF, 0)
        finally:
            os.close(fd)


def _inside(mountpoint: Path, inner: str) -> Path:
    """The host's path of the guest directory `inner`, which must be a real directory, not a symlink."""
    with Tree(mountpoint) as tree:
        if not tree.is_directory(inner) or tree.real(inner) != inner:
            raise Failed(f"the guest's {inner} is no plain directory to mount on", code="guest_file")
    return mountpoint / inner.lstrip("/")


def _mount(found: Found, mountpoint: Path, writable: bool) -> None:
    if found.filesystem.kind not in _MOUNT_KINDS:
        raise Refused(f"cannot mount {found.describe()} of the guest's system", code="guest_filesystem")
    options = ["rw" if writable else "ro", "nosuid", "nodev", "noexec", "noatime"]
    if found.offset or not stat.S_ISBLK(os.stat(found.node).st_mode):
        options.append("loop")
        if found.offset:
            options += [f"offset={found.offset}", f"sizelimit={found.size}"]
    argv = ["mount", "-t", found.filesystem.kind, "-o", ",".join(options), found.node, str(mountpoint)]
    for _ in range(20):
        done = run(argv, timeout=_TIMEOUT, check=False)
        # A loop device is freed some time after its last mount; until then its image counts as busy.
        if done.returncode == 0 or "loop" not in options or b"busy" not in done.stderr:
            break
        time.sleep(0.2)
    if done.returncode != 0:
        raise CommandFailed(argv, done.returncode, done.stderr)


def _unmount(mountpoint: Path) -> None:
    """Unmounts; a mount that stays busy is an error, never a lazy unmount: writes could come later."""
    message = ""
    for attempt in range(5):
        done = run(["umount", str(mountpoint)], timeout=_TIMEOUT, check=False)
        if done.returncode == 0:
            return
        message = done.stderr.decode(errors="replace").strip()
        time.sleep(0.2 * (attempt + 1))
    raise Failed(
        f"cannot unmount the guest's filesystem at {mountpoint}: {message}",
        code="guest_unmount",
        hint=f"see who uses it (fuser -vm {mountpoint}), unmount it and run adapt again",
    )


def _clear(mountpoint: Path) -> None:
    """Unmounts everything at and below `mountpoint`, the innermost first."""
    for path in reversed(_mounts_at(os.path.realpath(mountpoint))):
        _unmount(Path(path))


def _mounts_at(path: str) -> list[str]:
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        where = line.split()[4].encode().decode("unicode_escape")
        if where == path or where.startswith(f"{path}/"):
            found.append(where)
    return found
