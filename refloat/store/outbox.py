"""Notices that are still to be delivered. They are written in the transaction of what they tell of."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from sqlalchemy import delete, func, select, update
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from refloat.clock import now
from refloat.codec import decode, encode
from refloat.errors import RefloatError
from refloat.model import ControllerHealth, HealthState, JobState, Mode, Word
from refloat.notices import ALARMS, Alarm, Kind, Notice, controller_detail, of_state
from refloat.store.tables import AlarmRow, AttemptRow, JobRow, OutboxRow, RecordRow

WAITING, DELIVERED, GIVEN_UP = "waiting", "delivered", "given_up"


@dataclass(frozen=True)
class Parcel:
    """One notice on its way to one channel. `attempts` were made so far, `error` is the last one's."""

    id: int
    channel: str
    notice: Notice
    state: str
    attempts: int
    next_try: str
    error: str
    ended: str


@dataclass(frozen=True)
class Tally:
    """Of one channel: how many are in which state, and its newest of each (instants, or empty)."""

    waiting: int = 0
    delivered: int = 0
    given_up: int = 0
    oldest_waiting: str = ""
    last_delivered: str = ""
    last_error: str = ""


class Outbox:
    """`wanted` says which kinds each channel takes."""

    def __init__(self, engine: Engine, wanted: Mapping[str, frozenset[Kind]] | None = None) -> None:
        self._engine = engine
        self.wanted = dict(wanted or {})

    def asked_for(self, kinds: Iterable[Kind]) -> bool:
        return any(kind in taken for kind in kinds for taken in self.wanted.values())

    # ------------------------------------------------------------ within somebody's transaction

    def put(self, session: Session, notice: Notice) -> None:
        for channel, kinds in self.wanted.items():
            if notice.kind in kinds:
                row = OutboxRow(
                    channel=channel,
                    notice=encode(notice),
                    state=WAITING,
                    attempts=0,
                    next_try=notice.at,
                    created=notice.at,
                )
                session.add(row)

    def job_enters(
        self, session: Session, job: JobRow, before: JobState | None, error: RefloatError | None
    ) -> None:
        """The job is in its new state already, in this transaction."""
        verdict = _verdict(session, job.id)
        code = error.code if error else ""
        kind = of_state(JobState(job.state), before, code, job.abort_requested, verdict)
        if kind is None or not self.asked_for((kind,)):
            return
        step = _failed_step(session, job.id) if code else ""
        self.put(session, _of_job(job, kind, verdict, step, code))

    def reminder(self, session: Session, job_id: str) -> None:
        job = session.get(JobRow, job_id)
        if job is not None and self.asked_for((Kind.REMINDER,)):
            self.put(session, _of_job(job, Kind.REMINDER, _verdict(session, job_id)))

    def controller_is(self, session: Session, target: str, health: ControllerHealth) -> None:
        self._alarm(
            session, target, Alarm.CONTROLLER, health.state is not HealthState.OK, controller_detail(health)
        )

    def _alarm(self, session: Session, target: str, alarm: Alarm, up: bool, detail: str) -> None:
        """A notice where this is news; the alarm itself is kept in the same transaction."""
        if not self.asked_for(ALARMS[alarm]):
            return
        known = session.get(AlarmRow, (target, alarm))
        if up == (known is not None):
            return
        if known is None:
            session.add(AlarmRow(target=target, alarm=alarm, since=now()))
        else:
            session.delete(known)
        begins, over = ALARMS[alarm]
        self.put(session, Notice(_new_id(), begins if up else over, now(), target, detail=detail))

    # ------------------------------------------------------------ alarms that no other change brings

    def alarm(self, target: str, alarm: Alarm, up: bool, detail: str) -> None:
        with Session(self._engine) as session, session.begin():
            self._alarm(session, target, alarm, up, detail)

    def alarms(self, alarm: Alarm) -> set[str]:
        """The targets for which it is up."""
        with Session(self._engine) as session:
            return set(session.scalars(select(AlarmRow.target).where(AlarmRow.alarm == alarm)))

    def forget(self, target: str, alarm: Alarm) -> None:
        """Of a target that is no more: nobody is told."""
        with Session(self._engine) as session, session.begin():
            session.execute(delete(AlarmRow).where(AlarmRow.target == target, AlarmRow.alarm == alarm))

    # ------------------------------------------------------------ delivery

    def due(self, channel: str, at: str, limit: int = 20) -> list[Parcel]:
        """Those to be tried now, oldest first."""
        wanted = (
            select(OutboxRow)
            .where(OutboxRow.channel == channel, OutboxRow.state == WAITING, OutboxRow.next_try <= at)
            .order_by(OutboxRow.id)
            .limit(limit)
        )
        with Session(self._engine) as session:
            return [_parcel(row) for row in session.scalars(wanted)]

    def delivered(self, parcel: int) -> None:
        self._set(parcel, state=DELIVERED, ended=now(), error="")

    def failed(self, parcel: int, error: str, next_try: str) -> None:
        """`next_try` empty: it is given up."""
        values = {"next_try": next_try} if next_try else {"state": GIVEN_UP, "ended": now()}
        self._set(parcel, error=error, **values)

    def _set(self, parcel: int, **values: str) -> None:
        with Session(self._engine) as session, session.begin():
            changed = update(OutboxRow).where(OutboxRow.id == parcel)
            session.execute(changed.values(attempts=OutboxRow.attempts + 1, **values))

    def orphans(self) -> list[Parcel]:
        """Those for channels that the settings do not name any more."""
        wanted = select(OutboxRow).where(
            OutboxRow.state == WAITING, OutboxRow.channel.not_in(tuple(self.wanted))
        )
        with Session(self._engine) as session:
            return [_parcel(row) for row in session.scalars(wanted.order_by(OutboxRow.id).limit(100))]

    def prune(self, before: str) -> None:
        """Forgets what ended before that instant."""
        over = (OutboxRow.state != WAITING, OutboxRow.ended < before)
        with Session(self._engine) as session, session.begin():
            session.execute(delete(OutboxRow).where(*over))

    # ------------------------------------------------------------ to be shown

    def tallies(self) -> dict[str, Tally]:
        """By channel, those of the settings and those that left something behind."""
        counted = select(
            OutboxRow.channel,
            OutboxRow.state,
            func.count(),
            func.min(OutboxRow.created),
            func.max(OutboxRow.ended),
        ).group_by(OutboxRow.channel, OutboxRow.state)
        found = {channel: Tally() for channel in self.wanted}
        with Session(self._engine) as session:
            for channel, state, count, created, ended in session.execute(counted):
                shown: dict[str, int | str] = {state: count}
                if state == WAITING:
                    shown["oldest_waiting"] = created
                elif state == DELIVERED:
                    shown["last_delivered"] = ended
                found[channel] = replace(found.get(channel, Tally()), **shown)  # type: ignore[arg-type]
            for channel, tally in found.items():
                found[channel] = replace(tally, last_error=_last_error(session, channel))
        return found


def _last_error(session: Session, channel: str) -> str:
    """Of what was not delivered, or not yet."""
    failed = (OutboxRow.channel == channel, OutboxRow.state != DELIVERED, OutboxRow.error != "")
    newest = select(OutboxRow.error).where(*failed).order_by(OutboxRow.id.desc()).limit(1)
    return session.scalars(newest).one_or_none() or ""


def _new_id() -> str:
    return secrets.token_hex(16)


def _of_job(job: JobRow, kind: Kind, verdict: Word | None, step: str = "", error: str = "") -> Notice:
    return Notice(
        id=_new_id(),
        kind=kind,
        at=now(),
        target=job.target,
        job=job.id,
        mode=Mode(job.mode),
        state=JobState(job.state),
        verdict=verdict,
        step=step,
        error=error,
    )


def _verdict(session: Session, job: str) -> Word | None:
    row = session.get(RecordRow, (job, "verdict"))
    return None if row is None else Word(row.data["value"]["word"])


def _failed_step(session: Session, job: str) -> str:
    """The last attempt's, where that failed."""
    last = session.scalars(
        select(AttemptRow).where(AttemptRow.job == job).order_by(AttemptRow.id.desc()).limit(1)
    ).one_or_none()
    return last.step if last is not None and last.error else ""


def _parcel(row: OutboxRow) -> Parcel:
    return Parcel(
        row.id,
        row.channel,
        decode(Notice, row.notice),
        row.state,
        row.attempts,
        row.next_try,
        row.error,
        row.ended,
    )
