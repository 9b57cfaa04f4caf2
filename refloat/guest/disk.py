"""A guest's filesystems: mounting those of the root system.

Nothing else of the guest is ever mounted. Mounting even read-only writes to a journalled filesystem, so
whoever only wants to look passes devices that are copy-on-write views (cow.py).
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from refloat.command import run
from refloat.errors import Failed, Refused
from refloat.guest import mounts
from refloat.guest.probe import Found as Found
from refloat.guest.probe import find_filesystems as find_filesystems
from refloat.guest.tree import Tree
from refloat.model import GuestFilesystem, Mount

ROOT_KINDS = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs"})
# What may be mounted. The kind comes from the guest's disk: no other driver gets to see it.
_MOUNT_KINDS = ROOT_KINDS | {"vfat", "ntfs"}

# Mount points of the root system, in the order in which they are mounted. /var is not among them:
# nothing is read or written there, and what is not mounted cannot be damaged.
SYSTEM_MOUNTS = ("/boot", "/usr", "/efi", "/boot/efi")
# Of Windows: its system volume and its EFI system partition, in a directory of the host's.
WINDOWS_MOUNTS = {"/C": "ntfs", "/ESP": "vfat"}

_BLKFLSBUF = 0x1261
_BTRFS_FORGET = 0x50009405  # BTRFS_IOC_FORGET_DEV: int64 fd, char name[4088]
_TIMEOUT = 120
_PATIENCE = 30.0
_SUBVOLUME_INODE = 256  # of the root directory of every btrfs subvolume
_SUBVOLUMES = 64  # looked at
# Never the kernel's ntfs3.
NTFS_DRIVER = "ntfs-3g"
# norecover: a log that Windows did not close holds changes, which recover would throw away.
NTFS_OPTIONS = ("norecover", "windows_names", "streams_interface=none")
_HINT = "the kernel's log (dmesg) says more: it may be damaged, or newer than this kernel knows"
_NO_NTFS = "is ntfs-3g installed? Else shut Windows down fully (shutdown /s /f /t 0) and let it run chkdsk"


class CannotMount(Failed):
    """The kernel here cannot mount a filesystem of the guest: damaged, or with a feature that it lacks."""

    default_code = "guest_filesystem"


def mounts_of(filesystem: GuestFilesystem) -> tuple[Mount, ...]:
    """Where a filesystem is mounted, also in facts that name one place only."""
    if filesystem.mounts or not filesystem.mountpoint:
        return filesystem.mounts
    return (Mount(filesystem.mountpoint),)


def is_system(filesystem: GuestFilesystem) -> bool:
    """Whether any part of the root system lies on it."""
    points = [mount.point for mount in mounts_of(filesystem)]
    return any(
        point in ("/", *SYSTEM_MOUNTS) or WINDOWS_MOUNTS.get(point) == filesystem.kind for point in points
    )


def system_places(filesystems: Sequence[Found]) -> dict[str, tuple[Found, str]]:
    """What is mounted where to make the root system one tree, the root first: mount point -> filesystem and
    subvolume. Raises Refused where no filesystem is the root."""
    places: dict[str, tuple[Found, str]] = {}
    for found in filesystems:
        for mount in mounts_of(found.filesystem):
            places.setdefault(mount.point, (found, mount.subvolume))
    return {point: places[point] for point in layout_of(places) if point in places}


def mount_options(found: Found, subvolume: str, writable: bool) -> list[str]:
    """Those that no guest's filesystem is mounted without. Raises CannotMount for kinds whose driver a
    guest's disk does not get to see."""
    kind = found.filesystem.kind
    if kind not in _MOUNT_KINDS:
        raise CannotMount(
            f"cannot mount {found.describe()} of the guest's system",
            hint=f"supported are {', '.join(sorted(_MOUNT_KINDS))}",
        )
    options = ["rw" if writable else "ro", "nosuid", "nodev", "noexec", "noatime"]
    if kind == "ntfs":
        options += NTFS_OPTIONS
    if kind == "btrfs" and subvolume:
        if "," in subvolume:
            raise CannotMount(f"cannot mount subvolume {subvolume!r} of {found.describe()}")
        options.append(subvolume if subvolume.startswith("subvolid=") else f"subvol={subvolume}")
    return options


def not_plain(point: str) -> Failed:
    return Failed(f"the guest's {point} is no plain directory to mount on", code="guest_file")


# ---------------------------------------------------------------- mounting


@contextmanager
def mounted(found: Found, mountpoint: Path, *, subvolume: str = "", writable: bool = False) -> Iterator[Path]:
    """Mounts one filesystem; it is unmounted however the block ends. `subvolume` is as in Mount.

    A mount left at `mountpoint` by a killed run is removed first. Raises CannotMount if the filesystem
    cannot be mounted, Failed if it cannot be unmounted.
    """
    mounts.clear(mountpoint)
    mountpoint.mkdir(parents=True, exist_ok=True)
    _mount(found, mountpoint, subvolume, writable)
    try:
        yield mountpoint
    finally:
        mounts.unmount(mountpoint)
        _let_go(found)


@contextmanager
def mounted_system(
    filesystems: Sequence[Found], mountpoint: Path, *, writable: bool = False
) -> Iterator[Tree]:
    """The root system's filesystems as one tree: the root first, then those that belong to it.

    `filesystems` are those of the guest with the mount points of its fstab; the others are ignored.
    """
    places = system_places(filesystems)
    mounts.clear(mountpoint)
    mountpoint.mkdir(parents=True, exist_ok=True)
    try:
        for point, (found, subvolume) in places.items():
            _place_for(mountpoint, point)
            where = mountpoint if point == "/" else _inside(mountpoint, point)
            _mount(found, where, subvolume, writable)
        with Tree(mountpoint) as tree:
            yield tree
    finally:
        mounts.clear(mountpoint)
        for point, (found, _) in places.items():
            _let_go(found)
            _remove_place(mountpoint, point)


def layout_of(places: Collection[str]) -> tuple[str, ...]:
    """What is mounted to make up the guest's tree, in order. Raises Refused where its root is not known."""
    if "/" in places:
        return ("/", *SYSTEM_MOUNTS)
    if "/C" in places:
        return tuple(WINDOWS_MOUNTS)
    raise Refused("no filesystem is known to be the guest's root", code="guest_root_missing")


def driver_of(kind: str) -> str:
    """What mounts a filesystem of this kind."""
    return NTFS_DRIVER if kind == "ntfs" else kind


def _place_for(mountpoint: Path, point: str) -> None:
    if point in WINDOWS_MOUNTS:
        (mountpoint / point.lstrip("/")).mkdir(exist_ok=True)


def _remove_place(mountpoint: Path, point: str) -> None:
    if point in WINDOWS_MOUNTS:
        with suppress(FileNotFoundError):  # not made: what came before it could not be mounted
            (mountpoint / point.lstrip("/")).rmdir()


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


def mounted_subvolume(mountpoint: Path) -> tuple[str, str]:
    """Path ("/" for the top level) and number of the btrfs subvolume that is mounted there."""
    where = os.path.realpath(mountpoint)
    path, number = "", ""
    for mount in mounts.table():
        if mount.place == where:
            options = dict(one.partition("=")[::2] for one in mount.options.split(","))
            path, number = options.get("subvol", ""), options.get("subvolid", "")
    return path.strip("/") or "/", number


def subvolumes(path: Path) -> tuple[str, ...]:
    """The names of the btrfs subvolumes at the top level of what is mounted at `path`."""
    with Tree(path) as tree:
        names = tree.listdir("/")[:_SUBVOLUMES]
        return tuple(name for name in names if _is_subvolume(tree.stat(f"/{name}", follow=False)))


def _is_subvolume(status: os.stat_result | None) -> bool:
    return status is not None and stat.S_ISDIR(status.st_mode) and status.st_ino == _SUBVOLUME_INODE


def _inside(mountpoint: Path, inner: str) -> Path:
    """The host's path of the guest directory `inner`, which must be a real directory, not a symlink."""
    with Tree(mountpoint) as tree:
        if not tree.is_directory(inner) or tree.real(inner) != inner:
            raise not_plain(inner)
    return mountpoint / inner.lstrip("/")


def _mount(found: Found, mountpoint: Path, subvolume: str, writable: bool) -> None:
    options = [*mount_options(found, subvolume, writable), *_local_options(found)]
    _forget(found)
    kind = found.filesystem.kind
    with as_node(found) as node:
        # -w: never read-only instead.
        argv = ["mount", *(["-w"] if writable else []), "-t", driver_of(kind)]
        argv += ["-o", ",".join(options), node, str(mountpoint)]
        done = run(argv, timeout=_TIMEOUT, check=False)
    if done.returncode != 0:
        reason = done.stderr.decode(errors="replace").strip()
        raise CannotMount(
            f"cannot mount {found.describe()}: {reason}",
            hint=_NO_NTFS if kind == "ntfs" else _HINT,
        )
    if writable and os.statvfs(mountpoint).f_flag & os.ST_RDONLY:
        # ntfs-3g does so with a hibernated Windows, and calls it a success.
        mounts.unmount(mountpoint)
        raise CannotMount(f"{found.describe()} can only be mounted read-only", hint=_NO_NTFS)


@contextmanager
def as_node(found: Found) -> Iterator[str]:
    """A block device to mount; a part of an image gets a loop device, which goes with its mount.

    Always one that takes writes: for a read-only mount mount(8) would make one that does not, and then the
    log of a guest that was switched off hard could not be replayed.
    """
    if found.is_node():
        yield found.node
        return
    _wait_for_others(found)
    size = ["--sizelimit", str(found.size)] if found.size else []
    argv = ["losetup", "--find", "--show", "--offset", str(found.offset), *size, found.node]
    node = run(argv, timeout=_TIMEOUT).text
    try:
        yield node
    finally:
        run(["losetup", "--detach", node], timeout=_TIMEOUT)


def _let_go(found: Found) -> None:
    """Returns when nothing holds the image any more: a filesystem in user space closes its device a moment
    after it was unmounted, and whoever shows the image must go on serving it until then."""
    _forget(found)
    if not found.is_node():
        _wait_for_others(found)


def _wait_for_others(found: Found) -> None:
    """Two loop devices on one filesystem would be two filesystems on the same bytes. One that was mounted
    until now is freed a moment later."""
    deadline = time.monotonic() + _PATIENCE
    while others := [row["name"] for row in _loops(found.node) if _overlap(found, row)]:
        if time.monotonic() > deadline:
            raise CannotMount(
                f"cannot mount {found.describe()}: it is in use by {', '.join(others)}",
                hint="see `losetup --list` and `findmnt`",
            )
        time.sleep(0.1)


def _loops(image: str) -> list[dict[str, Any]]:
    argv = ["losetup", "--list", "--json", "--output", "NAME,OFFSET,SIZELIMIT", "--associated", image]
    text = run(argv, timeout=_TIMEOUT).text
    return list(json.loads(text)["loopdevices"]) if text else []


def _overlap(found: Found, row: dict[str, Any]) -> bool:
    start, size = int(row["offset"]), int(row["sizelimit"])  # a size of 0 is all the rest
    before = size and start + size <= found.offset
    behind = found.size and found.offset + found.size <= start
    return not (before or behind)


def _local_options(found: Found) -> list[str]:
    """What this machine's kernel needs besides."""
    kind = found.filesystem.kind
    if kind == "xfs" and any(mount.kind == "xfs" for mount in mounts.table()):
        # A clone of a mounted filesystem has its UUID, which the kernel would refuse.
        return ["nouuid"]
    if kind == "btrfs" and found.members and not found.is_node():
        raise CannotMount(f"cannot mount {found.describe()}, which has several devices, from images")
    return [f"device={node}" for node in found.members] if kind == "btrfs" else []


def _forget(found: Found) -> None:
    """btrfs remembers devices by UUID; one that was turned back to an older state would then be refused."""
    if found.filesystem.kind != "btrfs" or not found.is_node():
        return
    for node in (found.node, *found.members):
        name = os.fsencode(os.path.realpath(node))
        with suppress(OSError), open("/dev/btrfs-control", "rb") as control:
            # A bytearray: of bytes, ioctl takes no more than 1024.
            fcntl.ioctl(control, _BTRFS_FORGET, bytearray(bytes(8) + name.ljust(4088, b"\0")))
