"""A host that says beforehand what it is about to mount for writing: the last moment to refuse."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from refloat.guest.disk import is_system
from refloat.guest.host import Host
from refloat.guest.probe import Found
from refloat.guest.tree import Tree


class Watched:
    """`before` is told the filesystems of the guest's system; what it raises comes before any write."""

    def __init__(self, host: Host, before: Callable[[Sequence[Found]], None]) -> None:
        self._host = host
        self._before = before
        self.runs_guest_code = host.runs_guest_code
        self.opened = host.opened
        self.mounted = host.mounted
        self.mounted_subvolume = host.mounted_subvolume
        self.subvolumes = host.subvolumes
        self.read = host.read
        self.flush = host.flush
        self.repair = host.repair

    @contextmanager
    def mounted_system(
        self, filesystems: Sequence[Found], mountpoint: Path, *, writable: bool = False
    ) -> Iterator[Tree]:
        if writable:
            self._before([one for one in filesystems if is_system(one.filesystem)])
        with self._host.mounted_system(filesystems, mountpoint, writable=writable) as tree:
            yield tree
