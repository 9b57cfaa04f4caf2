"""One sync: from the source's disks at one instant to a complete sync point of the replica.

    close what was left -> which point is merged? -> open source and exports -> copy every disk
    -> hashes and record durable -> controller merges -> only now the source forgets the old checkpoint

Killed anywhere, the next call goes on: the replica holds the last complete sync point or the new one.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import nbd

from refloat.clock import now
from refloat.controller.records import ControllerDisk, Export, SyncStatus
from refloat.errors import Failed, RefloatError, Refused
from refloat.model import SyncPoint, Target
from refloat.sources.base import ChangeSet, DiskReader, Source
from refloat.sync.hashes import CHUNK, DIGEST, ChunkHashes
from refloat.sync.ledger import Ledger
from refloat.sync.nbd import ALLOCATION, changed_ranges, connected, data_ranges, unix_uri
from refloat.sync.nbd_copy import Cancelled, Copier, Work, plan_scan, plan_whole, plan_work
from refloat.sync.ranges import Ranges, normalise

log = logging.getLogger(__name__)

Progress = Callable[[dict[str, Any]], None]

CHECKPOINT_PREFIX = "refloat-"

# What a delta needs beyond its data: tables of 8 bytes per 64 KiB, rounding, and room to work.
_DELTA_OVERHEAD = 32 * 1024 * 1024
_REPORT_EVERY = 4 * 1024 * 1024


class ReplicaHost(Protocol):
    """What a sync needs of a controller (ControllerClient has it)."""

    def disks(self) -> Sequence[ControllerDisk]: ...
    def sync_open(self, point: str, direct: bool, sizes: Mapping[str, int]) -> Sequence[Export]: ...
    def sync_complete(self, point: str, progress: Progress | None = None) -> SyncStatus: ...
    def sync_close(self, progress: Progress | None = None) -> SyncStatus: ...
    def forward(self, port: int) -> AbstractContextManager[str]: ...


@dataclass
class _Disk:
    """One disk of this sync: where it comes from, where it goes, and what has to be done."""

    reader: DiskReader
    serial: str
    how: str
    work: Work
    hashes: ChunkHashes


@dataclass(frozen=True)
class _Sync:
    """What all stages of one sync are given."""

    source: Source
    controller: ReplicaHost
    target: Target
    ledger: Ledger
    progress: Progress
    cancelled: Cancelled


def sync(
    *,
    source: Source,
    controller: ReplicaHost,
    target: Target,
    state_dir: Path,
    last: SyncPoint | None,
    progress: Progress = lambda _data: None,
    cancelled: Cancelled = lambda: False,
) -> SyncPoint:
    """The new complete sync point. `last` is what the caller remembers; what the controller says wins.

    `progress` gets {"phase", "bytes_done", "bytes_total"}; `cancelled` is asked about twice a second.
    Raises Refused (disk_size, disks_changed, no_space) before anything is sent, Aborted when cancelled,
    Unreachable or Failed otherwise: the replica still holds the last complete sync point then.
    """
    run = _Sync(source, controller, target, Ledger(state_dir), progress, cancelled)
    status = controller.sync_close(progress)
    last = run.ledger.adopt(status.merged_point, last)
    sizes = _checked_sizes(run)
    try:
        point = _transfer(run, status, last, sizes)
    except BaseException:
        with suppress(RefloatError):  # the first error is the one to tell; the next sync closes, too
            controller.sync_close(progress)
        raise
    if run.controller.sync_complete(point.id, progress).merged_point != point.id:
        raise Failed(f"the controller did not merge sync point {point.id}", code="merge", hint="sync again")
    try:
        source.forget(target.source_vm, keep=point.checkpoint or None)
    except RefloatError as error:
        # The point is complete; what is left over at the source goes with the next sync.
        log.warning("old checkpoints of %s stay for now: %s", target.source_vm, error)
    return point


def _checked_sizes(run: _Sync) -> dict[str, int]:
    """Bytes of each replica, by its serial. Before the source is touched: the same disks, none larger than
    its replica. The replica may be larger where a platform counts in GiB."""
    sizes = {disk.serial: disk.size for disk in run.controller.disks()}
    serials = {disk.key: disk.serial for disk in run.target.disks}
    source_disks = {disk.key: disk.capacity for disk in run.source.inventory(run.target.source_vm).disks}
    if set(source_disks) != set(serials):
        raise Refused(
            f"{run.target.source_vm} has the disks {', '.join(source_disks) or 'none'}, "
            f"the target protects {', '.join(serials) or 'none'}",
            code="disks_changed",
            hint="change the target's disks in the estate file and give the controller a replica for each",
        )
    for key, capacity in source_disks.items():
        if sizes.get(serials[key], 0) < capacity:
            raise Refused(
                f"source disk {key} has {capacity} bytes, its replica {serials[key]} "
                f"{sizes.get(serials[key], 'is not attached')}",
                code="disk_size",
                hint="resize the replica volume to the source disk's size, then sync again",
            )
    return sizes


# ---------------------------------------------------------------- one attempt


def _transfer(run: _Sync, status: SyncStatus, last: SyncPoint | None, sizes: dict[str, int]) -> SyncPoint:
    """Every block of the new point is at the controller, flushed, and the ledger knows it. Not merged yet."""
    point_id = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    keys = [disk.key for disk in run.target.disks]
    kept = run.ledger.hashes(last, keys) if last else None
    since = last.checkpoint or None if last and kept else None
    vm = run.target.source_vm
    with run.source.read_changes(vm, since, f"{CHECKPOINT_PREFIX}{point_id}") as changes:
        taken = now()
        disks = [_plan_disk(run, reader, kept, sizes) for reader in _readers(run.target, changes)]
        direct = status.merged_point is None
        if not direct:
            _check_room(status.free, disks)
        exports = run.controller.sync_open(
            point_id, direct, {disk.serial: disk.reader.capacity for disk in disks}
        )
        transferred = _copy_all(run, disks, {export.serial: export for export in exports})
        how, reason = _summary(disks, last, kept is not None)
        reason = "; ".join(filter(None, (reason, *changes.said)))
        point = SyncPoint(point_id, taken, changes.checkpoint, how, transferred, reason)
    run.ledger.write(point, {disk.reader.key: disk.hashes for disk in disks})
    return point


def _readers(target: Target, changes: ChangeSet) -> list[DiskReader]:
    by_key = {reader.key: reader for reader in changes.disks}
    return [by_key[disk.key] for disk in target.disks]


def _summary(disks: list[_Disk], last: SyncPoint | None, hashed: bool) -> tuple[str, str]:
    hows = {disk.how for disk in disks}
    how = next(one for one in ("full", "compared", "changed") if one in hows)
    if how == "full":
        return how, "first sync" if last is None else "no usable hashes of the last sync point"
    reasons = {disk.reader.reason for disk in disks if disk.how == "compared"}
    return how, "; ".join(sorted(reasons)) if hashed else ""


def _plan_disk(
    run: _Sync, reader: DiskReader, kept: dict[str, ChunkHashes] | None, sizes: dict[str, int]
) -> _Disk:
    serial = next(disk.serial for disk in run.target.disks if disk.key == reader.key)
    old = kept.get(reader.key) if kept else None
    if old is not None and old.capacity != reader.capacity:
        old = None  # of another disk: nothing is known
    contexts = [ALLOCATION] + ([reader.bitmap] if reader.bitmap and old else [])
    with connected(reader.uri, *contexts) as handle:
        data = _data(handle, reader, old)
        if old is None:
            work = plan_whole(data, reader.capacity, sizes[serial])
            return _Disk(reader, serial, "full", work, ChunkHashes(reader.capacity))
        if reader.bitmap or reader.areas is not None:
            changed = normalise(reader.areas or ())
            if reader.bitmap:
                changed = changed_ranges(handle, reader.bitmap, reader.capacity)
            return _Disk(reader, serial, "changed", plan_work(changed, data, reader.capacity), old.copy())
    differing, hashes = _compare(run, reader, data, old)
    return _Disk(reader, serial, "compared", plan_work(differing, data, reader.capacity), hashes)


def _data(handle: nbd.NBD, reader: DiskReader, old: ChunkHashes | None) -> Ranges:
    """What may hold other than zeroes. Areas of a platform are few: they are read without asking for more."""
    if reader.areas is not None and old is not None:
        return [(0, reader.capacity)]
    if reader.allocated is not None:
        return normalise(reader.allocated)
    return data_ranges(handle, reader.capacity)


def _compare(run: _Sync, reader: DiskReader, data: Ranges, old: ChunkHashes) -> tuple[Ranges, ChunkHashes]:
    """Reads the whole source disk; the chunks whose hash differs from what the replica holds."""
    fresh = ChunkHashes(reader.capacity)
    with connected(reader.uri) as handle:
        report = _Reporter(run.progress, "comparing", reader.key, 0)
        Copier(handle, None, plan_scan(data, reader.capacity), fresh, report.bytes, run.cancelled).run()
    differing = normalise(
        (chunk * CHUNK, min((chunk + 1) * CHUNK, reader.capacity))
        for chunk in range(len(fresh.digests) // DIGEST)
        if fresh[chunk] != old[chunk]
    )
    return differing, fresh


def _check_room(free: int, disks: list[_Disk]) -> None:
    needed = sum(disk.work.bytes_sent for disk in disks)
    needed += needed // 100 + _DELTA_OVERHEAD
    if needed > free:
        raise Refused(
            f"this sync needs {needed >> 20} MiB on the controller's own disk, {free >> 20} MiB are free",
            code="no_space",
            hint="give the controller a larger disk, or set the target up anew for a direct full sync",
        )


def _copy_all(run: _Sync, disks: list[_Disk], exports: dict[str, Export]) -> int:
    total = sum(disk.work.bytes_read for disk in disks)
    done = sent = 0
    for disk in disks:
        with ExitStack() as stack:
            socket = stack.enter_context(run.controller.forward(exports[disk.serial].port))
            target = stack.enter_context(connected(unix_uri(socket, disk.serial)))
            source = stack.enter_context(connected(disk.reader.uri))
            report = _Reporter(run.progress, "sending", disk.reader.key, done, total)
            sent += Copier(source, target, disk.work, disk.hashes, report.bytes, run.cancelled).run()
        done += disk.work.bytes_read
    return sent


class _Reporter:
    """Progress in steps of a few MiB, over all disks."""

    def __init__(
        self, progress: Progress, phase: str, key: str, before: int, total: int | None = None
    ) -> None:
        self._progress, self._phase, self._key = progress, phase, key
        self._before, self._total = before, total
        self._next = 0

    def bytes(self, done: int, total: int) -> None:
        if done < self._next and done < total:
            return
        self._next = done + _REPORT_EVERY
        self._progress(
            {
                "phase": self._phase,
                "disk": self._key,
                "bytes_done": self._before + done,
                "bytes_total": total if self._total is None else self._total,
            }
        )
