"""How a guest boots: its boot loader, its firmware, and what the kernels' command lines name."""

from __future__ import annotations

from collections.abc import Sequence

from refloat.guest.families import Family
from refloat.guest.journal import Journal
from refloat.guest.linux.boot import grub
from refloat.guest.linux.edits import Progress, rewrite
from refloat.guest.linux.storage import DeviceNames, Entry
from refloat.guest.notes import Notes
from refloat.guest.tree import Tree
from refloat.model import Firmware

RESUME = "/etc/initramfs-tools/conf.d/resume"


def look(
    tree: Tree, family: Family | None, entries: Sequence[Entry], names: DeviceNames, notes: Notes
) -> tuple[Firmware, str]:
    """The firmware that the guest is installed for, and the name of its boot loader ("" for none known)."""
    firmware = _firmware(tree, entries, notes)
    if family is None:
        return firmware, ""
    if not tree.is_file(family.grub_cfg):
        notes.problems.append(f"there is no {family.grub_cfg}: only GRUB 2 can be adapted")
        return firmware, ""
    text = tree.read_text(family.grub_cfg)
    notes.take(family.grub_cfg, grub.rewrite_grub_cfg(text, names, family.grub_cfg))
    if not grub.linux_lines(text):
        notes.problems.append(f"{family.grub_cfg} starts no kernel")
    defaults = tree.read_optional(grub.GRUB_DEFAULTS)
    notes.take(grub.GRUB_DEFAULTS, grub.rewrite_grub_defaults(defaults, names))
    notes.take(RESUME, grub.rewrite_resume(tree.read_optional(RESUME), names, RESUME))
    return firmware, "grub2"


def change(tree: Tree, journal: Journal, family: Family, names: DeviceNames, progress: Progress) -> None:
    old = tree.read_text(family.grub_cfg)
    done = grub.rewrite_grub_cfg(old, names, family.grub_cfg)
    edits = rewrite(journal, family.grub_cfg, old, done, "each kernel is told its root filesystem by UUID")
    old = tree.read_optional(grub.GRUB_DEFAULTS)
    done = grub.rewrite_grub_defaults(old, names)
    edits += rewrite(journal, grub.GRUB_DEFAULTS, old, done, "the next update-grub keeps to UUIDs")
    old = tree.read_optional(RESUME)
    done = grub.rewrite_resume(old, names, RESUME)
    edits += rewrite(journal, RESUME, old, done, "the swap device is named by UUID")
    progress("boot", {"edits": edits})


def _firmware(tree: Tree, entries: Sequence[Entry], notes: Notes) -> Firmware:
    """By the boot loader that is installed. A guest with both is taken for the one that it mounts."""
    if any(entry.mountpoint == "/boot/efi" for entry in entries):
        notes.problems.append("the guest boots by UEFI, which this version cannot adapt")
        return Firmware.UEFI
    if not tree.is_directory("/boot/grub/i386-pc"):
        notes.warnings.append("/boot/grub/i386-pc is missing: GRUB may not be installed for BIOS")
    return Firmware.BIOS
