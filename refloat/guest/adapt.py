"""Adapting a guest so that it boots on the destination's hardware, keeps its network and reports.

Can be repeated after a kill at any moment with the same `run_dir`: what is done is recognised, and the
journal of all runs lists each change once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from refloat.codec import decode, encode
from refloat.durable import write_durably
from refloat.errors import Refused
from refloat.guest.disk import SYSTEM_MOUNTS, Found, is_system, mounts_of
from refloat.guest.families import FAMILIES, Family
from refloat.guest.firstboot.staging import stage
from refloat.guest.host import KERNEL, Host
from refloat.guest.inspect import examine
from refloat.guest.journal import Journal, has_begun
from refloat.guest.linux import boot, fallback, guards, kernels, persistence, storage
from refloat.guest.linux.edits import Progress
from refloat.guest.root import place, read_texts, subvolume_now
from refloat.guest.stack import Volumes
from refloat.guest.systems import system_of
from refloat.guest.tree import Tree
from refloat.guest.unnamed_esp import kept
from refloat.guest.windows import system as windows
from refloat.guest.windows.adapt import caps as windows_caps
from refloat.guest.windows.adapt import check as check_windows
from refloat.model import (
    Adaptation,
    AdaptRequest,
    GuestCaps,
    GuestFacts,
    GuestFilesystem,
    Mount,
    Remediation,
)

_MOUNTPOINT = "mnt"


def adapt(
    request: AdaptRequest,
    devices: Mapping[str, str],
    facts: GuestFacts,
    run_dir: Path,
    progress: Progress,
    host: Host = KERNEL,
) -> Adaptation:
    """Changes the guest on `devices` (disk key -> device node or raw image) as `request` says.

    `facts` come from an inspection, since which the guest may have run on: everything is looked at again
    before the first change. `run_dir` is outside of the guest and holds the change journal. Raises
    Refused before anything was changed, Failed or Conflict after something may have been.
    """
    stages = _stages(facts)
    stages.check(request, facts, host)
    system = system_of(facts)
    with host.opened(devices, request.luks_keys) as volumes:
        found = same_system(volumes, facts)
        progress("mount", {"root": facts.root.uuid})
        facts = stages.before(found, request, facts, run_dir, host)
        with host.mounted_system(found, run_dir / _MOUNTPOINT, writable=True) as tree:
            facts = _facts_before(run_dir, lambda: stages.look_again(tree, found, request, facts, host))
            stages.make(tree, request, facts, run_dir, progress)
            journal = Journal(run_dir, tree, system.boundary, system.labels(tree))
            stages.change(tree, journal, request, facts, progress)
    progress("flush", {"changes": len(journal.changes())})
    host.flush(devices)
    return Adaptation(stages.caps(request, facts), journal.changes(), facts)


# ---------------------------------------------------------------- Linux and Windows


@dataclass(frozen=True)
class _Stages:
    """`check` needs no guest; `before` sees it before it is mounted for writing, `look_again` after that.
    `make` is all that takes long or may fail without any change."""

    check: Callable[[AdaptRequest, GuestFacts, Host], object]
    before: Callable[[Sequence[Found], AdaptRequest, GuestFacts, Path, Host], GuestFacts]
    look_again: Callable[[Tree, Sequence[Found], AdaptRequest, GuestFacts, Host], GuestFacts]
    make: Callable[[Tree, AdaptRequest, GuestFacts, Path, Progress], None]
    change: Callable[[Tree, Journal, AdaptRequest, GuestFacts, Progress], None]
    caps: Callable[[AdaptRequest, GuestFacts], GuestCaps]


def _stages(facts: GuestFacts) -> _Stages:
    if facts.windows:
        return _Stages(
            check=lambda request, facts, host: _check_windows(request, facts),
            before=_before_windows,
            look_again=lambda tree, found, request, facts, host: facts,
            make=lambda tree, request, facts, run_dir, progress: None,
            change=windows.change,
            caps=windows_caps,
        )
    return _Stages(
        check=_check_linux,
        before=lambda found, request, facts, run_dir, host: facts,
        look_again=_look_again,
        make=_make,
        change=change,
        caps=_caps,
    )


def _check_linux(request: AdaptRequest, facts: GuestFacts, host: Host) -> None:
    check(facts)
    fallback.check(facts, request.rebuild, host.runs_guest_code)


def _make(tree: Tree, request: AdaptRequest, facts: GuestFacts, run_dir: Path, progress: Progress) -> None:
    fallback.make(tree, run_dir / _MOUNTPOINT, facts, request, run_dir, progress)


def _check_windows(request: AdaptRequest, facts: GuestFacts) -> None:
    check_problems(facts)
    windows.check_allowed(request, facts)
    check_windows(request, facts)


def _before_windows(
    found: Sequence[Found], request: AdaptRequest, facts: GuestFacts, run_dir: Path, host: Host
) -> GuestFacts:
    """Looks again where nothing can be written yet, and makes the volumes writable."""
    mountpoint = run_dir / _MOUNTPOINT
    if not has_begun(run_dir):
        order, hardware = [disk.key for disk in request.disks], (request.disk_bus, request.nic_model)
        facts = windows.look(found, order, mountpoint, hardware, host)
        _check_windows(request, facts)
    windows.make_writable(found, request, facts, mountpoint, host)
    return facts


def change(
    tree: Tree, journal: Journal, request: AdaptRequest, facts: GuestFacts, progress: Progress
) -> None:
    """Every change to a mounted Linux guest, in the order in which a half-done one does the least harm."""
    family = check(facts)
    names = storage.DeviceNames([disk.key for disk in request.disks], facts.filesystems)
    storage.change(tree, journal, names, progress)
    boot.change(tree, journal, family, request, facts, names, progress)
    kernels.drivers(tree, journal, facts, request, names, progress)
    persistence.change(tree, journal, facts, request, progress)
    guards.change(tree, journal, request, progress)
    first_boot(tree, journal, request, facts, progress)


def check(facts: GuestFacts) -> Family:
    """A Linux guest's family. Raises Refused for a guest that cannot be adapted."""
    check_problems(facts)
    family = next((row for row in FAMILIES if row.name == facts.family), None)
    if family is None:
        raise Refused(f"guests of the family {facts.family!r} cannot be adapted", code="guest_unsupported")
    return family


def check_problems(facts: GuestFacts) -> None:
    """Raises Refused for what inspection found wrong."""
    if facts.problems:
        raise Refused(f"this guest cannot be adapted: {'; '.join(facts.problems)}", code="guest_unsupported")


def same_system(volumes: Volumes, facts: GuestFacts) -> tuple[Found, ...]:
    """What is on the disks, under the names and with the mount points that are known; the root system's
    filesystems are proven by their UUIDs to be those that were inspected."""
    system = [one for one in facts.filesystems if is_system(one)]
    found = []
    for one in volumes.found:
        inspected = next((other for other in facts.filesystems if _same_place(one.filesystem, other)), None)
        if inspected in system:
            system.remove(inspected)
            if (one.filesystem.kind, one.filesystem.uuid) != (inspected.kind, inspected.uuid):
                raise _changed(
                    f"{one.describe()} is not the filesystem that was inspected ({inspected.uuid})"
                )
        here = replace(one.filesystem, mountpoint="", mounts=())
        if inspected:
            here = replace(
                here,
                mountpoint=inspected.mountpoint,
                mounts=inspected.mounts,
                volume=inspected.volume,
                names=inspected.names,
            )
        found.append(replace(one, filesystem=here))
    if system:
        missing = ", ".join(one.volume or f"{one.disk} partition {one.partition}" for one in system)
        raise _changed("; ".join((f"the guest's {missing} is not there any more", *volumes.closed)))
    return tuple(found)


def _same_place(present: GuestFilesystem, inspected: GuestFilesystem) -> bool:
    """A volume may have got another name from the guest's own files when it was inspected."""
    if (present.disk, present.partition) != (inspected.disk, inspected.partition):
        return False
    return present.volume == inspected.volume or bool(present.volume and present.volume in inspected.names)


def _look_again(
    tree: Tree, found: Sequence[Found], request: AdaptRequest, facts: GuestFacts, host: Host
) -> GuestFacts:
    """The facts of this moment. A guest that mounts its system from elsewhere by now is refused."""
    root = next(one for one in found if one.filesystem.mountpoint == "/")
    order = [disk.key for disk in request.disks]
    texts = read_texts(tree)
    placed = kept(found, place(found, root, texts, order, subvolume_now(root, texts)))
    for before, after in zip(found, placed, strict=True):
        if _system_mounts(before) != _system_mounts(after):
            raise _changed(f"{after.describe()} is mounted elsewhere than when the guest was inspected")
    facts = examine(tree, placed, order, request.disk_bus, request.nic_model, facts.kernels)
    _check_linux(request, facts, host)
    return facts


def _system_mounts(found: Found) -> set[Mount]:
    return {mount for mount in mounts_of(found.filesystem) if mount.point in ("/", *SYSTEM_MOUNTS)}


def _facts_before(run_dir: Path, look: Callable[[], GuestFacts]) -> GuestFacts:
    """What was seen before the first change: a run after a kill finds a guest that is half adapted.

    Until then it is looked at anew each time: what was refused may be mended, and a kernel installed.
    """
    path = run_dir / "facts.json"
    if not path.exists() or not has_begun(run_dir):
        facts = look()
        check_problems(facts)
        write_durably(path, json.dumps(encode(facts)).encode())
    return decode(GuestFacts, json.loads(path.read_bytes()))


def _changed(what: str) -> Refused:
    return Refused(what, code="guest_disks_changed", hint="inspect the guest again")


# ---------------------------------------------------------------- the changes, in their order


def first_boot(
    tree: Tree, journal: Journal, request: AdaptRequest, facts: GuestFacts, progress: Progress
) -> None:
    """The units come last: a guest that was only half adapted has nothing that would run in it."""
    staged = stage(tree, request, facts)
    for path in staged.directories:
        journal.directory(path, "holds first-boot files")
    for path, file in staged.files.items():
        journal.write(path, file.content, file.reason, mode=file.mode, shown=file.shown, expect=file.expect)
    for path, target in staged.symlinks.items():
        journal.symlink(path, target, "starts the first boot")
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
