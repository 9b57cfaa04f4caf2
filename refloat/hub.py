"""What the hub can be asked to do: the one door for the API, the command line and the tests."""

from __future__ import annotations

import fcntl
import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from refloat.access import Audit, People, SecondPerson
from refloat.callback import accept
from refloat.caretaker import Caretaker, Due, Replication, decision_due, replication, sync_due
from refloat.clock import now
from refloat.config import Config
from refloat.errors import Busy, InvariantViolated, Refused
from refloat.estate import Estate
from refloat.estate.live import LiveEstate, with_steady_estate
from refloat.evidence import bundle
from refloat.failover import COMMIT, RUNS_LIVE, check_invariants
from refloat.fence import watch_source
from refloat.jobs.engine import Engine
from refloat.jobs.steps import commit_begun
from refloat.model import (
    Callback,
    Decision,
    Findings,
    HealthState,
    JobState,
    Mode,
    OperatorDecision,
    Plan,
    Sight,
    StatusChange,
    SyncPoint,
    TargetState,
    Verdict,
)
from refloat.notify.courier import Courier
from refloat.notify.replicas import ReplicaWatch
from refloat.platforms import Platforms
from refloat.policy import Policy
from refloat.preview import PlanAhead, kept, plan_ahead
from refloat.provision import Provisions, Targets
from refloat.run import Run
from refloat.store.place import place
from refloat.store.seal import Keys
from refloat.store.store import REMINDER, Event, Job, StepRecord, TargetStatus
from refloat.store.summaries import Summaries
from refloat.store.vault import Vault
from refloat.syncs import Syncs

log = logging.getLogger(__name__)

HEARD_WITHIN = 15.0  # seconds in which a waiting job takes up a decision; it is heard later all the same
# What the operator decided, as the job is told.
TOLD = {
    "commit": "commit",
    "rollback": "rollback",
    "resume-commit": "commit",
    "resume-rollback": "rollback",
}
RESTORING = "restoring"  # a file in `data_dir` while a restore is under way: backup.py
READY_FOR_FAILOVER = frozenset({TargetState.READY})
UNNAMED = "unnamed"  # a caller within this process: tests, and the lab
CARETAKER = "the hub"  # who decided, where a policy's time ran out
ABORTABLE = (JobState.QUEUED, JobState.RUNNING)


class Hub:
    """Every method raises NotFound for unknown names and Refused or Busy when nothing was done.

    Without an `estate` it has the newest version that it keeps; the file of the settings is the first one, or
    by `take_estate` the next.
    """

    callback: Callback | None = None  # where guests report by HTTPS

    def __init__(
        self,
        config: Config,
        estate: Estate | None = None,
        platforms: Platforms | None = None,
        take_estate: bool = False,
    ) -> None:
        self.data_dir = config.data_dir
        if (config.data_dir / RESTORING).exists():
            raise Refused(
                f"{config.data_dir} is half restored",
                code="half_restored",
                hint="do the restore again: `refloat restore FILE`",
            )
        self.drivers = config.drivers
        self._lock = only_hub(config.data_dir)
        try:
            self._place = place(
                config.data_dir, config.store, config.store_password_file, Keys(config.seal_key)
            )
        except BaseException:
            self._lock.close()
            raise
        self.store = self._place.store()
        self.audit = Audit(self.store.engine)
        self.estates = LiveEstate(self.store, self.audit, self._use)
        try:
            given, file = self.estates.given, config.estate
            self.estate = given(estate) if estate else self.estates.at_start(file, take_estate)
        except BaseException:
            self._let_go()
            raise
        self.vault = Vault(self.store.engine, self.store.seal)
        self.platforms = platforms or Platforms(self.estate, config.data_dir, self.vault.read)
        self.summaries = Summaries(self.store.engine)
        self.people = People(self.store.engine)
        self._second = SecondPerson(self.store.engine)
        self.engine = Engine(self._place.journal(), lambda job_id: self.run(job_id))
        self.known = Targets(self.estate, self.store)
        self.syncs = Syncs(self.known, self.platforms, self.store, config.data_dir, self._without_job)
        self.provisions = Provisions(
            self.estate, self.platforms, self.store, config.data_dir, self.syncs.first
        )
        self._caretaker = Caretaker(self)
        self.store.outbox.wanted = {channel.name: channel.events for channel in config.notify}
        watch = ReplicaWatch(self)
        self.courier = Courier(self.store.outbox, config.notify, config.url, watch.look)
        self._deciding = threading.Lock()  # one decision of an operator at a time

    def _use(self, estate: Estate) -> None:
        """Another estate, at once: LiveEstate has seen that nothing under way relies on what it changes."""
        self.known.use(estate)
        self.provisions.use(estate)
        self.platforms.use(estate)
        self.estate = estate

    def open(self) -> None:
        """Takes up everything that an earlier hub left: targets, syncs that died with it, unfinished jobs."""
        for name in self.estate.targets:
            self.store.ensure_target(name)
        self.syncs.take_up()
        self.provisions.take_up()
        unfinished = self.store.unfinished_jobs()
        for job in unfinished:
            if job.target not in self.estate.targets:
                raise Refused(
                    f"job {job.id} is {job.state}, but its target {job.target} is not in the estate",
                    code="bad_estate",
                    hint="put the target back until the job is finished",
                )
        self.engine.launch()
        for job in unfinished:
            self.engine.start(job.id)
            self._tell_again(job.id)
        self._caretaker.start()
        self.courier.start()

    def _tell_again(self, job_id: str) -> None:
        """A hub killed between recording a decision and telling the job: the job hears each only once."""
        known = self.store.load(job_id, "decisions", tuple[OperatorDecision, ...]) or ()
        if known and known[-1].what in TOLD:
            self.engine.tell(job_id, TOLD[known[-1].what], nonce=str(len(known) - 1))

    def close(self) -> None:
        """Ends running syncs (the last complete sync point stays) and stops. Jobs go on at the next start."""
        self._caretaker.stop()
        self.courier.stop()
        self.provisions.close()
        self.syncs.close()
        self.engine.close()
        self._let_go()

    def _let_go(self) -> None:
        self.store.engine.dispose()
        self._place.close()
        self._lock.close()

    def troubles(self) -> list[str]:
        """Why this hub cannot do its work now; empty: it can."""
        found = [] if self._caretaker.alive() else ["the caretaker does not run: no syncs, no deadlines"]
        if not self.engine.alive():
            found.append("the job engine does not run")
        try:
            self.summaries.jobs_by_state()
        except SQLAlchemyError as error:
            found.append(f"the store does not answer: {type(error).__name__}")
        return found

    # ------------------------------------------------------------ targets

    def targets(
        self,
        limit: int | None = None,
        after: str = "",
        search: str = "",
        state: TargetState | None = None,
        health: HealthState | None = None,
    ) -> list[TargetStatus]:
        """By name: those of the estate after `after` whose name has `search` in it."""
        names = [name for name in self.estate.targets if name > after and search.lower() in name.lower()]
        return self.store.targets(names, limit, state, health)

    def target(self, name: str) -> TargetStatus:
        self.estate.target(name)
        return self.store.target(name)

    def replication(self, name: str) -> Replication:
        """How fresh the replica is now."""
        return self.replication_of(self.target(name))

    def replication_of(self, target: TargetStatus) -> Replication:
        return replication(target, self._policy(target.name), now())

    def plan(self, name: str, mode: Mode) -> PlanAhead:
        """What a failover would do by the last look at the replica. Asks nobody. Raises NotFound where there
        was none, Refused (network_unmapped) where the estate file leads an adapter nowhere."""
        known = kept(self.data_dir / "targets" / self.estate.target(name).name)
        return plan_ahead(name, known, mode, self.estate.networks(), self._policy(name))

    @with_steady_estate
    def start_sync(self, name: str, full: bool = False, by: str = "") -> None:
        """Starts a sync in the background; its progress and outcome are in the target's status. Without
        `by` it is one of the schedule's: nobody's decision."""
        self.known.target(name)
        if by:
            self.audit.record(by, "sync", name, full=full)
        self.syncs.start(name, full)

    @with_steady_estate
    def add_target(self, name: str, by: str = UNNAMED) -> None:
        """Makes the target's controller and its first sync, in the background: see provision.py."""
        self.estate.target(name)
        self.audit.record(by, "target-add", name)
        self.provisions.add(name)

    @with_steady_estate
    def remove_target(self, name: str, by: str = UNNAMED) -> None:
        self.audit.record(by, "target-remove", name)
        self.provisions.remove(name)

    def pause(self, name: str, by: str = UNNAMED) -> TargetStatus:
        self.estate.target(name)
        self.audit.record(by, "pause", name)
        return self.syncs.pause(name)

    def resume_replication(self, name: str, by: str = UNNAMED) -> TargetStatus:
        self.estate.target(name)
        self.audit.record(by, "resume", name)
        return self.syncs.resume(name)

    def synchronise(self, name: str, cancelled: Callable[[], bool]) -> SyncPoint:
        return self.syncs.synchronise(name, cancelled)

    def _policy(self, name: str) -> Policy:
        return self.estate.policy(self.estate.target(name).policy)

    # ------------------------------------------------------------ by itself

    def made_targets(self) -> list[TargetStatus]:
        return [one for one in self.targets() if self.known.is_made(one.name)]

    def due_syncs(self) -> list[str]:
        at = now()
        return [one.name for one in self.made_targets() if sync_due(one, self._policy(one.name), at)]

    def waiting_jobs(self) -> list[str]:
        waiting = (JobState.TEST_ACTIVE, JobState.AWAITING_COMMIT)
        return [job.id for job in self.store.unfinished_jobs() if job.state in waiting]

    def take_care(self, job_id: str) -> None:
        """Of a job that waits for its operator: the source that ought to be off, and what nobody decided."""
        run = self.run(job_id)
        job, settled = self.store.job(job_id), run.once("settled", str, now)
        if job.state is JobState.AWAITING_COMMIT:
            watch_source(run)
        due = decision_due(job, settled, run.policy, now(), run.load("reminded", bool) or False)
        if due is Due.REMIND:
            message = "the commit deadline is over: commit or roll back"
            self.store.emit(job_id, REMINDER, {"message": message})
            run.save("reminded", True)  # after it: a hub killed in between reminds once more
        elif due is Due.ROLLBACK:
            self.rollback(job_id, CARETAKER, discard_writes=True, reason="its time by policy is over")
        elif due is Due.COMMIT:
            self.commit(job_id, CARETAKER, reason="its time by policy is over")

    # ------------------------------------------------------------ jobs

    @with_steady_estate
    def start_failover(
        self,
        target: str,
        mode: Mode,
        override: OperatorDecision | None = None,
        by: str = UNNAMED,
        key: str = "",
    ) -> Job:
        """`override` is an operator's word that the source does not run, for an emergency in which nobody
        answers there. Asked again with the same `key` of the client's own, it is the same job."""
        self.known.target(target)
        asked = f"{target} {mode} {override.reason if override else ''}"
        if key and (known := self.store.started(by, key, asked)):
            return known
        if override is not None and mode is not Mode.EMERGENCY:
            raise Refused(
                f"that the source is off is asked of its platform in a {mode} failover",
                code="override_unused",
                hint="leave the override out, or use --mode emergency",
            )
        status = self.store.target(target)
        if not status.holder and status.state not in (*READY_FOR_FAILOVER, TargetState.PAUSED):
            raise Refused(
                f"target {target} is {status.state}: {status.message or 'it has no complete sync point'}",
                code="target_not_ready",
                hint=f"look at `refloat target show {target}`",
            )
        if override is not None:
            self._two_people(target, "override", by, override.reason, self._policy(target))
        job = self.store.create_job(target, mode, READY_FOR_FAILOVER, (by, key, asked) if key else None)
        self.audit.record(by, "start", job.id, override.reason if override else "", mode=mode, target=target)
        if override is not None:
            self.store.save(job.id, "override", override)
            said = {"what": "override", "by": override.who, "reason": override.reason}
            self.store.emit(job.id, "decision", said)
        self.store.save(job.id, "policy", self._policy(target))
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

    def jobs(
        self, limit: int = 200, before: str = "", target: str = "", state: JobState | None = None
    ) -> list[Job]:
        """Newest first: those older than the job `before`."""
        return self.store.jobs(limit, before, target, state)

    def job(self, job_id: str) -> Job:
        return self.store.job(job_id)

    def steps(self, job_id: str) -> list[StepRecord]:
        self.store.job(job_id)
        return self.store.steps(job_id)

    def events(self, job_id: str, after: int = 0) -> Sequence[Event]:
        self.store.job(job_id)
        return self.store.events(job_id, after)

    def take_report(self, job_id: str, body: bytes) -> int:
        """A report that came by HTTPS: the number to acknowledge. Raises ReportRejected."""
        return accept(self.store, job_id, body)

    def commit(self, job_id: str, by: str, reason: str = "") -> Job:
        """One-way: the recovered VM becomes the protected VM's successor."""
        with self._deciding:
            self._require(job_id, JobState.AWAITING_COMMIT, "commit")
            try:
                check_invariants(self.run(job_id), before=COMMIT[0].name)
            except InvariantViolated as error:
                raise Refused(error.message, code=error.code, hint=error.hint) from error
            self._two_people(job_id, "commit", by, reason, self.run(job_id).policy)
            return self._decide(job_id, "commit", by, reason)

    def rollback(self, job_id: str, by: str, discard_writes: bool, reason: str = "") -> Job:
        """Back to replication. What the recovered VM wrote is discarded: that must be acknowledged."""
        with self._deciding:
            self._require(job_id, self._ends_by_rollback(job_id), "rollback")
            if self.store.job(job_id).mode is not Mode.TEST:
                self._acknowledged(job_id, discard_writes)
                self._two_people(job_id, "rollback", by, reason, self.run(job_id).policy)
            return self._decide(job_id, "rollback", by, reason)

    def abort(self, job_id: str, by: str, discard_writes: bool = False, reason: str = "") -> Job:
        """Ends a job that is under way: its steps are undone. An abort that is accepted is never lost; one
        that comes too late is refused, and says what to do instead."""
        with self._deciding:
            # The job goes on meanwhile: that it may still be aborted is part of asking, not a look before.
            live = self.store.job(job_id).mode is not Mode.TEST
            if not self.store.request_abort(job_id, ABORTABLE, RUNS_LIVE if live else ""):
                self._require(job_id, ABORTABLE, "abort")
                self._acknowledged(job_id, discard_writes)
                # It loses what a rollback loses: asked a little earlier, it needs as many people.
                self._two_people(job_id, "rollback", by, reason, self.run(job_id).policy)
                if not self.store.request_abort(job_id, ABORTABLE):
                    self._require(job_id, ABORTABLE, "abort")
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

    def console(self, job_id: str) -> tuple[Sight, ...]:
        """What was recognised on the recovered VM's console so far, in order."""
        return (self.store.load(job_id, "findings", Findings) or Findings()).console

    def evidence(self, job_id: str) -> dict[str, Any]:
        """The bundle as data. Its seal is kept: a file that says otherwise did not come from here."""
        found = bundle(self.store, job_id, self.data_dir)
        self.store.emit(job_id, "evidence", {"seal": found["seal"]})
        return found

    # ------------------------------------------------------------ how

    def run(self, job_id: str) -> Run:
        """What a job's steps are given."""
        job = self.store.job(job_id)
        return self._run(job_id, job.target, job.mode, self.store.load(job_id, "policy", Policy))

    def _without_job(self, target: str) -> Run:
        """For looking only: what has no job keeps no records."""
        return self._run("", target, Mode.PLANNED, None)

    def _run(self, job_id: str, name: str, mode: Mode, policy: Policy | None) -> Run:
        target = self.known.target(name)
        return Run(
            job=job_id,
            mode=mode,
            target=target,
            policy=policy or self._policy(name),
            networks=self.estate.networks(),
            source=self.platforms.source(target.source_site),
            destination=self.platforms.destination(target.site),
            controller=self.platforms.controller(target),
            store=self.store,
            data_dir=self.data_dir,
            synchronise=lambda cancelled: self.synchronise(name, cancelled),
            drivers=self.drivers,
            callback=self.callback,
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

    def _two_people(self, subject: str, what: str, by: str, reason: str, policy: Policy) -> None:
        """Raises Refused (second_person) after the first word of two, where the policy wants them. What the
        policy itself decides in time needs nobody."""
        if what not in policy.second_person or by == CARETAKER:
            return
        self.audit.record(by, f"{what}?", subject, reason)
        self._second.agree(subject, what, by, reason)

    def _record(self, job_id: str, what: str, by: str, reason: str) -> int:
        self.audit.record(by, what, job_id, reason)
        known = self.store.load(job_id, "decisions", tuple[OperatorDecision, ...]) or ()
        self.store.save(job_id, "decisions", (*known, OperatorDecision(by, now(), what, reason)))
        self.store.emit(job_id, "decision", {"what": what, "by": by, "reason": reason})
        return len(known)


def only_hub(data_dir: Path) -> Any:
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


def open_hub(config: Config, callback: Callback | None = None, take_estate: bool = False) -> Hub:
    hub = Hub(config, take_estate=take_estate)
    hub.callback = callback
    hub.open()
    return hub
