"""What lists and pages ask of the store: counts and single columns, each one query however much there is."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import func, select
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from refloat.store.store import Event
from refloat.store.tables import EventRow, JobRow, RecordRow, TargetRow


class Summaries:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def targets_by_state(self, names: Collection[str]) -> dict[str, int]:
        wanted = select(TargetRow.state, func.count()).where(TargetRow.name.in_(names))
        with Session(self._engine) as session:
            return {row[0]: row[1] for row in session.execute(wanted.group_by(TargetRow.state))}

    def jobs_by_state(self) -> dict[str, int]:
        wanted = select(JobRow.state, func.count()).group_by(JobRow.state)
        with Session(self._engine) as session:
            return {row[0]: row[1] for row in session.execute(wanted)}

    def verdict_words(self, jobs: Collection[str]) -> dict[str, str]:
        """By job; those without a verdict are left out."""
        word = RecordRow.data["value"]["word"].as_string()
        wanted = select(RecordRow.job, word).where(RecordRow.name == "verdict", RecordRow.job.in_(jobs))
        with Session(self._engine) as session:
            return {job: word for job, word in session.execute(wanted) if word}

    def jobs_by_verdict(self) -> dict[str, int]:
        word = RecordRow.data["value"]["word"].as_string()
        wanted = select(word, func.count()).where(RecordRow.name == "verdict").group_by(word)
        with Session(self._engine) as session:
            return {row[0]: row[1] for row in session.execute(wanted) if row[0]}

    def newest_event(self, job: str) -> int:
        """Its id; 0 for a job without any. It changes with everything that happens to the job."""
        with Session(self._engine) as session:
            return session.scalar(select(func.max(EventRow.id)).where(EventRow.job == job)) or 0

    def last_events(self, job: str, count: int) -> Sequence[Event]:
        """The newest ones, oldest first."""
        wanted = select(EventRow).where(EventRow.job == job).order_by(EventRow.id.desc()).limit(count)
        with Session(self._engine) as session:
            found = [Event(row.id, row.job, row.at, row.kind, row.data) for row in session.scalars(wanted)]
        return found[::-1]
