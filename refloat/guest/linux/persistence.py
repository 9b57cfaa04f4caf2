"""The next kernel update makes a new initramfs, which has to hold the same drivers: every tool that the
guest has is told so in its own configuration."""

from __future__ import annotations

import posixpath
import re

from refloat.guest.families import needed_modules
from refloat.guest.journal import Journal
from refloat.guest.linux.edits import Progress
from refloat.guest.linux.modules import KernelModules
from refloat.guest.linux.tools import (
    MKINITCPIO,
    MKINITCPIO_DROP_IN,
    PRESET_CONFIG,
    TOOLS,
    Drivers,
    InitramfsTool,
    Keeping,
)
from refloat.guest.tree import Tree
from refloat.model import AdaptRequest, GuestFacts

_REASON = "drivers in every future initramfs"
_PRESETS = "/etc/mkinitcpio.d"
_COMPRESSED = re.compile(r"\.ko(?:\.\w+)?$")


def change(
    tree: Tree, journal: Journal, facts: GuestFacts, request: AdaptRequest, progress: Progress
) -> None:
    drivers = _drivers(tree, facts, needed_modules(request.disk_bus, request.nic_model))
    files = 0
    for tool in TOOLS.values() if drivers.names else ():
        if any(tree.exists(path) for path in tool.configured):
            for keeping in _keeping(tree, tool):
                files += _write(tree, journal, keeping, drivers)
    progress("persistence", {"modules": len(drivers.names), "files": files})


def _drivers(tree: Tree, facts: GuestFacts, needed: tuple[str, ...]) -> Drivers:
    """Without those that some kernel does not know at all: dracut would make no image for it any more.
    What is built in everywhere needs no mention."""
    kernels = [
        KernelModules(tree, version) for version in dict.fromkeys(one.version for one in facts.kernels)
    ]
    names = [
        name
        for name in needed
        if all(kernel.has(name) for kernel in kernels)
        and any(name not in kernel.builtin for kernel in kernels)
    ]
    files = dict.fromkeys(
        _COMPRESSED.sub(".ko", kernel.path(name))
        for name in names
        for kernel in kernels
        if name not in kernel.builtin
    )
    return Drivers(tuple(names), tuple(files))


def _keeping(tree: Tree, tool: InitramfsTool) -> tuple[Keeping, ...]:
    if tool is not MKINITCPIO or not tree.is_directory(posixpath.dirname(MKINITCPIO_DROP_IN.path)):
        return tool.keeping
    presets = [f"{_PRESETS}/{name}" for name in tree.listdir(_PRESETS) if name.endswith(".preset")]
    if any(PRESET_CONFIG.search(tree.read_optional(path)) for path in presets):
        return tool.keeping
    return (MKINITCPIO_DROP_IN,)


def _write(tree: Tree, journal: Journal, keeping: Keeping, drivers: Drivers) -> bool:
    exists = tree.is_file(keeping.path)
    old = tree.read_text(keeping.path) if exists else ""
    if not tree.is_directory(posixpath.dirname(keeping.path)):
        journal.directory(posixpath.dirname(keeping.path), _REASON)
    text = keeping.text("" if keeping.new else old, drivers)
    if exists and text == old:
        return False
    return journal.write_text(keeping.path, text, _REASON, expect=old if exists else None)
