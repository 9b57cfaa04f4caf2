"""A guest's filesystems: mounting those of the root system.

Nothing else of the guest is ever mounted. Mounting even read-only writes to a journalled filesystem, so
whoever only wants to look passes devices that are copy-on-write views (cow.py).
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from refloat.command import run
from refloat.errors import Failed, Refused
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
_SUBVOLUME_INODE = 256  # of the root directory of every btrfs subvolume
_SUBVOLUMES = 64  # looked at
# Never the kernel's ntfs3.
NTFS_DRIVER = "ntfs-3g"
# norecover: a log that Windows did not close holds changes, which recover would throw away.
NTFS_OPTIONS = ("norecover", "windows_names", "streams_interface=none")
_HINT = "the kernel's log (dmesg) says more: it may be damaged, or newer than this kernel knows"
_NO_NTFS = "is ntfs-3g installed? Else shut Windows down fully (shutdown /s /f /t 0) and let it run chkdsk"
_BUSY = re.compile(rb"busy|Read-only file system|write-protected")
_OCTAL = re.compile(r"\\([0-7]{3})")


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


# ---------------------------------------------------------------- mounting


@contextmanager
def mounted(found: Found, mountpoint: Path, *, subvolume: str = "", writable: bool = False) -> Iterator[Path]:
    """Mounts one filesystem; it is unmounted however the block ends. `subvolume` is as in Mount.

    A mount left at `mountpoint` by a killed run is removed first. Raises CannotMount if the filesystem
    cannot be mounted, Failed if it cannot be unmounted.
    """
    _clear(mountpoint)
    mountpoint.mkdir(parents=True, exist_ok=True)
    _mount(found, mountpoint, subvolume, writable)
    try:
        yield mountpoint
    finally:
        _unmount(mountpoint)
        _forget(found)


@contextmanager
def mounted_system(
    filesystems: Sequence[Found], mountpoint: Path, *, writable: bool = False
) -> Iterator[Tree]:
    """The root system's filesystems as one tree: the root first, then those that belong to it.

    `filesystems` are those of the guest with the mount points of its fstab; the others are ignored.
    """
    places: dict[str, tuple[Found, str]] = {}
    for found in filesystems:
        for mount in mounts_of(found.filesystem):
            places.setdefault(mount.point, (found, mount.subvolume))
    layout = layout_of(places)
    _clear(mountpoint)
    mountpoint.mkdir(parents=True, exist_ok=True)
    points = [point for point in layout if point in places]
    try:
        for point in points:
            found, subvolume = places[point]
            _place_for(mountpoint, point)
            where = mountpoint if point == "/" else _inside(mountpoint, point)
            _mount(found, where, subvolume, writable)
        with Tree(mountpoint) as tree:
            yield tree
    finally:
        _clear(mountpoint)
        for point in points:
            _forget(places[point][0])
            _remove_place(mountpoint, point)


def layout_of(places: Collection[str]) -> tuple[str, ...]:
    """What is mounted to make up the guest's tree, in order. Raises Refused where its root is not known."""
    if "/" in places:
        return ("/", *SYSTEM_MOUNTS)
    if "/C" in places:
        return tuple(WINDOWS_MOUNTS)
    raise Refused("no filesystem is known to be the guest's root", code="guest_root_missing")


def _place_for(mountpoint: Path, point: str) -> None:
    if point in WINDOWS_MOUNTS:
        (mountpoint / point.lstrip("/")).mkdir(exist_ok=True)


def _remove_place(mountpoint: Path, point: str) -> None:
    if point in WINDOWS_MOUNTS:
        with suppress(FileNotFoundError):  # an earlier mount failed
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
    for fields in _mountinfo():
        if _decoded(fields[4]) == where:
            options = dict(one.partition("=")[::2] for one in fields[-1].split(","))
            path, number = _decoded(options.get("subvol", "")), options.get("subvolid", "")
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
            raise Failed(f"the guest's {inner} is no plain directory to mount on", code="guest_file")
    return mountpoint / inner.lstrip("/")


def _mount(found: Found, mountpoint: Path, subvolume: str, writable: bool) -> None:
    options = _options(found, subvolume, writable)
    _forget(found)
    # -w: never read-only instead, as mount does with a loop device that is left from a read-only mount.
    kind = found.filesystem.kind
    argv = ["mount", *(["-w"] if writable else []), "-t", NTFS_DRIVER if kind == "ntfs" else kind]
    argv += ["-o", ",".join(options), found.node, str(mountpoint)]
    for _ in range(20):
        done = run(argv, timeout=_TIMEOUT, check=False)
        # A loop device is freed some time after its last mount; until then its image counts as busy.
        if done.returncode == 0 or "loop" not in options or not _BUSY.search(done.stderr):
            break
        time.sleep(0.2)
    if done.returncode != 0:
        reason = done.stderr.decode(errors="replace").strip()
        raise CannotMount(
            f"cannot mount {found.describe()}: {reason}",
            hint=_NO_NTFS if kind == "ntfs" else _HINT,
        )
    if writable and os.statvfs(mountpoint).f_flag & os.ST_RDONLY:
        # ntfs-3g does so with a hibernated Windows, and calls it a success.
        _unmount(mountpoint)
        raise CannotMount(f"{found.describe()} can only be mounted read-only", hint=_NO_NTFS)


def _options(found: Found, subvolume: str, writable: bool) -> list[str]:
    kind = found.filesystem.kind
    if kind not in _MOUNT_KINDS:
        raise CannotMount(
            f"cannot mount {found.describe()} of the guest's system",
            hint=f"supported are {', '.join(sorted(_MOUNT_KINDS))}",
        )
    options = ["rw" if writable else "ro", "nosuid", "nodev", "noexec", "noatime"]
    if kind == "ntfs":
        options += NTFS_OPTIONS
    if not found.is_node():
        options.append("loop")
        if found.offset:
            options += [f"offset={found.offset}", f"sizelimit={found.size}"]
    if kind == "xfs" and any(fields[-3] == "xfs" for fields in _mountinfo()):
        # A clone of a mounted filesystem has its UUID, which the kernel would refuse.
        options.append("nouuid")
    if kind == "btrfs":
        if "," in subvolume or (found.members and "loop" in options):
            raise CannotMount(f"cannot mount subvolume {subvolume!r} of {found.describe()}")
        options += [f"device={node}" for node in found.members]
        if subvolume:
            options.append(subvolume if subvolume.startswith("subvolid=") else f"subvol={subvolume}")
    return options


def _forget(found: Found) -> None:
    """btrfs remembers devices by UUID; one that was turned back to an older state would then be refused."""
    if found.filesystem.kind != "btrfs" or not found.is_node():
        return
    for node in (found.node, *found.members):
        name = os.fsencode(os.path.realpath(node))
        with suppress(OSError), open("/dev/btrfs-control", "rb") as control:
            # A bytearray: of bytes, ioctl takes no more than 1024.
            fcntl.ioctl(control, _BTRFS_FORGET, bytearray(bytes(8) + name.ljust(4088, b"\0")))


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
    places = (_decoded(fields[4]) for fields in _mountinfo())
    return [where for where in places if where == path or where.startswith(f"{path}/")]


def _mountinfo() -> list[list[str]]:
    """The fields of each mount: the place is the fifth; kind, source and options are the last three."""
    return [line.split(" ") for line in Path("/proc/self/mountinfo").read_text().splitlines()]


def _decoded(field: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), field)
