"""Changed blocks at vSphere: one snapshot holds all disks at one instant, and QueryChangedDiskAreas tells
what changed since an earlier instant, which each disk names by its changeId ("52 de c0 .../17").

What comes before the slash changes whenever vSphere starts its records anew; then, or when it does not accept
the old changeId, the whole disk is compared. Source: VMware's Virtual Disk Programming Guide, "Low Level
Backup Procedures".
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from pyVmomi import vim

from refloat.errors import Failed, RefloatError, Refused, Unreachable
from refloat.sources.vsphere_hardware import VmDisk, vm_disks
from refloat.sources.vsphere_session import Session
from refloat.sources.vsphere_settings import Quiesce

log = logging.getLogger(__name__)

SNAPSHOT_PREFIX = "refloat-"
DESCRIPTION = "Made by Refloat for one sync, and removed at its end."

Areas = list[tuple[int, int]]  # start, end (exclusive), in bytes

_ALLOCATED = "*"
_REMOVE_TRIES = 3
_FIRST = "there is no checkpoint of an earlier sync"


# ---------------------------------------------------------------- checkpoints


def write_checkpoint(disks: Sequence[VmDisk]) -> str:
    """Names this instant of all disks; "" where none of them is tracked."""
    known = {str(one.key): [one.change_id, one.capacity, one.uuid] for one in disks if one.change_id}
    return json.dumps({"disks": known}, sort_keys=True) if known else ""


def doubt(disk: VmDisk, since: str | None) -> tuple[str, str]:
    """The disk's changeId at the checkpoint `since`, and why what changed since then cannot be asked; one of
    the two is ""."""
    if since is None:
        return "", _FIRST
    try:
        entry = json.loads(since)["disks"].get(str(disk.key))
        if entry is None:
            return "", f"{disk.label} was not tracked at the last sync"
        change_id, capacity, uuid = str(entry[0]), int(entry[1]), str(entry[2])
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return "", "the last checkpoint is not one of vSphere's"
    if not disk.change_id:
        return "", f"changed block tracking of {disk.label} is off"
    if uuid != disk.uuid:
        return "", f"{disk.label} is another disk than at the last sync"
    if capacity != disk.capacity:
        return "", f"{disk.label} was resized"
    if change_id.partition("/")[0] != disk.change_id.partition("/")[0]:
        return "", f"vSphere started the change records of {disk.label} anew"
    return change_id, ""


# ---------------------------------------------------------------- areas


def changed_areas(session: Session, vm: Any, snapshot: Any, disk: VmDisk, change_id: str) -> Areas:
    """What changed on this disk between `change_id` and the snapshot. Raises RefloatError where vSphere does
    not say."""
    found: Areas = []
    at = 0
    what = f"ask what changed on {disk.label}"
    while at < disk.capacity:
        ask = partial(vm.QueryChangedDiskAreas, snapshot, disk.key, at, change_id)
        info = session.call(what, lambda _, ask=ask: ask())  # type: ignore[misc]
        for area in info.changedArea or ():
            if area.start < at or area.length <= 0 or area.start + area.length > disk.capacity:
                raise Failed(f"{what}: an area that lies outside of what was asked", code="vsphere_areas")
            found.append((area.start, area.start + area.length))
        reached = info.startOffset + info.length
        if reached <= at:
            raise Failed(
                f"{what}: the answer ends at byte {reached} of {disk.capacity}", code="vsphere_areas"
            )
        at = reached
    return found


def allocated_areas(session: Session, vm: Any, snapshot: Any, disk: VmDisk) -> Areas | None:
    """All that may hold other than zeroes; None where vSphere does not say: some storage does not know."""
    if not disk.change_id:
        return None
    try:
        return changed_areas(session, vm, snapshot, disk, _ALLOCATED)
    except Unreachable:
        raise
    except RefloatError as error:
        log.info("%s: %s; the reader is asked instead", disk.label, error.message)
        return None


# ---------------------------------------------------------------- snapshots


@contextmanager
def snapshot_of(
    session: Session, vm: Any, name: str, quiesce: Quiesce, said: list[str]
) -> Iterator[tuple[Any, tuple[VmDisk, ...]]]:
    """A snapshot for the time of a sync, and its disks as they are in it. What an operator should know is
    added to `said`."""
    remove_leftovers(session, vm)
    snapshot = _take(session, vm, name, quiesce, said)
    try:
        config = session.read(f"read snapshot {name}", snapshot, "config").get("config")
        if config is None:
            raise Failed(
                f"snapshot {name} is gone", code="vsphere_snapshot", hint="who removed it? sync again"
            )
        yield snapshot, vm_disks(config)
    finally:
        _remove(session, snapshot, name)


def remove_leftovers(session: Session, vm: Any) -> None:
    """Snapshots of killed runs: told by name and description, so that nobody else's is ever touched."""
    for node in snapshots(session, vm):
        if node.name.startswith(SNAPSHOT_PREFIX) and node.description == DESCRIPTION:
            log.warning("snapshot %s was left by an earlier run", node.name)
            session.wait(f"remove the old snapshot {node.name}", _removal(session, node.snapshot, node.name))


def snapshots(session: Session, vm: Any) -> list[Any]:
    """All of the VM's, at every depth."""
    info = session.read("read the snapshots", vm, "snapshot").get("snapshot")
    waiting = list((info.rootSnapshotList if info else None) or ())
    found = []
    while waiting:
        node = waiting.pop()
        found.append(node)
        waiting += node.childSnapshotList or ()
    return found


def enable_tracking(session: Session, vm: Any) -> str:
    """Turns changed block tracking on; it holds after the next snapshot, and one is made and removed for
    that. Returns why it was not done, or ""."""
    what = "turn changed block tracking on"
    if not session.read(what, vm, "capability.changeTrackingSupported").get(
        "capability.changeTrackingSupported"
    ):
        return "changed block tracking needs virtual hardware of version 7 or later"
    if snapshots(session, vm):
        return "changed block tracking cannot be turned on while the VM has snapshots: remove them"
    spec = vim.vm.ConfigSpec(changeTrackingEnabled=True)
    session.wait(what, session.call(what, lambda _: vm.ReconfigVM_Task(spec), again=False))
    name = f"{SNAPSHOT_PREFIX}tracking"
    snapshot = _create(session, vm, name, quiesced=False)
    _remove(session, snapshot, name)
    return ""


def _take(session: Session, vm: Any, name: str, quiesce: Quiesce, said: list[str]) -> Any:
    """Quiesced where the policy wants it and Tools can do it. A VM that is off is at rest."""
    facts = session.read("read the VM's state", vm, "runtime.powerState", "guest.toolsRunningStatus")
    if quiesce is Quiesce.NEVER or facts.get("runtime.powerState") == "poweredOff":
        return _create(session, vm, name, quiesced=False)
    tools = facts.get("guest.toolsRunningStatus") == "guestToolsRunning"
    if not tools and quiesce is Quiesce.REQUIRE:
        raise Refused(
            "the policy requires quiesced snapshots, and VMware Tools do not run",
            code="not_quiesced",
            hint="start VMware Tools in the guest, or set `quiesce: try`",
        )
    if not tools:
        said.append("crash-consistent: VMware Tools do not run")
        return _create(session, vm, name, quiesced=False)
    try:
        return _create(session, vm, name, quiesced=True)
    except (Unreachable, Refused):
        raise
    except RefloatError as error:
        if quiesce is Quiesce.REQUIRE:
            raise
        remove_leftovers(session, vm)
        said.append(f"crash-consistent: {error.message}")
        return _create(session, vm, name, quiesced=False)


def _create(session: Session, vm: Any, name: str, *, quiesced: bool) -> Any:
    what = f"make the {'quiesced ' if quiesced else ''}snapshot {name}"
    task = session.call(
        what, lambda _: vm.CreateSnapshot_Task(name, DESCRIPTION, False, quiesced), again=False
    )
    return session.wait(what, task)


def _remove(session: Session, snapshot: Any, name: str) -> None:
    """A snapshot that stays grows with every write: it is said loudly, and the next sync removes it. It is no
    reason to throw the sync away."""
    for attempt in range(_REMOVE_TRIES):
        try:
            session.wait(f"remove snapshot {name}", _removal(session, snapshot, name))
            return
        except RefloatError as error:
            log.warning("attempt %d: %s", attempt + 1, error)
            if error.code == "no_such_vm":
                return
            if isinstance(error, Unreachable):
                break
            time.sleep(attempt)
    log.error("snapshot %s stays on the source until the next sync", name)


def _removal(session: Session, snapshot: Any, name: str) -> Any:
    """Its children stay, and its files are merged."""
    return session.call(f"remove snapshot {name}", lambda _: snapshot.RemoveSnapshot_Task(False, True))
