"""An EFI system partition that the guest's fstab does not name: its system mounts it by its type alone
(systemd-gpt-auto-generator(8)), or not at all between updates of its loader. Never by guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from refloat.guest.disk import CannotMount
from refloat.guest.host import Host
from refloat.guest.linux.boot import esp
from refloat.guest.linux.storage import FSTAB, Entry, mounted_at, parse_fstab
from refloat.guest.probe import Found
from refloat.guest.tree import Tree
from refloat.model import Mount

# In the order of preference: /boot is meant only where nothing but the ESP holds the kernels.
_POINTS = ("/efi", "/boot/efi", "/boot")


def with_esp(
    found: Sequence[Found], fstab: str, mountpoint: Path, host: Host
) -> tuple[tuple[Found, ...], str]:
    """The guest's filesystems, with a place for the one partition that can only be its EFI system partition;
    and why there is none where there are such partitions. Nothing may be mounted at `mountpoint`."""
    entries = parse_fstab(fstab)
    chosen, why = _chosen(found, entries)
    if chosen is not None:
        why = _not_one(chosen, mountpoint, host)
    if chosen is None or why:
        return tuple(found), why
    with host.mounted_system(found, mountpoint) as tree:
        point = _point(tree, entries)
    if not point:
        places = ", ".join(_POINTS)
        return tuple(found), f"{_unnamed(chosen)}, and none of {places} is an empty directory to find it in"
    there = replace(chosen, filesystem=mounted_at(chosen.filesystem, (Mount(point),)))
    return tuple(there if one is chosen else one for one in found), ""


def kept(before: Sequence[Found], after: Sequence[Found]) -> tuple[Found, ...]:
    """`after` as fstab names it now, with the place that an unnamed partition got before, unless fstab uses
    such a place by now."""
    if esp.mounted_at(one.filesystem for one in after):
        return tuple(after)
    return tuple(
        replace(now, filesystem=mounted_at(now.filesystem, then.filesystem.mounts))
        if then.filesystem.esp and not now.filesystem.mounts
        else now
        for then, now in zip(before, after, strict=True)
    )


def _chosen(found: Sequence[Found], entries: Sequence[Entry]) -> tuple[Found | None, str]:
    """The only one that can be meant, or why there is none: "" where fstab names one, or nothing is one."""
    every = [one for one in found if one.filesystem.esp]
    named = esp.mounted_at(one.filesystem for one in found)
    if not every or named or any(one.mountpoint in ("/efi", "/boot/efi") for one in entries):
        return None, ""
    disk = next(one.filesystem.disk for one in found if one.filesystem.mountpoint == "/")
    beside = [one for one in every if one.filesystem.disk == disk]
    if len(every) > 1:
        several = " and ".join(one.describe() for one in every)
        return None, f"{FSTAB} names no EFI system partition, and there are several: {several}"
    if not beside:
        return None, f"{_unnamed(every[0])}, and it is on another disk than the root"
    if every[0].filesystem.mounts:
        return None, f"{_unnamed(every[0])} as such, and mounts it at {every[0].filesystem.mountpoint}"
    return every[0], ""


def _not_one(chosen: Found, mountpoint: Path, host: Host) -> str:
    """Why it holds no loaders, "" where it does."""
    if chosen.filesystem.kind != "vfat":
        return f"{_unnamed(chosen)}, and no firmware reads it"
    try:
        with host.mounted(chosen, mountpoint) as path, Tree(path) as tree:
            names = [name.casefold() for name in tree.listdir("/")]
    except CannotMount as error:
        return error.message
    return "" if "efi" in names else f"{_unnamed(chosen)}, and it holds no directory EFI"


def _point(tree: Tree, entries: Sequence[Entry]) -> str:
    taken = {entry.mountpoint.rstrip("/") for entry in entries}
    free = [point for point in _POINTS if point not in taken and tree.is_directory(point)]
    return next((point for point in free if tree.real(point) == point and not tree.listdir(point)), "")


def _unnamed(one: Found) -> str:
    return f"{FSTAB} does not name the EFI system partition ({one.describe()})"
