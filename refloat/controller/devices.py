"""The replica disks as the controller's kernel shows them, found by the serial of virtio-blk."""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from refloat.controller.paths import Paths
from refloat.errors import NotFound
from refloat.guest import mounts

_SECTOR = 512  # of /sys/block/*/size, whatever the device's own sectors are
_BLKFLSBUF = 0x1261
_READ = 1 << 20


def data_disks(paths: Paths) -> dict[str, tuple[str, int]]:
    """Serial -> (device, size in bytes). The controller's own disk may be among them; nobody asks for it."""
    found = {}
    for name in sorted(os.listdir(paths.sys_block)):
        if not name.startswith("vd"):
            continue
        block = Path(paths.sys_block, name)
        try:
            serial = (block / "serial").read_text().strip()
            size = int((block / "size").read_text()) * _SECTOR
        except OSError:
            continue
        if serial:
            found[serial] = (os.path.join(paths.dev, name), size)
    return found


def find_disk(paths: Paths, serial: str) -> tuple[str, int]:
    """Raises NotFound naming the serials that are there."""
    disks = data_disks(paths)
    if serial not in disks:
        raise NotFound(
            f"no disk with serial {serial!r} is attached to the controller",
            code="disk_missing",
            hint=f"attached: {', '.join(disks) or 'none'}; attach the replica disk with this serial",
        )
    return disks[serial]


def sha256_of(device: str, progress: Callable[[dict[str, Any]], None] | None = None) -> str:
    digest = hashlib.sha256()
    done = 0
    with open(device, "rb", buffering=0) as file:
        while block := file.read(_READ):
            digest.update(block)
            done += len(block)
            if progress and done % (64 * _READ) == 0:
                progress({"phase": "hashing", "device": device, "bytes_done": done})
    return digest.hexdigest()


def flush_device(device: str) -> None:
    """Everything that was written is on the disk, and the next reader reads the disk, not the cache."""
    fd = os.open(device, os.O_RDWR)
    try:
        os.fsync(fd)
        if stat.S_ISBLK(os.fstat(fd).st_mode):
            fcntl.ioctl(fd, _BLKFLSBUF, 0)
    finally:
        os.close(fd)


def read_direct(device: str, offset: int, length: int) -> bytes:
    """What the disk itself has there: past the page cache. `offset` and `length` are multiples of 4096."""
    import mmap

    flags = os.O_RDONLY | (os.O_DIRECT if stat.S_ISBLK(os.stat(device).st_mode) else 0)
    fd = os.open(device, flags)
    try:
        with mmap.mmap(-1, length) as buffer:  # page-aligned, as O_DIRECT wants it
            got = os.preadv(fd, [buffer], offset)
            return buffer[:got]
    finally:
        os.close(fd)


def read_cached(device: str, offset: int, length: int) -> bytes:
    fd = os.open(device, os.O_RDONLY)
    try:
        return os.pread(fd, length, offset)
    finally:
        os.close(fd)


def holders(device: str) -> list[str]:
    """What uses this device: processes that have it open, mounts, and devices stacked on it."""
    found = [f"process {pid}" for pid in _processes_with(device)]
    found += [f"mount {mount.place}" for mount in mounts.table() if mount.source.startswith(device)]
    stacked = Path("/sys/block", os.path.basename(device), "holders")
    if stacked.is_dir():
        found += [f"device {name}" for name in sorted(os.listdir(stacked))]
    return found


def _processes_with(device: str) -> list[str]:
    return [pid for pid in filter(str.isdigit, os.listdir("/proc")) if device in _open_files(pid)]


def _open_files(pid: str) -> Iterator[str]:
    with suppress(OSError):  # ended meanwhile
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):  # closed meanwhile
                yield os.readlink(f"/proc/{pid}/fd/{fd}")
