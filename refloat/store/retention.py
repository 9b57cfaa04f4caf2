"""Jobs that are old enough to go, and their rows. The audit log keeps what was decided of them."""

from __future__ import annotations

from sqlalchemy import delete, func, select
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session, aliased

from refloat.model import FINAL
from refloat.store.tables import (
    ApprovalRow,
    AttemptRow,
    EventRow,
    InboxRow,
    JobRow,
    RecordRow,
    StartRow,
)

_OF_A_JOB = (RecordRow, AttemptRow, EventRow, StartRow, InboxRow)


def old_jobs(engine: Engine, before: str, limit: int = 100) -> list[str]:
    """Those that ended before this instant, the oldest first; never the last one of a target."""
    newer = aliased(JobRow)
    last = select(func.max(newer.created)).where(newer.target == JobRow.target).scalar_subquery()
    ended = (JobRow.state.in_(FINAL), JobRow.finished != "", JobRow.finished < before)
    wanted = select(JobRow.id).where(*ended, JobRow.created < last).order_by(JobRow.finished).limit(limit)
    with Session(engine) as session:
        return list(session.scalars(wanted))


def delete_job(engine: Engine, job: str) -> None:
    """All of it or nothing."""
    with Session(engine) as session, session.begin():
        for table in _OF_A_JOB:
            session.execute(delete(table).where(table.job == job))
        session.execute(delete(ApprovalRow).where(ApprovalRow.subject == job))
        session.execute(delete(JobRow).where(JobRow.id == job, JobRow.state.in_(FINAL)))
