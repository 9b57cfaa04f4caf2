"""Kernels that boot without an initramfs: everything built in, the root found by the kernel alone."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Sequence

from refloat.errors import RefloatError
from refloat.guest.linux.modules import KernelModules
from refloat.guest.linux.storage import DeviceNames
from refloat.guest.tree import Tree

_ENTRIES = ("/boot/loader/entries", "/efi/loader/entries", "/boot/efi/loader/entries")
_FILES = (
    "/boot/grub/grub.cfg",
    "/boot/grub2/grub.cfg",
    "/boot/extlinux/extlinux.conf",
    "/boot/extlinux.conf",
    "/boot/grub/menu.lst",
)
_ROOT = re.compile(r"(?<![^\s\"'])root=([^\s\"']+)")


def limitation(
    tree: Tree, kernel: str, modules: KernelModules, disk_modules: Sequence[str], names: DeviceNames
) -> str | None:
    """Why a kernel without an initramfs will not find its root at the destination, or None if it will.

    Without one, nobody loads a driver, and the kernel knows no UUID= but only PARTUUID=, which is what a
    name that follows the bus becomes in its boot entry.
    """
    try:
        lacking = modules.closure(disk_modules)
    except RefloatError as error:
        return f"has no initramfs, and {error.message}"
    if lacking:
        return f"has no initramfs, and {', '.join(lacking)} are not built in"
    roots = [root for text in _boot_texts(tree) for root in _roots(text, posixpath.basename(kernel))]
    if not roots:
        return "has no initramfs, and no boot entry says where its root is"
    unknown = next((root for root in roots if not _is_found(root, names)), None)
    if unknown is not None:
        return f"has no initramfs, and finds its root by PARTUUID= alone, not by root={unknown}"
    return None


def _is_found(root: str, names: DeviceNames) -> bool:
    if root.startswith("PARTUUID="):
        return True
    try:
        return names.stable(root) is not None and bool(names.partition(root))
    except LookupError:
        return False


def _boot_texts(tree: Tree) -> Iterator[tuple[str, bool]]:
    """The boot loader's files, and whether one is a single entry as a whole."""
    for path in _FILES:
        if tree.is_file(path):
            yield tree.read_text(path), False
    for directory in _ENTRIES:
        for name in tree.listdir(directory):
            if name.endswith(".conf") and tree.is_file(f"{directory}/{name}"):
                yield tree.read_text(f"{directory}/{name}"), True


def _roots(file: tuple[str, bool], kernel: str) -> Iterator[str]:
    """root= wherever `kernel` is started: on its own line, or anywhere in a file that is one entry."""
    text, is_entry = file
    named = re.compile(rf"(?<![\w.-]){re.escape(kernel)}(?![\w.-])")
    for part in [text] if is_entry else text.split("\n"):
        if named.search(part):
            yield from _ROOT.findall(part)
