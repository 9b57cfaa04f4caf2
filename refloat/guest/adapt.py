"""Adapting a Linux guest so that it boots on the destination's hardware, keeps its network and reports.

Can be repeated after a kill at any moment with the same `run_dir`: what is done is recognised, and the
journal of all runs lists each change once.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from refloat.codec import decode, encode
from refloat.durable import write_durably
from refloat.errors import Failed, Refused
from refloat.guest.disk import SYSTEM_MOUNTS, Found, find_filesystems, flush, mounted_system
from refloat.guest.families import DISK_MODULES, FAMILIES, Family, needed_modules
from refloat.guest.firstboot.staging import network_paths, staging
from refloat.guest.inspect import FSTAB, RESUME, examine, place
from refloat.guest.journal import Journal
from refloat.guest.linux import boot, initramfs, network, storage
from refloat.guest.linux.modules import KernelModules
from refloat.guest.tree import Tree
from refloat.model import (
    Adaptation,
    AdaptRequest,
    GuestCaps,
    GuestFacts,
    Remediation,
)

# What is told while it works: the name of the step, and its figures.
Progress = Callable[[str, dict[str, object]], None]

_MODULES_FILE = "/etc/initramfs-tools/modules"
# Added besides what the destination needs, where the guest's kernel has them: the guest can then be
# moved between virtio buses without another adaptation.
_WELCOME = ("virtio_pci", "virtio_blk", "virtio_scsi", "virtio_net", "sd_mod")


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
        journal = Journal(run_dir, tree)
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
    storage_names(tree, journal, names, progress)
    boot_loader(tree, journal, family, names, progress)
    drivers(tree, journal, facts, request, names, progress)
    persistence(tree, journal, request, progress)
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


def storage_names(tree: Tree, journal: Journal, names: storage.DeviceNames, progress: Progress) -> None:
    old = tree.read_text(FSTAB)
    done = storage.rewrite_fstab(old, names)
    edits = _rewrite(journal, FSTAB, old, done, "names that follow the disk bus become UUIDs")
    progress("storage", {"edits": edits})


def boot_loader(
    tree: Tree, journal: Journal, family: Family, names: storage.DeviceNames, progress: Progress
) -> None:
    old = tree.read_text(family.grub_cfg)
    done = boot.rewrite_grub_cfg(old, names, family.grub_cfg)
    edits = _rewrite(journal, family.grub_cfg, old, done, "each kernel is told its root filesystem by UUID")
    old = tree.read_optional(boot.GRUB_DEFAULTS)
    done = boot.rewrite_grub_defaults(old, names)
    edits += _rewrite(journal, boot.GRUB_DEFAULTS, old, done, "the next update-grub keeps to UUIDs")
    old = tree.read_optional(RESUME)
    done = boot.rewrite_resume(old, names, RESUME)
    edits += _rewrite(journal, RESUME, old, done, "the swap device is named by UUID")
    progress("boot", {"edits": edits})


def drivers(
    tree: Tree,
    journal: Journal,
    facts: GuestFacts,
    request: AdaptRequest,
    names: storage.DeviceNames,
    progress: Progress,
) -> None:
    """Appends to every kernel's initramfs what it lacks."""
    for kernel in facts.kernels:
        addition = initramfs.addition(
            tree,
            kernel.initramfs,
            KernelModules(tree, kernel.version),
            needed=needed_modules(request.disk_bus, request.nic_model),
            force=DISK_MODULES[request.disk_bus],
            welcome=_WELCOME,
            mend=lambda path, text: boot.rewrite_resume(text, names, path).text,
        )
        if addition is not None:
            size, digest = _fingerprint(tree, kernel.initramfs)
            journal.extend(
                kernel.initramfs,
                addition.tail,
                f"drivers appended: {' '.join(addition.added)}",
                expect_size=size,
                expect_sha256=digest,
            )
        progress("initramfs", {"kernel": kernel.version, "added": len(addition.added) if addition else 0})


def persistence(tree: Tree, journal: Journal, request: AdaptRequest, progress: Progress) -> None:
    """The next kernel update builds a new initramfs, which has to hold the same drivers."""
    if not tree.is_directory("/etc/initramfs-tools"):
        return
    old = tree.read_optional(_MODULES_FILE)
    listed = {line.split()[0] for line in old.splitlines() if line.split()}
    lines = [name for name in needed_modules(request.disk_bus, request.nic_model) if name not in listed]
    if lines:
        glue = "" if not old or old.endswith("\n") else "\n"
        block = "# Drivers for the virtual hardware since the recovery by Refloat.\n"
        text = old + glue + block + "".join(f"{name}\n" for name in lines)
        expect = old if tree.is_file(_MODULES_FILE) else None
        journal.write_text(_MODULES_FILE, text, "drivers in every future initramfs", expect=expect)
    progress("persistence", {"modules": len(lines)})


def first_boot(
    tree: Tree, journal: Journal, request: AdaptRequest, facts: GuestFacts, progress: Progress
) -> None:
    """The units come last: a guest that was only half adapted has nothing that would run in it."""
    files = network_paths(tree, network.ifupdown_files(tree))
    staged = staging(request, files, facts.nics)
    for path in staged.directories:
        journal.directory(path, "holds first-boot files")
    for path, file in staged.files.items():
        journal.write(path, file.content, "first boot", mode=file.mode, shown=file.shown)
    for path, target in staged.symlinks.items():
        journal.symlink(path, target, "enables a first-boot unit")
    progress("first-boot", {"files": len(staged.files)})


# ---------------------------------------------------------------- small things


def _rewrite(journal: Journal, path: str, old: str, done: storage.Rewritten, reason: str) -> int:
    """Writes a text after its edits; returns their number."""
    if done.problems:
        raise Failed(
            "; ".join(done.problems), code="guest_names", hint="the guest differs from what was inspected"
        )
    if done.edits:
        journal.write_text(path, done.text, reason, expect=old)
    return len(done.edits)


def _fingerprint(tree: Tree, path: str) -> tuple[int, str]:
    with tree.open(path) as fd, open(f"/proc/self/fd/{fd}", "rb") as handle:
        return os.fstat(fd).st_size, hashlib.file_digest(handle, "sha256").hexdigest()


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
