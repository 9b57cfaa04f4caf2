"""What would take a recovered guest for a new machine, and is kept from it.

cloud-init sees another platform and another instance-id, and runs what it runs once per instance: new
host keys, users, passwords and network. This is the same instance, on other virtual hardware.
"""

from __future__ import annotations

import re

from refloat.guest.journal import Journal
from refloat.guest.linux.edits import Edit, Progress, Rewritten, rewrite
from refloat.guest.notes import Notes
from refloat.guest.tree import Tree
from refloat.model import AdaptRequest, PlannedNic

CLOUD_CONFIG = "/etc/cloud/cloud.cfg"
# Read last: the names in this directory are read in their order.
GUARD = "/etc/cloud/cloud.cfg.d/99-zz-refloat-guard.cfg"
DISABLED = "/etc/cloud/cloud-init.disabled"
# What cloud-init knows of its instance. Without it (after a clean, say) the guard does not hold: cloud-init
# looks for its instance, finds a new one, and made new host keys on a real Debian 13.
_INSTANCE = "/var/lib/cloud/instance/obj.pkl"
_STATE = "/var/lib"
_GUARD_TEXT = """\
# Written by Refloat: this machine was recovered onto other virtual hardware. It is the same instance as
# before, so what runs once per instance must not run again, and its network is not cloud-init's to write.
# Remove this file to let cloud-init look for its instance anew.
manual_cache_clean: true
network: {config: disabled}
"""
_DISABLED_TEXT = """\
Written by Refloat: cloud-init has no record of an instance from before this machine's recovery onto other
virtual hardware, and must not take it for a new instance now. Remove this file to enable it.
"""
_RULES = "/etc/udev/rules.d"
_PERSISTENT_NET = re.compile(r"\d+-.*persistent-net.*\.rules")


def look(tree: Tree, notes: Notes) -> None:
    if not _has_cloud_init(tree):
        return
    seen = "and keeps its instance"
    if not _knows_its_instance(tree):
        seen = "with no record of its instance, and stays disabled"
    elif not tree.exists(_INSTANCE):
        seen = f"and keeps its instance; whether {_STATE} has a record of one could not be looked up"
    notes.warnings.append(f"cloud-init is installed {seen}")


def change(tree: Tree, journal: Journal, request: AdaptRequest, progress: Progress) -> None:
    files = _cloud_init(tree, journal) + _udev_names(tree, journal, request.nics)
    progress("guards", {"files": files})


def _has_cloud_init(tree: Tree) -> bool:
    return tree.is_file(CLOUD_CONFIG) and not tree.exists(DISABLED)


def _knows_its_instance(tree: Tree) -> bool:
    """Its own state says so, if it can be seen: /var may be a filesystem or a subvolume of its own (SUSE's
    default), of which nothing is mounted here."""
    return tree.exists(_INSTANCE) or not tree.listdir(_STATE)


def _cloud_init(tree: Tree, journal: Journal) -> int:
    """With the cache declared as trusted, cloud-init takes its old instance whatever the platform says."""
    if not _has_cloud_init(tree):
        return 0
    if not _knows_its_instance(tree):
        return journal.write_text(
            DISABLED, _DISABLED_TEXT, "cloud-init must not take this for a new instance"
        )
    journal.directory(GUARD.rpartition("/")[0], "holds cloud-init's configuration")
    return journal.write_text(GUARD, _GUARD_TEXT, "cloud-init keeps its instance: nothing runs anew")


def _udev_names(tree: Tree, journal: Journal, nics: tuple[PlannedNic, ...]) -> int:
    """Rules that name an adapter by its address follow the adapter to its new one."""
    changed = 0
    for name in tree.listdir(_RULES):
        path = f"{_RULES}/{name}"
        if _PERSISTENT_NET.fullmatch(name) and tree.is_file(path):
            old = tree.read_text(path)
            done = rewrite_persistent_net(old, nics)
            changed += bool(rewrite(journal, path, old, done, "the adapter's name follows it to its new MAC"))
    return changed


def rewrite_persistent_net(text: str, nics: tuple[PlannedNic, ...]) -> Rewritten:
    """udev's persistent-net rules with each source MAC replaced by the planned one."""
    macs = {
        nic.source_mac.lower(): nic.mac.lower() for nic in nics if nic.source_mac.lower() != nic.mac.lower()
    }
    lines, edits = text.split("\n"), []
    for index, line in enumerate(lines):
        if line.lstrip().startswith("#"):
            continue
        for old, new in macs.items():
            pattern = re.compile(rf'(ATTR\{{address\}}==")({re.escape(old)})(")', re.IGNORECASE)
            line, count = pattern.subn(rf"\g<1>{new}\g<3>", line)
            if count:
                edits.append(Edit(index + 1, old, new))
                lines[index] = line
                break
    return Rewritten("\n".join(lines), tuple(edits))
