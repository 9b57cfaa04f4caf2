"""Which of a guest's volumes Windows is on, and the EFI system partition that goes with it. Never by guess.

Its tree has the system volume at "/C" and, on UEFI machines, the EFI system partition at "/ESP".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from refloat.errors import Refused
from refloat.guest.disk import CannotMount, Found
from refloat.guest.host import Host
from refloat.guest.tree import GuestFileError, Tree
from refloat.guest.windows.ntfs import ntfs_state
from refloat.guest.windows.paths import find
from refloat.model import Mount

SYSTEM_HIVE = "/Windows/System32/config/SYSTEM"
_BOOT_MANAGER = "/EFI/Microsoft/Boot/bootmgfw.efi"

# Partitions of dynamic disks (the Logical Disk Manager's): by MBR, and by GPT its database and its data.
_DYNAMIC = frozenset(
    {
        "42",
        "0x42",
        "5808c8aa-7e8f-42e0-85d2-e1e90434cfb3",
        "af9b60a0-1431-4f62-bc68-3311714a69ad",
    }
)


@dataclass(frozen=True)
class WindowsRoot:
    """A volume with a Windows on it. `skipped` says what could not be looked into."""

    found: Found
    skipped: tuple[str, ...] = ()

    def describe(self) -> str:
        return f"{self.found.describe()} with Windows"


def windows_roots(
    volumes: Sequence[Found], mountpoint: Path, host: Host
) -> tuple[list[WindowsRoot], list[str]]:
    """Every volume with a Windows, and in words why others could not be looked into.

    Raises Refused (guest_dynamic_disk) where one is on a dynamic disk.
    """
    roots = []
    skipped = [f"{one.describe()}: it stays as it is" for one in volumes if _is_locked(one)]
    for one in volumes:
        if one.filesystem.kind != "ntfs":
            continue
        try:
            with host.mounted(one, mountpoint) as path, Tree(path) as tree:
                if _has_file(tree, SYSTEM_HIVE):
                    roots.append(WindowsRoot(one))
        except CannotMount as error:
            skipped.append(error.message)
    for root in roots:
        _check_basic(root.found, volumes)
    return roots, skipped


def with_mounts(
    root: WindowsRoot, volumes: Sequence[Found], mountpoint: Path, host: Host
) -> tuple[Found, ...]:
    """The volumes with the places of those that make up the guest's tree.

    Raises Refused (guest_root_ambiguous) for several EFI system partitions with Windows' boot manager.
    """
    esps = [one for one in volumes if _is_esp(one, root, mountpoint, host)]
    if len(esps) > 1:
        raise Refused(
            f"more than one partition holds Windows' boot manager: "
            f"{', '.join(one.describe() for one in esps)}",
            code="guest_root_ambiguous",
            hint="remove the one that the machine does not start from",
        )
    places = {id(root.found): "/C", **{id(one): "/ESP" for one in esps}}
    return tuple(_placed(one, places.get(id(one), "")) for one in volumes)


def check_closed(found: Sequence[Found], host: Host, repair: bool) -> list[Found]:
    """The volumes of the tree that have to be repaired before they may be written.

    Raises Refused (guest_dirty) for them unless `repair`: their logs hold changes that only Windows can
    take over, and a repair throws these away.
    """
    dirty = []
    for one in found:
        if one.filesystem.kind == "ntfs" and one.filesystem.mountpoint:
            state = ntfs_state(partial(host.read, one))
            if state.dirty and not repair:
                raise Refused(
                    f"{one.describe()} cannot be written safely: {state.describe()}",
                    code="guest_dirty",
                    hint="shut Windows down fully (shutdown /s /f /t 0) and replicate again; or allow the "
                    "repair, which loses what was being written at that moment",
                )
            if state.unclean:
                dirty.append(one)
    return dirty


def _placed(one: Found, point: str) -> Found:
    mounts = (Mount(point),) if point else ()
    return replace(one, filesystem=replace(one.filesystem, mountpoint=point, mounts=mounts))


def _is_esp(one: Found, root: WindowsRoot, mountpoint: Path, host: Host) -> bool:
    here, there = one.filesystem, root.found.filesystem
    if here.kind != "vfat" or here.disk != there.disk or here.volume:
        return False
    with host.mounted(one, mountpoint) as path, Tree(path) as tree:
        return _has_file(tree, _BOOT_MANAGER)


def _has_file(tree: Tree, path: str) -> bool:
    try:
        found = find(tree, path)
        return found is not None and tree.is_file(found)
    except GuestFileError:
        # A directory that is damaged, or a link out of the volume: there is no Windows to be used.
        return False


def _check_basic(root: Found, volumes: Sequence[Found]) -> None:
    on_disk = [one for one in volumes if one.filesystem.disk == root.filesystem.disk]
    if any(one.part_type.casefold() in _DYNAMIC for one in on_disk):
        raise Refused(
            f"Windows is on a dynamic disk ({root.describe()})",
            code="guest_dynamic_disk",
            hint="move it to a basic disk first: its volumes are known to Windows' own database only",
        )


def check_unlocked(volumes: Sequence[Found]) -> None:
    """Raises Refused (guest_bitlocker) where a volume that may be Windows' own is encrypted."""
    locked = [one.describe() for one in volumes if _is_locked(one)]
    if locked:
        raise Refused(
            f"encrypted by BitLocker: {', '.join(locked)}",
            code="guest_bitlocker",
            hint="decrypt it in the guest (manage-bde -off C:) and wait until that is done; to suspend the "
            "protection is not enough",
        )


def _is_locked(one: Found) -> bool:
    return one.filesystem.kind == "BitLocker"
