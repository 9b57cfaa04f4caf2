"""Who opens and mounts a guest's disks: this machine's kernel, or another that hostile disks may meet."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from refloat.guest import disk, stack
from refloat.guest.probe import Found
from refloat.guest.stack import Volumes
from refloat.guest.tree import Tree
from refloat.guest.windows.repair import repair


class Host(Protocol):
    """As the functions of stack.py, disk.py and windows/repair.py with these names. `read` gives bytes of a
    filesystem's own device, from `offset` of the filesystem on. `runs_guest_code`: whether programs of the
    guest could be run on what is mounted."""

    @property
    def runs_guest_code(self) -> bool: ...

    def opened(
        self, devices: Mapping[str, str], keys: Mapping[str, str] | None = None
    ) -> AbstractContextManager[Volumes]: ...

    def mounted(
        self, found: Found, mountpoint: Path, *, subvolume: str = "", writable: bool = False
    ) -> AbstractContextManager[Path]: ...

    def mounted_system(
        self, filesystems: Sequence[Found], mountpoint: Path, *, writable: bool = False
    ) -> AbstractContextManager[Tree]: ...

    def mounted_subvolume(self, mountpoint: Path) -> tuple[str, str]: ...

    def subvolumes(self, path: Path) -> Sequence[str]: ...

    def read(self, found: Found, offset: int, length: int) -> bytes: ...

    def flush(self, devices: Mapping[str, str]) -> None: ...

    def repair(self, found: Found, mountpoint: Path, *, session: bool) -> None: ...


class KernelHost:
    """This machine's kernel. A hostile filesystem meets it, and a hostile program would: for a controller, or
    for trusted images."""

    runs_guest_code = True

    opened = staticmethod(stack.opened)
    mounted = staticmethod(disk.mounted)
    mounted_system = staticmethod(disk.mounted_system)
    mounted_subvolume = staticmethod(disk.mounted_subvolume)
    subvolumes = staticmethod(disk.subvolumes)
    flush = staticmethod(disk.flush)
    repair = staticmethod(repair)

    @staticmethod
    def read(found: Found, offset: int, length: int) -> bytes:
        fd = os.open(found.node, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(fd, length, found.offset + offset)
        finally:
            os.close(fd)


KERNEL: Host = KernelHost()
