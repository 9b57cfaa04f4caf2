"""Which kernels are installed in a guest, and which initramfs belongs to which: rows of layouts.

A kernel is known by the version of its modules (/lib/modules/<version>): the name of its file alone does
not say it everywhere. What cannot be assigned to one version for certain is left alone, and said.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from refloat.guest.families import Family, KernelNaming
from refloat.guest.notes import Notes
from refloat.guest.tree import Tree

MODULES = "/lib/modules"
BOOT = "/boot"
# Where kernel-install (systemd-boot) keeps <token>/<version>/linux: a boot or a system partition.
_ENTRY_ROOTS = ("/boot", "/efi", "/boot/efi")
_UNIFIED = "EFI/Linux"
# RHEL's and Fedora's rescue image has every driver already, and its version is no name of a directory.
_RESCUE = "0-rescue-"
_SMALL = 4096
_NUMBERS = re.compile(r"\d+|[a-z]+", re.IGNORECASE)


@dataclass(frozen=True)
class Installed:
    """One kernel: the version of its modules, its file, and each initramfs that it may be started with."""

    version: str
    kernel: str
    initramfs: tuple[str, ...]


def find(tree: Tree, family: Family, notes: Notes) -> tuple[Installed, ...]:
    """Every installed kernel, oldest first."""
    versions = frozenset(name for name in tree.listdir(MODULES) if tree.is_directory(f"{MODULES}/{name}"))
    kernels = [*_in_boot(tree, family, versions, notes), *_in_entries(tree, versions)]
    _note_unified(tree, bool(kernels), notes)
    return tuple(sorted(kernels, key=lambda one: age(one.version)))


def age(version: str) -> tuple[tuple[int, int, str], ...]:
    """A key by which versions sort from old to new: numbers as numbers ("5.9" before "5.10")."""
    return tuple((1, int(part), "") if part.isdigit() else (0, 0, part) for part in _NUMBERS.findall(version))


# ---------------------------------------------------------------- /boot/vmlinuz-*


def _in_boot(tree: Tree, family: Family, versions: frozenset[str], notes: Notes) -> Iterator[Installed]:
    head, _, tail = family.kernel.partition("{}")
    for name in tree.listdir(BOOT):
        if not name.startswith(head) or not name.endswith(tail):
            continue
        inner = name.removeprefix(head).removesuffix(tail)
        if not inner or not tree.is_file(f"{BOOT}/{name}"):
            continue
        if inner.startswith(_RESCUE):
            notes.warnings.append(f"{BOOT}/{name} is a rescue kernel: it is left as it is")
            continue
        version = _version(tree, family.naming, inner, versions)
        if version is None:
            notes.warnings.append(
                f"{BOOT}/{name} belongs to none of the kernels in {MODULES}: it is left as it is"
            )
            continue
        images = [f"{BOOT}/{pattern.format(inner)}" for pattern in family.initramfs]
        yield Installed(version, f"{BOOT}/{name}", tuple(path for path in images if tree.is_file(path)))


def _version(tree: Tree, naming: KernelNaming, inner: str, versions: frozenset[str]) -> str | None:
    """The version of the modules that belong to vmlinuz-`inner`; None if that is not certain."""
    if inner in versions:
        return inner
    if naming is KernelNaming.PKGBASE:
        return _only([one for one in versions if _first_word(tree, f"{MODULES}/{one}/pkgbase") == inner])
    if naming is KernelNaming.FLAVOUR:
        released = _first_word(tree, f"/usr/share/kernel/{inner}/kernel.release")
        if released in versions:
            return released
        return _only([one for one in versions if one.endswith(f"-{inner}")])
    return None


def _only(candidates: list[str]) -> str | None:
    return candidates[0] if len(candidates) == 1 else None


def _first_word(tree: Tree, path: str) -> str:
    if not tree.is_file(path):
        return ""
    return next(iter(tree.read_text(path, _SMALL).split()), "")


# ---------------------------------------------------------------- kernel-install


def _in_entries(tree: Tree, versions: frozenset[str]) -> Iterator[Installed]:
    """<token>/<version>/linux with its initrd beside it; the token is a machine-id or the system's name."""
    for root in _ENTRY_ROOTS:
        for token in tree.listdir(root):
            for version in tree.listdir(f"{root}/{token}") if tree.is_directory(f"{root}/{token}") else ():
                if version not in versions:
                    continue
                directory = f"{root}/{token}/{version}"
                names = tree.listdir(directory)
                kernel = next((name for name in names if name.startswith(("linux", "vmlinuz"))), None)
                if kernel is not None:
                    images = [f"{directory}/{name}" for name in names if _is_initrd(name)]
                    found = tuple(path for path in images if tree.is_file(path))
                    yield Installed(version, f"{directory}/{kernel}", found)


def _is_initrd(name: str) -> bool:
    return name.startswith(("initrd", "initramfs")) and "ucode" not in name


def _note_unified(tree: Tree, others: bool, notes: Notes) -> None:
    """A unified kernel image has its initramfs inside, under one signature: nothing can be appended."""
    images = [
        f"{root}/{_UNIFIED}/{name}"
        for root in _ENTRY_ROOTS
        for name in tree.listdir(f"{root}/{_UNIFIED}")
        if name.lower().endswith(".efi")
    ]
    if not images:
        return
    words = f"{images[0]} is a unified kernel image, to whose initramfs nothing can be appended"
    if others:
        notes.warnings.append(f"{words}: it may not be the one that boots")
    else:
        notes.problems.append(words)
