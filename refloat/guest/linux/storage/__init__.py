"""A guest's files that name storage devices: from names that follow the bus to names that stay.

The functions of this package are pure, text in, text and edits out; whatever is not edited stays byte for
byte. Only look() and change() here touch the guest's tree.
"""

from __future__ import annotations

from refloat.guest.journal import Journal
from refloat.guest.linux.edits import Progress, rewrite
from refloat.guest.linux.storage.crypttab import CRYPTTAB, rewrite_crypttab, unlock_warnings
from refloat.guest.linux.storage.fstab import (
    FSTAB,
    Entry,
    mounted_at,
    parse_fstab,
    rewrite_fstab,
    with_mountpoints,
)
from refloat.guest.linux.storage.lvm import DEVICES_FILE, LVM_CONF, LVM_LOCAL, filter_problems, switch_off
from refloat.guest.linux.storage.names import DeviceNames
from refloat.guest.linux.storage.raid import MDADM_CONFS, rewrite_mdadm_conf
from refloat.guest.notes import Notes
from refloat.guest.tree import Tree
from refloat.model import DiskBus

__all__ = [
    "CRYPTTAB",
    "FSTAB",
    "DeviceNames",
    "Entry",
    "change",
    "look",
    "mounted_at",
    "parse_fstab",
    "rewrite_crypttab",
    "rewrite_fstab",
    "with_mountpoints",
]

_MULTIPATH = ("/etc/multipath.conf", "/etc/multipath/bindings")


def look(tree: Tree, names: DeviceNames, bus: DiskBus, notes: Notes) -> None:
    """`bus` is that of the destination."""
    notes.take(FSTAB, rewrite_fstab(tree.read_text(FSTAB), names))
    crypttab = tree.read_optional(CRYPTTAB)
    notes.take(CRYPTTAB, rewrite_crypttab(crypttab, names))
    notes.warnings += unlock_warnings(crypttab)
    for path in MDADM_CONFS:
        notes.take(path, rewrite_mdadm_conf(tree.read_optional(path), path))
    if "LVM2_member" in names.kinds():
        devices, conf, local = _lvm_texts(tree)
        notes.take(DEVICES_FILE, switch_off(devices, conf, local))
        notes.problems += filter_problems(conf, LVM_CONF, bus)
        notes.problems += filter_problems(local, LVM_LOCAL, bus)
    present = [path for path in _MULTIPATH if tree.is_file(path)]
    if present:
        notes.warnings.append(
            f"{', '.join(present)}: multipath knows the old disks by ids that no disk has now"
        )


def change(tree: Tree, journal: Journal, names: DeviceNames, progress: Progress) -> None:
    old = tree.read_text(FSTAB)
    edits = rewrite(
        journal, FSTAB, old, rewrite_fstab(old, names), "names that follow the disk bus become UUIDs"
    )
    old = tree.read_optional(CRYPTTAB)
    edits += rewrite(
        journal, CRYPTTAB, old, rewrite_crypttab(old, names), "encrypted devices are named by UUID"
    )
    for path in MDADM_CONFS:
        old = tree.read_optional(path)
        edits += rewrite(
            journal, path, old, rewrite_mdadm_conf(old, path), "arrays are looked for on every disk"
        )
    if "LVM2_member" in names.kinds():
        edits += _switch_off_devices_file(tree, journal)
    progress("storage", {"edits": edits})


def _switch_off_devices_file(tree: Tree, journal: Journal) -> int:
    devices, conf, local = _lvm_texts(tree)
    done = switch_off(devices, conf, local)
    if done.edits:
        journal.write_text(
            LVM_LOCAL,
            done.text,
            "the devices file pins physical volumes to ids of the old disks",
            expect=local if tree.is_file(LVM_LOCAL) else None,
        )
    return len(done.edits)


def _lvm_texts(tree: Tree) -> tuple[str, str, str]:
    return tree.read_optional(DEVICES_FILE), tree.read_optional(LVM_CONF), tree.read_optional(LVM_LOCAL)
