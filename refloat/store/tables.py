"""The hub's tables. What a job decided and did is kept as records, so that a restart loses nothing."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, LargeBinary, String, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    type_annotation_map = {dict[str, Any]: JSON, bytes: LargeBinary}  # noqa: RUF012 (SQLAlchemy's form)


class TargetRow(Base):
    __tablename__ = "targets"

    name: Mapped[str] = mapped_column(String, primary_key=True)
    state: Mapped[str]
    holder: Mapped[str] = mapped_column(default="")  # the job or sync that the target is busy with
    message: Mapped[str] = mapped_column(default="")
    sync_point: Mapped[dict[str, Any] | None]
    progress: Mapped[dict[str, Any] | None]
    paused: Mapped[bool] = mapped_column(default=False)
    sync_started: Mapped[str] = mapped_column(default="")  # of the last attempt, complete or not
    inventory: Mapped[dict[str, Any] | None]  # the protected VM's hardware at the last sync
    readiness: Mapped[dict[str, Any] | None]


class JobRow(Base):
    __tablename__ = "jobs"

    id: Mapped[str] = mapped_column(String, primary_key=True)
    target: Mapped[str] = mapped_column(index=True)
    mode: Mapped[str]
    state: Mapped[str]
    created: Mapped[str]
    finished: Mapped[str] = mapped_column(default="")
    abort_requested: Mapped[bool] = mapped_column(default=False)
    error: Mapped[dict[str, Any] | None]


class RecordRow(Base):
    __tablename__ = "job_records"

    job: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    data: Mapped[dict[str, Any]]


class AttemptRow(Base):
    """One attempt at one phase of a step. It is written before the step acts, so one without `finished` may
    have acted; if a later attempt follows it, the hub died in it."""

    __tablename__ = "job_attempts"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    job: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    step: Mapped[str]
    phase: Mapped[str]  # "do", "undo" or "commit"
    number: Mapped[int]  # from 1
    started: Mapped[str]
    finished: Mapped[str] = mapped_column(default="")
    error: Mapped[dict[str, Any] | None]

    __table_args__ = (UniqueConstraint("job", "step", "phase", "number", name="uq_job_attempts"),)


class EventRow(Base):
    __tablename__ = "events"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    job: Mapped[str]
    at: Mapped[str]
    kind: Mapped[str]
    data: Mapped[dict[str, Any]]

    __table_args__ = (Index("ix_events_job_id", "job", "id"),)


class InboxRow(Base):
    """A report that came by HTTPS, as it came."""

    __tablename__ = "report_inbox"

    job: Mapped[str] = mapped_column(String, primary_key=True)
    sequence: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    line: Mapped[bytes]


class ProvisionRow(Base):
    """What was made for a target through its platform's API."""

    __tablename__ = "provisions"

    target: Mapped[str] = mapped_column(String, primary_key=True)
    data: Mapped[dict[str, Any]]
