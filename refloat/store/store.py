"""What the hub remembers: targets, jobs with their steps, records and events.

Every call is one short transaction.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Update, and_, create_engine, event, or_, select, tuple_, update
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from refloat.clock import now
from refloat.codec import decode, encode
from refloat.errors import Busy, NotFound, RefloatError, Refused
from refloat.model import (
    FINAL,
    ControllerHealth,
    HealthState,
    JobState,
    Mode,
    Readiness,
    SourceVM,
    SyncPoint,
    TargetState,
)
from refloat.store import KEY_FILE
from refloat.store.outbox import Outbox
from refloat.store.seal import Keys, Seal
from refloat.store.sealed import RECORDS, opened_record, sealed_record, take_seal
from refloat.store.sound import require_sound
from refloat.store.tables import AttemptRow, EventRow, JobRow, RecordRow, StartRow, TargetRow

T = TypeVar("T")
ANY = frozenset(TargetState)
REMINDER = "reminder"  # the event that nobody decided in time


@dataclass(frozen=True)
class TargetStatus:
    """What is known of a target now, beside what the estate says of it."""

    name: str
    state: TargetState
    holder: str
    message: str
    sync_point: SyncPoint | None
    progress: dict[str, Any] | None
    paused: bool = False
    sync_started: str = ""
    inventory: SourceVM | None = None
    readiness: Readiness | None = None
    health: ControllerHealth | None = None


@dataclass(frozen=True)
class Job:
    id: str
    target: str
    mode: Mode
    state: JobState
    created: str
    finished: str
    abort_requested: bool
    error: dict[str, Any] | None


@dataclass(frozen=True)
class Attempt:
    """One attempt at a step. Without `finished` it is under way, or was interrupted if another follows."""

    number: int
    started: str
    finished: str
    error: dict[str, Any] | None


@dataclass(frozen=True)
class StepRecord:
    """A step in one phase: begun with its first attempt, its outcome is the last one's."""

    step: str
    phase: str
    started: str
    finished: str
    attempts: int
    error: dict[str, Any] | None
    history: tuple[Attempt, ...] = ()


@dataclass(frozen=True)
class Event:
    id: int
    job: str
    at: str
    kind: str
    data: dict[str, Any] = field(default_factory=dict)


class Store:
    """`seal` keeps its secrets; a store that is only looked at may be without."""

    def __init__(self, engine: Engine, seal: Seal | None = None) -> None:
        self.engine = engine
        self._seal = seal
        self.outbox = Outbox(engine)  # the hub's settings say who is to be told

    @property
    def seal(self) -> Seal:
        assert self._seal is not None, "this store was opened to look at it"
        return self._seal

    @staticmethod
    def open(file: Path, keys: Keys | None = None) -> Store:
        """The store in this SQLite file, brought to the newest schema. Its key is beside it, unless `keys`
        says otherwise. Raises Refused (store_damaged, seal_key)."""
        from refloat.store.migrate import upgrade

        require_sound(file)
        file.parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(f"sqlite:///{file}", connect_args={"timeout": 30})

        @event.listens_for(engine, "connect")
        def _pragmas(connection: Any, _: Any) -> None:
            # A mark must survive a power cut before the step acts: FULL syncs at each commit.
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
                connection.execute(f"PRAGMA {pragma}")

        upgrade(engine)
        return Store(engine, take_seal(engine, keys or Keys(file.with_name(KEY_FILE))))

    @staticmethod
    def on(engine: Engine, keys: Keys) -> Store:
        """The store in this PostgreSQL database (postgres.py), brought to the newest schema."""
        from refloat.store.migrate import upgrade

        upgrade(engine)
        return Store(engine, take_seal(engine, keys))

    @contextmanager
    def _session(self) -> Iterator[Session]:
        with Session(self.engine) as session, session.begin():
            yield session

    # ------------------------------------------------------------ targets

    def ensure_target(self, name: str) -> None:
        """Makes the target's row where there is none; a known target keeps its state."""
        with self._session() as session:
            if session.get(TargetRow, name) is None:
                session.add(TargetRow(name=name, state=TargetState.PROVISIONING))

    def target(self, name: str) -> TargetStatus:
        with self._session() as session:
            return _target(_known(session.get(TargetRow, name), "target", name))

    def targets(
        self,
        names: Collection[str],
        limit: int | None = None,
        state: TargetState | None = None,
        health: HealthState | None = None,
    ) -> list[TargetStatus]:
        """Those of these names that are in this state, by name; and whose controller is."""
        wanted = select(TargetRow).where(TargetRow.name.in_(names)).order_by(TargetRow.name).limit(limit)
        if state is not None:
            wanted = wanted.where(TargetRow.state == state)
        if health is not None:
            wanted = wanted.where(TargetRow.health_state == health)
        with self._session() as session:
            return [_target(row) for row in session.scalars(wanted)]

    def claim_target(
        self, name: str, holder: str, state: TargetState, allowed: Collection[TargetState] = ANY
    ) -> None:
        """Takes a free target for one holder, atomically. The same holder may claim again.

        Raises Busy naming the holder, Refused (target_not_ready) for a free target in a state that is not
        `allowed`, NotFound for an unknown target.
        """
        with self._session() as session:
            _claim(session, name, holder, state, allowed)

    def release_target(self, name: str, holder: str, state: TargetState, message: str = "") -> None:
        """Gives the target back; a no-op for anyone but its holder."""
        with self._session() as session:
            _release(session, name, holder, state, message)

    def save_sync_point(self, name: str, point: SyncPoint | None) -> None:
        """None: the replica is not to be trusted; the next sync is a full one."""
        with self._session() as session:
            _known(session.get(TargetRow, name), "target", name).sync_point = encode(point)

    def save_inventory(self, name: str, source: SourceVM) -> None:
        with self._session() as session:
            _known(session.get(TargetRow, name), "target", name).inventory = encode(source)

    def save_readiness(self, name: str, readiness: Readiness | None) -> None:
        with self._session() as session:
            _known(session.get(TargetRow, name), "target", name).readiness = encode(readiness)

    def save_health(self, name: str, health: ControllerHealth) -> None:
        with self._session() as session:
            row = _known(session.get(TargetRow, name), "target", name)
            row.health, row.health_state = encode(health), health.state
            self.outbox.controller_is(session, name, health)

    def set_paused(self, name: str, paused: bool) -> None:
        """Whether syncs by schedule or by request are held back. A sync under way goes on to its end."""
        with self._session() as session:
            _known(session.get(TargetRow, name), "target", name).paused = paused

    def sync_begins(self, name: str) -> None:
        with self._session() as session:
            _known(session.get(TargetRow, name), "target", name).sync_started = now()

    def save_progress(self, name: str, progress: dict[str, Any]) -> None:
        with self._session() as session:
            _known(session.get(TargetRow, name), "target", name).progress = progress

    def held_targets(self, prefix: str) -> list[TargetStatus]:
        """Targets whose holder starts with `prefix`: what a killed hub left claimed."""
        with self._session() as session:
            rows = session.scalars(select(TargetRow).where(TargetRow.holder.startswith(prefix)))
            return [_target(row) for row in rows]

    # ------------------------------------------------------------ jobs

    def create_job(
        self,
        target: str,
        mode: Mode,
        allowed: Collection[TargetState] = ANY,
        start: tuple[str, str, str] | None = None,
    ) -> Job:
        """A queued job that holds its target: both or neither. Raises as `claim_target`. `start` is who
        asked, with which key of their own, for what: see `started`."""
        job_id = f"{target}-{secrets.token_hex(3)}"
        with self._session() as session:
            _claim(session, target, job_id, TargetState.FAILOVER, allowed)
            row = JobRow(id=job_id, target=target, mode=mode, state=JobState.QUEUED, created=now())
            session.add(row)
            session.flush()
            if start is not None:
                who, key, asked = start
                session.add(StartRow(who=who, key=key, asked=_digest(asked), job=job_id, at=now()))
            return _job(row)

    def started(self, who: str, key: str, asked: str) -> Job | None:
        """The job that this start made when it was asked for the first time. Raises Refused where the key
        was used for something else."""
        with self._session() as session:
            known = session.get(StartRow, (who, key))
            if known is None:
                return None
            if known.asked != _digest(asked):
                raise Refused(
                    f"the idempotency key {key} was used for another start (job {known.job})",
                    code="bad_key",
                    hint="use a new key for each start",
                )
            return _job(_known(session.get(JobRow, known.job), "job", known.job))

    def job(self, job_id: str) -> Job:
        with self._session() as session:
            return _job(_known(session.get(JobRow, job_id), "job", job_id))

    def jobs(
        self, limit: int = 200, before: str = "", target: str = "", state: JobState | None = None
    ) -> list[Job]:
        """Newest first: those older than the job `before`."""
        wanted = select(JobRow).order_by(JobRow.created.desc(), JobRow.id.desc()).limit(limit)
        if target:
            wanted = wanted.where(JobRow.target == target)
        if state is not None:
            wanted = wanted.where(JobRow.state == state)
        with self._session() as session:
            if before:
                last = _known(session.get(JobRow, before), "job", before)
                wanted = wanted.where(tuple_(JobRow.created, JobRow.id) < (last.created, last.id))
            return [_job(row) for row in session.scalars(wanted)]

    def unfinished_jobs(self) -> list[Job]:
        """All that an operator or the engine still has to bring to an end."""
        with self._session() as session:
            return [_job(row) for row in session.scalars(select(JobRow).where(JobRow.state.not_in(FINAL)))]

    def set_state(
        self,
        job_id: str,
        state: JobState,
        error: RefloatError | None = None,
        release: TargetState | None = None,
        before: JobState | None = None,
        unless_aborted: bool = False,
    ) -> bool:
        """Writes the state as it is told: failover.py decides which transitions are legal.

        `release`: the job gives its target back in the same transaction, in this state. `before`: only
        from this state; `unless_aborted`: only while the abort is not asked for. Returns False, with
        nothing changed, where that was not so.
        """
        values: dict[str, Any] = {"state": state}
        if error is not None:
            values["error"] = error.to_dict()
        if state in FINAL:
            values["finished"] = now()
        entered = update(JobRow).where(JobRow.id == job_id).values(**values)
        if before is not None:
            entered = entered.where(JobRow.state == before)
        if unless_aborted:
            entered = entered.where(JobRow.abort_requested.is_(False))
        with self._session() as session:
            changed = _changed(session, entered)
            row = _known(session.get(JobRow, job_id), "job", job_id)
            if not changed:
                return False
            session.add(EventRow(job=job_id, at=now(), kind="state", data={"state": str(state)}))
            self.outbox.job_enters(session, row, before, error)
            if release is not None:
                _release(session, row.target, job_id, release, error.message if error else "")
            return True

    def request_abort(
        self, job_id: str, allowed: Collection[JobState] = frozenset(JobState), unless_begun: str = ""
    ) -> bool:
        """Asks the job to end, in one statement: only in these states, and (`unless_begun`) only while
        this step has no mark. So a step that looks for the abort after its mark never misses one that
        was accepted without knowing of it. Returns False where that was not so."""
        begun = select(AttemptRow.id).where(
            AttemptRow.job == job_id, AttemptRow.step == unless_begun, AttemptRow.phase == "do"
        )
        asked = (
            update(JobRow)
            .where(JobRow.id == job_id, JobRow.state.in_(allowed), ~begun.exists())
            .values(abort_requested=True)
        )
        with self._session() as session:
            return _changed(session, asked)

    # ------------------------------------------------------------ records

    def save(self, job_id: str, name: str, record: Any) -> None:
        """Keeps a record under the job; the same name replaces it."""
        value = encode(record)
        sealed = name in RECORDS
        data = sealed_record(self.seal, job_id, name, value) if sealed else {"value": value}
        with self._session() as session:
            session.merge(RecordRow(job=job_id, name=name, data=data))

    def load(self, job_id: str, name: str, kind: type[T]) -> T | None:
        with self._session() as session:
            row = session.get(RecordRow, (job_id, name))
            if row is None:
                return None
            sealed = "sealed" in row.data
            value = opened_record(self.seal, row) if sealed else row.data["value"]
            return decode(kind, value, where=name)

    # ------------------------------------------------------------ steps

    def mark(self, job_id: str, step: str, phase: str) -> bool:
        """Says durably that the step is about to act. False when it has already finished."""
        with self._session() as session:
            last = _last_attempt(session, job_id, step, phase)
            if last is not None and last.finished and not last.error:
                return False
            number = last.number + 1 if last else 1
            session.add(AttemptRow(job=job_id, step=step, phase=phase, number=number, started=now()))
            session.add(EventRow(job=job_id, at=now(), kind="step", data={"step": step, "phase": phase}))
            return True

    def finish(self, job_id: str, step: str, phase: str, error: RefloatError | None = None) -> None:
        """Ends the attempt that the last `mark` began."""
        with self._session() as session:
            row = _known(_last_attempt(session, job_id, step, phase), "step", step)
            row.finished, row.error = now(), error.to_dict() if error else None
            data = {"step": step, "phase": phase, "error": row.error}
            session.add(EventRow(job=job_id, at=now(), kind="step_done", data=data))

    def steps(self, job_id: str) -> list[StepRecord]:
        """In the order in which they were begun, each with every attempt at it."""
        known: dict[tuple[str, str], list[Attempt]] = {}
        with self._session() as session:
            for row in session.scalars(
                select(AttemptRow).where(AttemptRow.job == job_id).order_by(AttemptRow.id)
            ):
                attempt = Attempt(row.number, row.started, row.finished, row.error)
                known.setdefault((row.step, row.phase), []).append(attempt)
        return [_step(step, phase, tuple(attempts)) for (step, phase), attempts in known.items()]

    # ------------------------------------------------------------ events

    def emit(self, job_id: str, kind: str, data: dict[str, Any]) -> None:
        with self._session() as session:
            session.add(EventRow(job=job_id, at=now(), kind=kind, data=data))
            if kind == REMINDER:
                self.outbox.reminder(session, job_id)

    def events(self, job_id: str, after: int = 0, limit: int = 500) -> Sequence[Event]:
        with self._session() as session:
            rows = session.scalars(
                select(EventRow)
                .where(EventRow.job == job_id, EventRow.id > after)
                .order_by(EventRow.id)
                .limit(limit)
            )
            return [Event(row.id, row.job, row.at, row.kind, row.data) for row in rows]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _known(row: T | None, kind: str, name: str) -> T:
    if row is None:
        raise NotFound(
            f"unknown {kind}: {name}",
            code=f"unknown_{kind}",
            hint=f"list the known ones with `refloat {kind} list`",
        )
    return row


def _changed(session: Session, statement: Update) -> bool:
    return bool(session.execute(statement).rowcount)  # type: ignore[attr-defined]


def _claim(
    session: Session, name: str, holder: str, state: TargetState, allowed: Collection[TargetState]
) -> None:
    free = and_(TargetRow.holder == "", TargetRow.state.in_(allowed))
    taken = (
        update(TargetRow)
        .where(TargetRow.name == name, or_(free, TargetRow.holder == holder))
        .values(holder=holder, state=state, message="", progress=None)
    )
    if _changed(session, taken):
        return
    row = _known(session.get(TargetRow, name), "target", name)
    if not row.holder:
        raise Refused(
            f"target {name} is {row.state}: {row.message or 'it cannot be used now'}",
            code="target_not_ready",
            hint=f"look at `refloat target show {name}`",
        )
    raise Busy(
        f"target {name} is busy with {row.holder}",
        code="target_busy",
        hint="wait until that is finished, or look at it with `refloat job list`",
    )


def _release(session: Session, name: str, holder: str, state: TargetState, message: str) -> None:
    session.execute(
        update(TargetRow)
        .where(TargetRow.name == name, TargetRow.holder == holder)
        .values(holder="", state=state, message=message, progress=None)
    )


def _last_attempt(session: Session, job_id: str, step: str, phase: str) -> AttemptRow | None:
    return session.scalars(
        select(AttemptRow)
        .where(AttemptRow.job == job_id, AttemptRow.step == step, AttemptRow.phase == phase)
        .order_by(AttemptRow.number.desc())
        .limit(1)
    ).one_or_none()


def _step(step: str, phase: str, attempts: tuple[Attempt, ...]) -> StepRecord:
    first, last = attempts[0], attempts[-1]
    return StepRecord(step, phase, first.started, last.finished, last.number, last.error, attempts)


def _target(row: TargetRow) -> TargetStatus:
    point = decode(SyncPoint, row.sync_point) if row.sync_point else None
    state = TargetState(row.state)
    return TargetStatus(
        row.name,
        TargetState.PAUSED if row.paused and state is TargetState.READY else state,
        row.holder,
        row.message,
        point,
        row.progress,
        row.paused,
        row.sync_started,
        decode(SourceVM, row.inventory) if row.inventory else None,
        decode(Readiness, row.readiness) if row.readiness else None,
        decode(ControllerHealth, row.health) if row.health else None,
    )


def _job(row: JobRow) -> Job:
    return Job(
        id=row.id,
        target=row.target,
        mode=Mode(row.mode),
        state=JobState(row.state),
        created=row.created,
        finished=row.finished,
        abort_requested=row.abort_requested,
        error=row.error,
    )
