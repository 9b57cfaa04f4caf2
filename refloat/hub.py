"""What the hub can be asked to do: the one door for the API, the command line and the tests."""

from __future__ import annotations

import fcntl
import logging
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from refloat.clock import now
from refloat.config import Config
from refloat.errors import Busy, InvariantViolated, RefloatError, Refused
from refloat.estate import Estate, load_estate
from refloat.evidence import bundle
from refloat.failover import COMMIT, RUNS_LIVE, check_invariants
from refloat.jobs.engine import Engine
from refloat.jobs.steps import commit_begun
from refloat.model import (
    Decision,
    JobState,
    Mode,
    OperatorDecision,
    Plan,
    StatusChange,
    SyncPoint,
    TargetState,
    Verdict,
)
from refloat.platforms import Platforms
from refloat.run import Run
from refloat.store.store import Event, Job, StepRecord, Store, TargetStatus
from refloat.sync.engine import sync

log = logging.getLogger(__name__)

SYNC_HOLDER = "sync-"
CONTROLLER_WITHIN = 300.0  # seconds in which a controller that was just started must answer
HEARD_WITHIN = 15.0  # seconds in which a waiting job takes up a decision; it is heard later all the same
# What the operator decided, as the job is told.
TOLD = {
    "commit": "commit",
    "rollback": "rollback",
    "resume-commit": "commit",
    "resume-rollback": "rollback",
}
READY_FOR_FAILOVER = frozenset({TargetState.READY})
ABORTABLE = (JobState.QUEUED, JobState.RUNNING)
SYNCABLE = frozenset({TargetState.PROVISIONING, TargetState.READY, TargetState.ERROR})


class Hub:
    """Every method raises NotFound for unknown names and Refused or Busy when nothing was done."""

    def __init__(self, config: Config, estate: Estate, platforms: Platforms | None = None) -> None:
        self.data_dir = config.data_dir
        self.drivers = config.drivers
        self.estate = estate
        self.platforms = platforms or Platforms(estate, config.data_dir)
        self._lock = _only_hub(config.data_dir)
        self.store = Store.open(config.data_dir / "refloat.sqlite")
        self.engine = Engine(config.data_dir / "jobs.sqlite", lambda job_id: self.run(job_id))
        self._syncs: dict[str, threading.Thread] = {}
        self._deciding = threading.Lock()  # one decision of an operator at a time
        self._closing = threading.Event()

    def open(self) -> None:
        """Takes up everything that an earlier hub left: targets, syncs that died with it, unfinished jobs."""
        for name in self.estate.targets:
            self.store.ensure_target(name)
        for left in self.store.held_targets(SYNC_HOLDER):
            state = TargetState.READY if left.sync_point else TargetState.PROVISIONING
            self.store.release_target(left.name, left.holder, state, "the last sync was interrupted")
        unfinished = self.store.unfinished_jobs()
        for job in unfinished:
            if job.target not in self.estate.targets:
                raise Refused(
                    f"job {job.id} is {job.state}, but its target {job.target} is not in the estate file",
                    code="bad_estate",
                    hint="put the target back until the job is finished",
                )
        self.engine.launch()
        for job in unfinished:
            self.engine.start(job.id)
            self._tell_again(job.id)

    def _tell_again(self, job_id: str) -> None:
        """A hub killed between recording a decision and telling the job: the job hears each only once."""
        known = self.store.load(job_id, "decisions", tuple[OperatorDecision, ...]) or ()
        if known and known[-1].what in TOLD:
            self.engine.tell(job_id, TOLD[known[-1].what], nonce=str(len(known) - 1))

    def close(self) -> None:
        """Ends running syncs (the last complete sync point stays) and stops. Jobs go on at the next start."""
        self._closing.set()
        for thread in list(self._syncs.values()):
            thread.join()
        self.engine.close()
        self.store.engine.dispose()
        self._lock.close()

    # ------------------------------------------------------------ targets

    def targets(self) -> list[TargetStatus]:
        return [self.store.target(name) for name in self.estate.targets]

    def target(self, name: str) -> TargetStatus:
        self.estate.target(name)
        return self.store.target(name)

    def start_sync(self, name: str) -> None:
        """Starts a sync in the background; its progress and outcome are in the target's status."""
        self.estate.target(name)
        status = self.store.target(name)
        if status.state is TargetState.FAILED_OVER:
            raise Refused(
                f"target {name} has failed over: its replica is the live VM now",
                code="failed_over",
                hint="set up a new target to protect the recovered VM",
            )
        holder = f"{SYNC_HOLDER}{secrets.token_hex(3)}"
        self.store.claim_target(name, holder, TargetState.SYNCING, SYNCABLE)
        thread = threading.Thread(target=self._sync_in_background, args=(name, holder), name=holder)
        self._syncs[name] = thread
        thread.start()

    def _sync_in_background(self, name: str, holder: str) -> None:
        try:
            self.synchronise(name, self._closing.is_set)
        except Exception as error:
            message = str(error) if isinstance(error, RefloatError) else f"{type(error).__name__}: {error}"
            log.exception("sync of %s failed", name)
            has_point = self.store.target(name).sync_point is not None
            state = TargetState.READY if has_point else TargetState.ERROR
            self.store.release_target(name, holder, state, f"the last sync failed: {message}")
        else:
            self.store.release_target(name, holder, TargetState.READY)

    def synchronise(self, name: str, cancelled: Callable[[], bool]) -> SyncPoint:
        """One sync of a target that the caller holds; returns the new complete sync point."""
        target = self.estate.target(name)
        controller = self.platforms.controller(target)
        controller.wait_ready(CONTROLLER_WITHIN)
        point = sync(
            source=self.platforms.source(target.source_site),
            controller=controller,
            target=target,
            state_dir=self.data_dir / "targets" / name,
            last=self.store.target(name).sync_point,
            progress=lambda data: self.store.save_progress(name, data),
            cancelled=cancelled,
        )
        self.store.save_sync_point(name, point)
        return point

    # ------------------------------------------------------------ jobs

    def start_failover(self, target: str, mode: Mode) -> Job:
        self.estate.target(target)
        if mode is not Mode.PLANNED:
            raise Refused(
                f"{mode} failover is not available in this version",
                code="mode_unavailable",
                hint="use --mode planned",
            )
        status = self.store.target(target)
        if not status.holder and status.state not in READY_FOR_FAILOVER:
            raise Refused(
                f"target {target} is {status.state}: {status.message or 'it has no complete sync point'}",
                code="target_not_ready",
                hint=f"look at `refloat target show {target}`",
            )
        job = self.store.create_job(target, mode, READY_FOR_FAILOVER)
        try:
            self.engine.start(job.id)
        except Exception as error:
            log.exception("job %s was not started", job.id)
            return self._not_started(job, error)
        return job

    def _not_started(self, job: Job, error: Exception) -> Job:
        """Refuses the job and gives its target back. A start that was only slow finds it refused, and ends;
        one that was faster goes on. Where not even that can be written, the job stays queued and is
        started as soon as it can be."""
        refused = Refused(
            f"job {job.id} could not be started: {type(error).__name__}: {error}",
            code="not_started",
            hint="nothing was changed; see the hub's log, mend the cause, then start again",
        )
        try:
            if self.store.set_state(
                job.id, JobState.REFUSED, refused, release=TargetState.READY, before=JobState.QUEUED
            ):
                raise refused
            return self.store.job(job.id)
        except SQLAlchemyError:
            log.exception("job %s stays queued", job.id)
            self.engine.keep_starting(job.id)
            return job

    def jobs(self) -> list[Job]:
        return self.store.jobs()

    def job(self, job_id: str) -> Job:
        return self.store.job(job_id)

    def steps(self, job_id: str) -> list[StepRecord]:
        self.store.job(job_id)
        return self.store.steps(job_id)

    def events(self, job_id: str, after: int = 0) -> Sequence[Event]:
        self.store.job(job_id)
        return self.store.events(job_id, after)

    def commit(self, job_id: str, by: str, reason: str = "") -> Job:
        """One-way: the recovered VM becomes the protected VM's successor."""
        with self._deciding:
            self._require(job_id, JobState.AWAITING_COMMIT, "commit")
            try:
                check_invariants(self.run(job_id), before=COMMIT[0].name)
            except InvariantViolated as error:
                raise Refused(error.message, code=error.code, hint=error.hint) from error
            return self._decide(job_id, "commit", by, reason)

    def rollback(self, job_id: str, by: str, discard_writes: bool, reason: str = "") -> Job:
        """Back to replication. What the recovered VM wrote is discarded: that must be acknowledged."""
        with self._deciding:
            self._require(job_id, self._ends_by_rollback(job_id), "rollback")
            self._acknowledged(job_id, discard_writes)
            return self._decide(job_id, "rollback", by, reason)

    def abort(self, job_id: str, by: str, discard_writes: bool = False, reason: str = "") -> Job:
        """Ends a job that is under way: its steps are undone. An abort that is accepted is never lost; one
        that comes too late is refused, and says what to do instead."""
        with self._deciding:
            # The job goes on meanwhile: that it may still be aborted is part of asking, not a look before.
            unless_begun = "" if discard_writes else RUNS_LIVE
            if not self.store.request_abort(job_id, ABORTABLE, unless_begun):
                self._require(job_id, ABORTABLE, "abort")
                self._acknowledged(job_id, discard_writes)
            self._record(job_id, "abort", by, reason)
        return self.store.job(job_id)

    def resume(self, job_id: str, by: str, reason: str = "") -> Job:
        """Goes on with a blocked job after the operator mended the cause."""
        with self._deciding:
            self._require(job_id, JobState.BLOCKED, "resume")
            known = self.store.load(job_id, "decisions", tuple[OperatorDecision, ...]) or ()
            told = [TOLD[decision.what] for decision in known if decision.what in TOLD]
            return self._decide(job_id, f"resume-{told[-1] if told else 'rollback'}", by, reason)

    def outcome(self, job_id: str) -> tuple[Decision | None, Verdict | None]:
        """What was decided about the guest, and what was found in the end; None where not yet."""
        plan = self.store.load(job_id, "plan", Plan)
        return (plan.decision if plan else None), self.store.load(job_id, "verdict", Verdict)

    def remediation(self, job_id: str) -> StatusChange | None:
        """What became of the guest's remediation so far; None before anything was decided about it."""
        known = self.store.load(job_id, "remediation", tuple[StatusChange, ...])
        return known[-1] if known else None

    def evidence(self, job_id: str) -> dict[str, Any]:
        """The bundle as data."""
        return bundle(self.store, job_id, self.data_dir)

    # ------------------------------------------------------------ how

    def run(self, job_id: str) -> Run:
        """What a job's steps are given."""
        job = self.store.job(job_id)
        target = self.estate.target(job.target)
        return Run(
            job=job_id,
            mode=job.mode,
            target=target,
            policy=self.estate.policy(target.policy),
            networks=self.estate.networks(),
            source=self.platforms.source(target.source_site),
            destination=self.platforms.destination(target.site),
            controller=self.platforms.controller(target),
            store=self.store,
            data_dir=self.data_dir,
            synchronise=lambda cancelled: self.synchronise(job.target, cancelled),
            drivers=self.drivers,
        )

    def _ends_by_rollback(self, job_id: str) -> tuple[JobState, ...]:
        states = (JobState.AWAITING_COMMIT, JobState.TEST_ACTIVE)
        return states if commit_begun(self.store, job_id) else (*states, JobState.BLOCKED)

    def _require(self, job_id: str, states: JobState | tuple[JobState, ...], what: str) -> Job:
        job = self.store.job(job_id)
        wanted = states if isinstance(states, tuple) else (states,)
        if job.state not in wanted:
            hint = f"{what} is possible while a job is {' or '.join(wanted)}"
            if what == "abort" and job.state in self._ends_by_rollback(job_id):
                hint = f"it is too late for that: use `refloat job rollback {job_id}`"
            raise Busy(
                f"job {job_id} is {job.state}: {what} is not possible", code="illegal_state", hint=hint
            )
        return job

    def _acknowledged(self, job_id: str, discard_writes: bool) -> None:
        if not discard_writes:
            raise Refused(
                f"the recovered VM of job {job_id} has run: going back discards everything it wrote",
                code="writes_not_acknowledged",
                hint="say so with --discard-writes",
            )

    def _decide(self, job_id: str, decision: str, by: str, reason: str) -> Job:
        before = self.store.job(job_id).state
        count = self._record(job_id, decision, by, reason)
        self.engine.tell(job_id, TOLD[decision], nonce=str(count))
        deadline = time.monotonic() + HEARD_WITHIN
        while (job := self.store.job(job_id)).state is before and time.monotonic() < deadline:
            time.sleep(0.1)
        return job

    def _record(self, job_id: str, what: str, by: str, reason: str) -> int:
        known = self.store.load(job_id, "decisions", tuple[OperatorDecision, ...]) or ()
        self.store.save(job_id, "decisions", (*known, OperatorDecision(by, now(), what, reason)))
        self.store.emit(job_id, "decision", {"what": what, "by": by, "reason": reason})
        return len(known)


def _only_hub(data_dir: Path) -> Any:
    """Two hubs on the same data would run each job twice at once."""
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = (data_dir / "hub.lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise Busy(
            f"another hub is using {data_dir}",
            code="hub_running",
            hint="stop it first, or give this one another data_dir",
        ) from error
    return lock


def open_hub(config: Config) -> Hub:
    hub = Hub(config, load_estate(config.estate))
    hub.open()
    return hub
