"""A failover from start to end: its steps with their undos, the job's states, and the safety invariants.

Read this file first. Rules: a mark is written before a step acts; every do and undo is idempotent and asks
the platform what is already true; a failing undo leads to `blocked` and is never skipped over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from refloat.adapt import adapt_guest
from refloat.commit import delete_controller_disk, merge_disks
from refloat.errors import InvariantViolated
from refloat.fence import (
    fence,
    power_off_source,
    power_on_source,
    recovered_vm_runs,
    source_limitation,
    unfence,
)
from refloat.model import JobState, Mode, PowerState, RollbackPoint
from refloat.prepare import (
    final_sync,
    preflight,
    resume_replication,
    revert_disks,
    snapshot_disks,
    stop_exports,
)
from refloat.promote import (
    apply_compute,
    apply_firmware,
    apply_networks,
    reorder_disks,
    restore_compute,
    restore_disk_order,
    restore_firmware,
    restore_networks,
    start_vm,
    stop_controller,
    stop_vm,
)
from refloat.run import Run
from refloat.validate import await_report, validate

Action = Callable[[Run], None]


@dataclass(frozen=True)
class Step:
    """`undo_when_blocked`: this undo is safe and wanted even when another undo failed."""

    name: str
    do: Action
    undo: Action
    undo_when_blocked: bool = False
    modes: frozenset[Mode] = frozenset(Mode)


def nothing_to_undo(because: str) -> Action:
    """An undo that is empty on purpose, with the reason on record."""

    def nothing(_: Run) -> None: ...

    nothing.__doc__ = because
    return nothing


LIVE = frozenset({Mode.PLANNED, Mode.EMERGENCY})
PLANNED = frozenset({Mode.PLANNED})
EMERGENCY = frozenset({Mode.EMERGENCY})

STEPS = (
    Step("preflight", preflight, nothing_to_undo("it only reads")),
    Step("power-off-source", power_off_source, power_on_source, undo_when_blocked=True, modes=PLANNED),
    Step("fence", fence, unfence, undo_when_blocked=True, modes=EMERGENCY),
    Step("final-sync", final_sync, nothing_to_undo("a newer complete sync point is no harm"), modes=PLANNED),
    Step("stop-exports", stop_exports, resume_replication),
    Step("snapshot-disks", snapshot_disks, revert_disks),
    Step("adapt-guest", adapt_guest, nothing_to_undo("reverting the disks restores every byte")),
    Step("stop-controller", stop_controller, nothing_to_undo("the undo of stop-exports starts it")),
    Step("apply-compute", apply_compute, restore_compute),
    Step("reorder-disks", reorder_disks, restore_disk_order),
    Step("apply-networks", apply_networks, restore_networks),
    Step("apply-firmware", apply_firmware, restore_firmware),
    Step("start-vm", start_vm, stop_vm),
    Step("validate", validate, nothing_to_undo("it only watches")),
    Step("await-report", await_report, nothing_to_undo("it only listens")),
)

# From the mark of this step on the recovered VM may have run: a rollback then discards what it wrote.
RUNS_LIVE = "start-vm"

# Steps that never start a rollback by themselves: the job reaches the operator with what was found.
OBSERVING = frozenset({"validate", "await-report"})

COMMIT = (
    Step("merge-disks", merge_disks, nothing_to_undo("commit is one-way")),
    Step("delete-controller-disk", delete_controller_disk, nothing_to_undo("commit is one-way")),
)

S = JobState
TRANSITIONS = frozenset(
    {
        (S.QUEUED, S.RUNNING),
        (S.QUEUED, S.REFUSED),
        (S.RUNNING, S.REFUSED),
        (S.RUNNING, S.TEST_ACTIVE),
        (S.RUNNING, S.AWAITING_COMMIT),
        (S.RUNNING, S.ROLLING_BACK),
        (S.RUNNING, S.BLOCKED),
        (S.TEST_ACTIVE, S.ROLLING_BACK),
        (S.AWAITING_COMMIT, S.COMMITTING),
        (S.AWAITING_COMMIT, S.ROLLING_BACK),
        (S.COMMITTING, S.COMMITTED),
        (S.COMMITTING, S.BLOCKED),
        (S.ROLLING_BACK, S.ROLLED_BACK),
        (S.ROLLING_BACK, S.BLOCKED),
        (S.BLOCKED, S.ROLLING_BACK),
        (S.BLOCKED, S.COMMITTING),
    }
)


# ---------------------------------------------------------------- invariants


@dataclass(frozen=True)
class Invariant:
    """`holds_from`: the first step before which it is checked, then before every later one. At commit
    those about rollback points end: commit is what removes them."""

    number: int
    words: str
    holds_from: str
    why_not: Callable[[Run], str | None]
    modes: frozenset[Mode] = frozenset(Mode)
    at_commit: bool = False


def _nobody_writes_to_replica(run: Run) -> str | None:
    holder = run.store.target(run.target.name).holder
    if holder != run.job:
        return f"target {run.target.name} is held by {holder or 'nobody'}, not by this job"
    exports = run.controller.open_exports() if _controller_runs(run) else ()
    return f"the controller still exports {', '.join(exports)}" if exports else None


def _rollback_points_exist(run: Run) -> str | None:
    have = {point.serial for point in run.destination.rollback_points(run.vm, run.tag)}
    missing = sorted({disk.serial for disk in run.plan.disks} - have)
    return f"no rollback point under {', '.join(missing)}" if missing else None


def _bases_untouched(run: Run) -> str | None:
    recorded = {p.serial: p for p in run.need("rollback_points", tuple[RollbackPoint, ...])}
    for point in run.destination.rollback_points(run.vm, run.tag):
        if point.base_stamp != recorded[point.serial].base_stamp:
            return f"{point.base} was written below its rollback point"
    return None


def _controller_runs(run: Run) -> bool:
    return run.destination.power_state(run.vm) is PowerState.RUNNING and not recovered_vm_runs(run)


INVARIANTS = (
    Invariant(
        1,
        "The source and the recovered VM never both run on a production network.",
        "final-sync",
        source_limitation,
        LIVE,
        at_commit=True,
    ),
    Invariant(
        2,
        "Replication never writes under an adapted or running replica.",
        "snapshot-disks",
        _nobody_writes_to_replica,
        at_commit=True,
    ),
    Invariant(
        3,
        "No byte of a replica changes before its rollback point exists and is verified.",
        "adapt-guest",
        _rollback_points_exist,
    ),
    Invariant(
        6,
        "What lies below the rollback points stays as it was, so that a rollback restores every byte.",
        "adapt-guest",
        _bases_untouched,
    ),
)
# Invariant 4 (no success without this boot's reports) is verdict.py's, 5 (the boundary) guest/boundary.py's.

_ORDER = [step.name for step in STEPS]


def check_invariants(run: Run, before: str) -> None:
    """Raises InvariantViolated when one that must hold before this step (or step of a commit) does not."""
    for invariant in INVARIANTS:
        if run.mode not in invariant.modes or not _applies(invariant, before):
            continue
        reason = invariant.why_not(run)
        if reason is not None:
            raise InvariantViolated(
                f"invariant {invariant.number} does not hold before {before}: {reason}. {invariant.words}",
                code=f"invariant_{invariant.number}",
                hint="find out who changed this; the job goes no further",
            )


def _applies(invariant: Invariant, before: str) -> bool:
    if before not in _ORDER:
        return invariant.at_commit
    return _ORDER.index(before) >= _ORDER.index(invariant.holds_from)


def may(before: JobState, after: JobState) -> bool:
    return (before, after) in TRANSITIONS
