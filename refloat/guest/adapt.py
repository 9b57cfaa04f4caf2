"""Adapting a Linux guest so that it boots on the destination's hardware, keeps its network and reports.

Can be repeated after a kill at any moment with the same `run_dir`: what is done is recognised, and the
journal of all runs lists each change once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from refloat.codec import decode, encode
from refloat.durable import write_durably
from refloat.errors import Refused
from refloat.guest.disk import SYSTEM_MOUNTS, Found, find_filesystems, flush, mounted_system
from refloat.guest.families import FAMILIES, Family
from refloat.guest.firstboot.staging import network_paths, staging
from refloat.guest.inspect import examine, place
from refloat.guest.journal import Journal
from refloat.guest.linux import boot, guards, kernels, persistence, storage
from refloat.guest.linux.edits import Progress
from refloat.guest.linux.network import ifupdown
from refloat.guest.linux.selinux import labels
from refloat.guest.linux.storage import FSTAB
from refloat.guest.tree import Tree
from refloat.model import (
    Adaptation,
    AdaptRequest,
    GuestCaps,
    GuestFacts,
    Remediation,
)


def adapt(
    request: AdaptRequest,
    devices: Mapping[str, str],
    facts: GuestFacts,
    run_dir: Path,
    progress: Progress,
) -> Adaptation:
    """Changes the guest on `devices` (disk key -> device node or raw image) as `request` says.

    `facts` come from an inspection, since which the guest may have run on: everything is looked at again
    before the first change. `run_dir` is outside of the guest and holds the change journal. Raises
    Refused before anything was changed, Failed or Conflict after something may have been.
    """
    check(facts)
    found = _same_system(find_filesystems(devices), facts)
    progress("mount", {"root": facts.root.uuid})
    with mounted_system(found, run_dir / "mnt", writable=True) as tree:
        facts = _facts_before(run_dir, lambda: _look_again(tree, found, request, facts))
        check(facts)
        journal = Journal(run_dir, tree, labels=labels(tree))
        change(tree, journal, request, facts, progress)
    progress("flush", {"changes": len(journal.changes())})
    flush(devices)
    return Adaptation(_caps(request, facts), journal.changes(), facts)


def change(
    tree: Tree, journal: Journal, request: AdaptRequest, facts: GuestFacts, progress: Progress
) -> None:
    """Every change to a mounted guest, in the order in which a half-done one does the least harm."""
    family = check(facts)
    names = storage.DeviceNames([disk.key for disk in request.disks], facts.filesystems)
    storage.change(tree, journal, names, progress)
    boot.change(tree, journal, family, names, progress)
    kernels.drivers(tree, journal, facts, request, names, progress)
    persistence.change(tree, journal, facts, request, progress)
    guards.change(tree, journal, request, progress)
    first_boot(tree, journal, request, facts, progress)


def check(facts: GuestFacts) -> Family:
    """The guest's family. Raises Refused for a guest that cannot be adapted."""
    if facts.problems:
        raise Refused(f"this guest cannot be adapted: {'; '.join(facts.problems)}", code="guest_unsupported")
    family = next((row for row in FAMILIES if row.name == facts.family), None)
    if family is None:
        raise Refused(f"guests of the family {facts.family!r} cannot be adapted", code="guest_unsupported")
    return family


def _same_system(present: Sequence[Found], facts: GuestFacts) -> tuple[Found, ...]:
    """What is on the disks, with the mount points that are known; the root system's filesystems are
    proven by their UUIDs to be those that were inspected."""
    known = {(one.disk, one.partition): one for one in facts.filesystems}
    system = {where for where, one in known.items() if one.mountpoint in ("/", *SYSTEM_MOUNTS)}
    found = []
    for one in present:
        where = (one.filesystem.disk, one.filesystem.partition)
        inspected = known.get(where)
        if where in system and inspected:
            system.remove(where)
            if (one.filesystem.kind, one.filesystem.uuid) != (inspected.kind, inspected.uuid):
                raise _changed(
                    f"{one.describe()} is not the filesystem that was inspected ({inspected.uuid})"
                )
        mountpoint = inspected.mountpoint if inspected else ""
        found.append(replace(one, filesystem=replace(one.filesystem, mountpoint=mountpoint)))
    if system:
        missing = ", ".join(f"{disk} partition {number}" for disk, number in sorted(system))
        raise _changed(f"the guest's {missing} is not there any more")
    return tuple(found)


def _look_again(tree: Tree, found: Sequence[Found], request: AdaptRequest, facts: GuestFacts) -> GuestFacts:
    """The facts of this moment. A guest that mounts its system from elsewhere by now is refused."""
    root = next(one for one in found if one.filesystem.mountpoint == "/")
    order = [disk.key for disk in request.disks]
    placed = place(found, root, tree.read_text(FSTAB), order)
    for before, after in zip(found, placed, strict=True):
        points = {before.filesystem.mountpoint, after.filesystem.mountpoint}
        if len(points) == 2 and points & {"/", *SYSTEM_MOUNTS}:
            raise _changed(f"{after.describe()} is mounted elsewhere than when the guest was inspected")
    return examine(tree, placed, order, request.disk_bus, request.nic_model, facts.kernels)


def _facts_before(run_dir: Path, look: Callable[[], GuestFacts]) -> GuestFacts:
    """What was seen before the first change: a run after a kill finds a guest that is half adapted."""
    path = run_dir / "facts.json"
    if not path.exists():
        write_durably(path, json.dumps(encode(look())).encode())
    return decode(GuestFacts, json.loads(path.read_bytes()))


def _changed(what: str) -> Refused:
    return Refused(what, code="guest_disks_changed", hint="inspect the guest again")


# ---------------------------------------------------------------- the changes, in their order


def first_boot(
    tree: Tree, journal: Journal, request: AdaptRequest, facts: GuestFacts, progress: Progress
) -> None:
    """The units come last: a guest that was only half adapted has nothing that would run in it."""
    files = network_paths(tree, ifupdown.ifupdown_files(tree))
    staged = staging(request, files, facts.nics)
    for path in staged.directories:
        journal.directory(path, "holds first-boot files")
    for path, file in staged.files.items():
        journal.write(path, file.content, "first boot", mode=file.mode, shown=file.shown)
    for path, target in staged.symlinks.items():
        journal.symlink(path, target, "enables a first-boot unit")
    progress("first-boot", {"files": len(staged.files)})


# ---------------------------------------------------------------- small things


def _caps(request: AdaptRequest, facts: GuestFacts) -> GuestCaps:
    """From the request and the facts alone, so that a rerun after a kill returns the same."""
    return GuestCaps(
        disk_buses=(request.disk_bus,),
        nic_models=(request.nic_model,),
        firmware=facts.firmware,
        reporter=True,
        remediation=Remediation.SCHEDULED,
        modules_added=tuple(dict.fromkeys(name for kernel in facts.kernels for name in kernel.missing)),
    )
