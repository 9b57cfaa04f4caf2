"""The EFI system partition: what starts a guest whose firmware remembers nothing.

With blank NVRAM a firmware starts \\EFI\\BOOT\\BOOTX64.EFI and nothing else. A guest that was started by a
boot entry of its old firmware may have no such file: it gets a copy of its own loader there.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from refloat.guest.journal import Journal
from refloat.guest.linux.boot.loaders import find
from refloat.guest.notes import Notes
from refloat.guest.tree import Tree
from refloat.model import GuestFilesystem

MOUNTS = ("/boot/efi", "/efi", "/boot")

# What UEFI calls an architecture in file names, by what uname calls it.
SUFFIXES: Mapping[str, str] = {"x86_64": "x64", "aarch64": "aa64"}

_LOADER_LIMIT = 32 * 1024 * 1024
_SPACE_LEFT = 256 * 1024
# vfat gives every file this mode when it is mounted as we do; another could not be kept.
_MODE = 0o755


@dataclass(frozen=True)
class Scheme:
    """A loader and what it needs beside itself, as file names with {} for the architecture.

    `beside` must be there, `useful` may be. `home` is a directory below EFI/ that is always it.
    """

    name: str
    first: str
    beside: tuple[str, ...] = ()
    useful: tuple[str, ...] = ()
    home: str = ""


# In the order of preference: shim before the GRUB that it starts, for Secure Boot.
#
# fb{}.efi is not copied. Beside shim it takes precedence over GRUB: it writes boot entries from the
# vendor's BOOT*.CSV into the NVRAM and, with a TPM, resets the machine. Without it shim starts GRUB at
# once, in each boot alike, and the platform's NVRAM stays the platform's.
SCHEMES = (
    Scheme("shim", "shim{}.efi", ("grub{}.efi",), ("mm{}.efi",)),
    # SUSE's names; its GRUB reads the grub.cfg in its own directory.
    Scheme("shim", "shim.efi", ("grub.efi",), ("MokManager.efi", "grub.cfg")),
    Scheme("systemd-boot", "systemd-boot{}.efi", home="systemd"),
    # Without a shim the guest ran without Secure Boot, as it does at the destination.
    Scheme("GRUB", "grub{}.efi"),
    Scheme("refind", "refind_{}.efi"),
)


@dataclass(frozen=True)
class Fallback:
    """Files to copy, source -> target in the order of copying: the one that the firmware starts is last."""

    copies: tuple[tuple[str, str], ...] = ()
    problem: str = ""


def mounted_at(filesystems: Iterable[GuestFilesystem]) -> tuple[str, ...]:
    """Where the guest mounts what may be an EFI system partition."""
    points = {
        point
        for one in filesystems
        if one.kind == "vfat"
        for point in (one.mountpoint, *(mount.point for mount in one.mounts))
    }
    return tuple(point for point in MOUNTS if point in points)


def programs(tree: Tree, mounts: Sequence[str]) -> tuple[str, ...]:
    """All EFI programs in the directories of vendors."""
    return tuple(find(tree, "@esp/EFI/*/*.efi", mounts))


def fallback(tree: Tree, mount: str, vendors: Sequence[str], architecture: str) -> Fallback:
    """What the ESP at `mount` lacks to be started by a firmware that knows nothing of it.

    `vendors` are the directories below EFI/ of the guest's distribution: they decide if there are several.
    An existing loader stays, whatever it is; but a shim there needs its second stage beside it.
    """
    suffix = SUFFIXES.get(architecture, "")
    if not suffix:
        return Fallback(problem=f"it is not known how UEFI starts {architecture or 'this architecture'}")
    homes = _homes(tree, mount, suffix)
    present = _name(tree, mount, f"EFI/BOOT/BOOT{suffix}.efi")
    if present:
        return _second_stage(tree, mount, present, homes, suffix)
    chosen = _choose(homes, vendors)
    if chosen is None:
        names = ", ".join(sorted(homes)) or "no loader in any directory"
        what = "which of them boots is not certain" if homes else "nothing there could be started"
        return Fallback(
            problem=f"{mount} has no EFI/BOOT/BOOT{suffix.upper()}.EFI, without which blank NVRAM boots"
            f" nothing, and {what} ({names})"
        )
    scheme, directory = chosen
    first = _spelled(tree, directory, scheme.first.format(suffix))
    copies = _members(tree, directory, scheme, suffix)
    copies.append((f"{directory}/{first}", f"BOOT{suffix.upper()}.EFI"))
    return _planned(tree, mount, copies)


def _homes(tree: Tree, mount: str, suffix: str) -> dict[str, tuple[Scheme, str]]:
    """The directories below EFI/ with a loader that can be copied: name in lower case -> how and where."""
    base = _directory(tree, mount, "EFI")
    found = {}
    for name in tree.listdir(base) if base else ():
        directory = f"{base}/{name}"
        names = {one.casefold() for one in tree.listdir(directory)}
        for scheme in SCHEMES:
            needed = {one.format(suffix).casefold() for one in (scheme.first, *scheme.beside)}
            if name.casefold() != "boot" and needed <= names:
                found[name.casefold()] = (scheme, directory)
                break
    return found


def _choose(homes: Mapping[str, tuple[Scheme, str]], vendors: Sequence[str]) -> tuple[Scheme, str] | None:
    wanted = {name.casefold() for name in vendors}
    own = [home for name, home in homes.items() if name in wanted]
    candidates = own or list(homes.values())
    return candidates[0] if len(candidates) == 1 else None


def _second_stage(
    tree: Tree, mount: str, present: str, homes: Mapping[str, tuple[Scheme, str]], suffix: str
) -> Fallback:
    """A shim as the fallback without anything that it could start: measured, it ends in the firmware."""
    directory = posixpath.dirname(present)
    names = {one.casefold() for one in tree.listdir(directory)}
    if names & {f"fb{suffix}.efi", "fallback.efi", f"grub{suffix}.efi", "grub.efi"}:
        return Fallback()
    content = tree.read_bytes(present, _LOADER_LIMIT)
    for scheme, home in homes.values():
        first = f"{home}/{_spelled(tree, home, scheme.first.format(suffix))}"
        if scheme.beside and tree.read_bytes(first, _LOADER_LIMIT) == content:
            return _planned(tree, mount, _members(tree, home, scheme, suffix))
    return Fallback()


def _members(tree: Tree, directory: str, scheme: Scheme, suffix: str) -> list[tuple[str, str]]:
    wanted = [one.format(suffix) for one in (*scheme.beside, *scheme.useful)]
    spelled = [(_spelled(tree, directory, name), name) for name in wanted]
    return [(f"{directory}/{there}", name) for there, name in spelled if there]


def _planned(tree: Tree, mount: str, copies: Sequence[tuple[str, str]]) -> Fallback:
    """The copies with their targets, without those whose target exists."""
    base = _directory(tree, mount, "EFI") or f"{mount}/EFI"
    target = _directory(tree, base, "BOOT") or f"{base}/BOOT"
    return Fallback(
        tuple((source, f"{target}/{name}") for source, name in copies if not _spelled(tree, target, name))
    )


def _spelled(tree: Tree, directory: str, name: str) -> str:
    """How a name is written in a directory of a filesystem that knows no case; "" if it is not there."""
    return next((one for one in tree.listdir(directory) if one.casefold() == name.casefold()), "")


def _directory(tree: Tree, base: str, name: str) -> str:
    there = _spelled(tree, base, name)
    return f"{base}/{there}" if there else ""


def _name(tree: Tree, mount: str, path: str) -> str:
    return next(find(tree, f"@esp/{path}", (mount,)), "")


def check_space(tree: Tree, mount: str, plan: Fallback, notes: Notes) -> None:
    status = [tree.stat(source) for source, _ in plan.copies]
    needed = sum(one.st_size for one in status if one)
    if needed and tree.free_space(mount) < needed + _SPACE_LEFT:
        notes.problems.append(
            f"{mount} has {tree.free_space(mount)} bytes free, and {needed + _SPACE_LEFT} are needed"
            " for a loader that starts without boot entries"
        )


def copy(tree: Tree, journal: Journal, plan: Fallback) -> int:
    """Makes the copies; returns their number. What is there already is never replaced."""
    for source, target in plan.copies:
        journal.directory(posixpath.dirname(target), "holds what a firmware without boot entries starts")
        content = tree.read_bytes(source, _LOADER_LIMIT)
        reason = f"a firmware without boot entries starts it: a copy of {posixpath.basename(source)}"
        journal.write(target, content, reason, mode=_MODE, shown=False)
    return len(plan.copies)
